"""Support updates: the blur against scipy, levels and growth against numpy, the border's and the limits' invariants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from torch import Tensor

from cdi_stream.phasing.shrink_wrap import ShrinkWrap
from cdi_stream.phasing.support import (
    Limits,
    box_support,
    grow,
    halves,
    restrict_to_border,
    smooth,
    threshold_support,
    update_support,
)

pytestmark = pytest.mark.usefixtures("one_thread")
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


def test_a_batch_is_blurred_one_by_one_in_its_own_precision():
    amplitude = noise((3, 8, 9))
    blurred = smooth(amplitude, 1.0, 2)
    torch.testing.assert_close(blurred, torch.stack([smooth(one, 1.0) for one in amplitude]))
    assert smooth(amplitude.float(), 1.0).dtype == torch.float32


@pytest.mark.parametrize("relative", ["max", "mean", "rms"])
def test_the_threshold_is_relative_to_the_blurred_amplitude(relative):
    amplitude, within = noise((4, 8, 9, 10)), noise((4, 8, 9, 10), 9) < 0.3
    support = threshold_support(amplitude, 0.95, 1.0, relative, within)
    for found, one, old in zip(support, amplitude, within, strict=True):
        blurred = smooth(one, 1.0).numpy()
        inside = blurred[old.numpy()]
        level = {"max": blurred.max(), "mean": inside.mean(), "rms": np.sqrt((inside**2).mean())}[relative]
        np.testing.assert_array_equal(found, blurred > 0.95 * level)
        assert 0 < found.sum() < found.numel()
    assert torch.equal(support, threshold_support(1e6 * amplitude, 0.95, 1.0, relative, within))


def test_a_level_of_the_old_support_needs_one():
    with pytest.raises(ValueError, match="relative to the rms, got none"):
        threshold_support(noise((1, 8, 9)), 0.2, 1.0, "rms")


@given(MASKS)
@REPEATABLE
def test_a_higher_threshold_never_adds(mask):
    amplitude = (mask.double() + noise(tuple(mask.shape)))[None]
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


def test_a_batch_grows_one_by_one():
    masks = noise((3, 7, 8)) < 0.1
    assert torch.equal(grow(masks, 2, 2), torch.stack([grow(one, 2) for one in masks]))


@given(MASKS, st.integers(0, 2), st.integers(0, 2**31))
@REPEATABLE
def test_only_the_border_moves(mask, n_vox, seed):
    proposed = noise(tuple(mask.shape), seed) < 0.5
    moved = restrict_to_border(mask[None], proposed[None], n_vox)[0]
    core, outer = ~grow(~mask, n_vox), grow(mask, n_vox)
    assert not (core & ~moved).any()
    assert not (moved & ~outer).any()
    border = outer & ~core
    assert torch.equal(moved[border], proposed[border])


WRAP = ShrinkWrap(threshold=0.2, sigma_vox=0.5)


def moved(support: Tensor, crystal: Tensor, mode: str = "full", how: ShrinkWrap = WRAP, **limits: object) -> Tensor:
    return update_support(support[None], crystal[None].to(torch.complex128), how, mode, Limits(**limits))[0]


def test_full_is_the_threshold_and_border_its_border():
    support, crystal = ball((20, 20, 20), 6), ball((20, 20, 20), 4) * noise((20, 20, 20))
    proposed = threshold_support(crystal[None], 0.2, 0.5)
    assert torch.equal(moved(support, crystal), proposed[0])
    assert torch.equal(moved(support, crystal, "border"), restrict_to_border(support[None], proposed)[0])


def test_a_hole_inside_the_crystal_is_not_eaten():
    support = ball((20, 20, 20), 6)
    amplitude = support.double() * ~ball((20, 20, 20), 2.5)
    assert not moved(support, amplitude)[0, 0, 0]
    assert torch.equal(moved(support, amplitude, "border") & ball((20, 20, 20), 4), ball((20, 20, 20), 4))


def test_a_bright_voxel_far_away_does_not_join():
    support = ball((20, 20, 20), 5)
    amplitude = support.double()
    amplitude[10, 10, 10] = 1
    assert moved(support, amplitude)[10, 10, 10]
    assert not moved(support, amplitude, "border")[10, 10, 10]


@pytest.mark.parametrize("start", [3.0, 8.0])
def test_the_border_comes_to_the_edge_of_the_crystal(start):
    crystal, support = ball((24, 24, 24), 5.5), ball((24, 24, 24), start)
    for _ in range(8):
        support = moved(support, crystal.double(), "border", ShrinkWrap(threshold=0.5, sigma_vox=0.5))
    assert (support ^ crystal).sum() < 0.05 * crystal.sum()


@given(
    st.floats(0, 0.3), st.floats(0.05, 1), st.floats(0.1, 3), st.sampled_from(["full", "border"]), st.integers(0, 2**31)
)
@REPEATABLE
def test_a_support_never_leaves_its_limits(smallest, largest, radius, mode, seed):
    old, outer = ball((9, 10), radius), ball((9, 10), 3.5)
    limits = {"smallest": smallest, "largest": largest, "outer": outer}
    new = moved(old, noise((9, 10), seed) ** 3, mode, **limits)
    assert torch.equal(new, old) or not (new & ~outer).any()
    assert torch.equal(new, old) or smallest < new.double().mean() <= largest


def test_of_one_that_grew_too_large_the_brightest_voxels_stay():
    support, crystal = ball((20, 20), 3), noise((20, 20))
    free, tight = moved(support, crystal), moved(support, crystal, largest=0.1)
    assert free.double().mean() > 0.5
    assert tight.sum() == 40
    blurred = smooth(crystal, 0.5)
    assert blurred[tight].min() >= blurred[~tight].max()


@pytest.mark.parametrize("crystal", [torch.zeros(8, 9), torch.full((8, 9), float("nan"))])
@pytest.mark.parametrize("relative", ["max", "mean", "rms"])
def test_one_that_would_vanish_stays(crystal, relative):
    support = ball((8, 9), 2)
    assert torch.equal(moved(support, crystal, how=ShrinkWrap(relative=relative)), support)


def test_supports_of_a_batch_do_not_know_of_one_another():
    supports, crystals = (
        noise((4, 8, 9)) < 0.5,
        noise((4, 8, 9), 9).to(torch.complex128) * torch.tensor([1, 0, 9, 2])[:, None, None],
    )
    limits, how = Limits(largest=0.4), ShrinkWrap(relative="rms", threshold=0.7)
    found = update_support(supports, crystals, how, "border", limits)
    for k in range(4):
        assert torch.equal(found[k], update_support(supports[k : k + 1], crystals[k : k + 1], how, "border", limits)[0])


def test_shrink_wrap_is_due_every_so_often_from_some_cycle_on():
    assert [cycle for cycle in range(1, 30) if ShrinkWrap(every=5, after=12).is_due(cycle)] == [15, 20, 25]
    assert [cycle for cycle in range(1, 4) if ShrinkWrap(every=1, after=0).is_due(cycle)] == [1, 2, 3]


@pytest.mark.parametrize("shape", [(16,), (12, 15), (8, 9, 11)])
def test_a_box_is_a_share_of_each_axis_about_the_origin(shape):
    for share in (0.3, 0.5, 1.0):
        expected = np.ones(shape, dtype=bool)
        for axis, n in enumerate(shape):
            inside = np.abs(np.fft.fftfreq(n, 1 / n)) <= n * share / 2 + 1e-9
            expected &= np.expand_dims(inside, tuple(k for k in range(len(shape)) if k != axis))
        np.testing.assert_array_equal(box_support(shape, share), expected)


@given(
    shape=st.sampled_from([(12, 9), (11, 8), (10, 6, 7)]),
    radius=st.floats(0, 4),
    place=st.integers(0, 20),
)
@REPEATABLE
def test_half_of_a_support_is_one_side_of_its_middle_wherever_it_lies(shape, radius, place):
    support = torch.roll(ball(shape, radius), place, 0)[None]
    half = halves(support)[0]
    along = (torch.fft.fftfreq(shape[0]) * shape[0]).round().reshape(-1, *(1,) * (len(shape) - 1))
    expected = ball(shape, radius) & (along >= 0) & (along < shape[0] / 2)
    assert torch.equal(torch.roll(half, -place, 0) & (along.abs() < shape[0] / 2), expected)


def test_halves_of_a_batch_are_each_its_own():
    supports = torch.stack([torch.roll(ball((12, 9), 2), k, 0) for k in (0, 5)])
    assert torch.equal(halves(supports)[1], halves(supports[1:])[0])
    assert halves(torch.zeros(1, 8, 8, dtype=torch.bool)).sum() == 0
