"""Support updates: the blur against scipy, growth against distances, the border's invariants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from torch import Tensor

from cdi_stream.phasing.support import border_support, grow, smooth, threshold_support

REPEATABLE = settings(max_examples=100, deadline=None, derandomize=True, database=None)
SHAPES = st.tuples(st.integers(1, 8), st.integers(1, 8))
MASKS = SHAPES.flatmap(lambda shape: arrays(bool, shape)).map(torch.from_numpy)


def noise(shape: tuple[int, ...], seed: int = 8) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ball(shape: tuple[int, ...], radius: float) -> Tensor:
    steps = torch.meshgrid(*[torch.fft.fftfreq(n) * n for n in shape], indexing="ij")
    return sum(step.square() for step in steps).sqrt() <= radius


@pytest.mark.parametrize("shape", [(24,), (24, 21), (20, 21, 22), (21, 20, 23)])
def test_the_blur_is_that_of_scipy_with_periodic_edges(shape):
    amplitude = noise(shape)
    expected = ndimage.gaussian_filter(amplitude.numpy(), 1.5, mode="wrap", truncate=6)
    np.testing.assert_allclose(smooth(amplitude, 1.5), expected, atol=1e-4)


def test_the_blur_keeps_the_sum_and_none_is_none():
    amplitude = noise((6, 7, 8))
    torch.testing.assert_close(smooth(amplitude, 2.0).sum(), amplitude.sum())
    torch.testing.assert_close(smooth(amplitude, 0.0), amplitude)


def test_the_threshold_is_relative_to_the_blurred_maximum():
    amplitude = noise((8, 9, 10))
    blurred = smooth(amplitude, 1.0)
    support = threshold_support(amplitude, 0.8, 1.0)
    assert torch.equal(support, blurred > 0.8 * blurred.max())
    assert torch.equal(support, threshold_support(1e6 * amplitude, 0.8, 1.0))


@given(MASKS)
@REPEATABLE
def test_a_higher_threshold_never_adds(mask):
    amplitude = mask.double() + noise(tuple(mask.shape))
    low, high = (threshold_support(amplitude, threshold, 1.0) for threshold in (0.3, 0.6))
    assert not (high & ~low).any()


@pytest.mark.parametrize("n_vox", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(9,), (8, 9), (7, 8, 9)])
def test_a_point_grows_to_all_within_as_many_steps_along_the_axes(shape, n_vox):
    point = torch.zeros(shape, dtype=torch.bool)
    point.view(-1)[0] = True
    steps = torch.meshgrid(*[(torch.fft.fftfreq(n) * n).abs() for n in shape], indexing="ij")
    assert torch.equal(grow(point, n_vox), sum(steps) < n_vox + 0.5)


@given(MASKS)
@REPEATABLE
def test_growing_adds_and_never_removes_step_by_step(mask):
    grown = grow(mask)
    assert not (mask & ~grown).any()
    assert torch.equal(grow(grown), grow(mask, 2))


@given(SHAPES.flatmap(lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))))
@REPEATABLE
def test_growing_a_union_is_the_union_of_the_grown(pair):
    one, other = map(torch.from_numpy, pair)
    assert torch.equal(grow(one | other), grow(one) | grow(other))


@given(MASKS, st.floats(0.01, 0.99), st.integers(0, 2), st.integers(0, 2**31))
@REPEATABLE
def test_only_the_border_moves(mask, threshold, n_vox, seed):
    amplitude = noise(tuple(mask.shape), seed)
    updated = border_support(mask, amplitude, threshold, 1.0, n_vox)
    core, outer = ~grow(~mask, n_vox), grow(mask, n_vox)
    assert not (core & ~updated).any()
    assert not (updated & ~outer).any()
    border = outer & ~core
    assert torch.equal(updated[border], threshold_support(amplitude, threshold, 1.0)[border])


def test_a_hole_inside_the_crystal_is_not_eaten():
    support = ball((20, 20, 20), 6)
    amplitude = support.double() * ~ball((20, 20, 20), 2.5)
    assert not threshold_support(amplitude, 0.2, 0.5)[0, 0, 0]
    assert torch.equal(border_support(support, amplitude, 0.2, 0.5) & ball((20, 20, 20), 4), ball((20, 20, 20), 4))


def test_a_bright_voxel_far_away_does_not_join():
    support = ball((20, 20, 20), 5)
    amplitude = support.double()
    amplitude[10, 10, 10] = 1
    assert threshold_support(amplitude, 0.2, 0.5)[10, 10, 10]
    assert not border_support(support, amplitude, 0.2, 0.5)[10, 10, 10]


@pytest.mark.parametrize("start", [3.0, 8.0])
def test_the_border_comes_to_the_edge_of_the_crystal(start):
    crystal, support = ball((24, 24, 24), 5.5), ball((24, 24, 24), start)
    for _ in range(8):
        support = border_support(support, crystal.double(), 0.5, 0.5)
    assert (support ^ crystal).sum() < 0.05 * crystal.sum()
