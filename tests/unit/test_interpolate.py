"""Cubic splines on an affine grid: exact at voxels, and against fields known everywhere."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdi_stream.numerics.interpolate import resample, resample_mask, spline_coefficients
from cdi_stream.numerics.splines import sample_by_lookup, sample_on_cpu

REPEATABLE = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SKEW = np.array([[0.8, 0.15, -0.1], [-0.2, 0.7, 0.05], [0.1, -0.25, 0.9]])
OFFSET = (0.4, -0.7, 1.2)
LENGTHS = st.integers(1, 6)


def noise(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(2))


def offsets(shape: tuple[int, ...]) -> np.ndarray:
    """Steps of every voxel from the origin voxel N//2, ``(*shape, 3)``."""
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) - np.array(shape) // 2


def sampled(shape: tuple[int, ...]) -> np.ndarray:
    """Where the target's voxels lie in the source, in steps from its origin voxel."""
    return offsets(shape) @ SKEW.T + np.array(OFFSET)


def gaussian(steps: np.ndarray) -> np.ndarray:
    return np.exp(-((steps - (0.5, 1.0, -0.5)) ** 2 / (2 * np.array([2.5, 3.0, 3.5]) ** 2)).sum(-1))


def cubic(steps: np.ndarray) -> np.ndarray:
    x, y, z = np.moveaxis(steps, -1, 0) / 10
    return 1 + x - 2 * y + x * y * z - z**3 + 0.5 * x**2 * y**3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(4, 5, 6), (7, 3, 8), (1, 9, 2)])
def test_exact_at_the_voxels(shape, dtype):
    volume = noise(shape, dtype)
    same = resample(volume, np.eye(3), shape)
    assert same.is_complex() == volume.is_complex()
    torch.testing.assert_close(same, volume.to(same.dtype), rtol=0, atol=1e-5)


@given(st.tuples(LENGTHS, LENGTHS, LENGTHS), st.tuples(LENGTHS, LENGTHS, LENGTHS), st.tuples(*[st.integers(-3, 3)] * 3))
@REPEATABLE
def test_whole_steps_shift_with_zeros_beyond_the_edge(source, target, offset):
    volume = noise(source)
    index = offsets(target) + np.array(source) // 2 + offset
    inside = ((index >= 0) & (index < source)).all(-1)
    expected = np.zeros(target, np.float32)
    expected[inside] = volume.numpy()[tuple(index[inside].T)]
    result = resample(volume, np.eye(3), target, offset)
    np.testing.assert_allclose(result.numpy()[inside], expected[inside], atol=1e-5)
    beyond = ((index < -2) | (index > np.array(source) + 1)).any(-1)
    assert not result.numpy()[beyond].any()


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_permutation_of_axes_transposes(order):
    volume = noise((4, 5, 6))
    matrix = np.zeros((3, 3))
    matrix[order, range(3)] = 1
    expected = volume.permute(order)
    torch.testing.assert_close(resample(volume, matrix, tuple(expected.shape)), expected, rtol=0, atol=1e-5)


def test_a_smooth_field_on_a_skew_grid_with_offset():
    volume = torch.from_numpy(gaussian(offsets((24, 25, 26)))).float()
    shape = (12, 11, 10)
    np.testing.assert_allclose(resample(volume, SKEW, shape, OFFSET).numpy(), gaussian(sampled(shape)), atol=2e-3)


def test_a_cubic_polynomial_is_met_away_from_the_edges():
    volume = torch.from_numpy(cubic(offsets((33, 34, 35)))).float()
    shape = (8, 7, 6)
    np.testing.assert_allclose(resample(volume, SKEW, shape, OFFSET).numpy(), cubic(sampled(shape)), atol=2e-4)


def test_a_complex_field_is_its_real_and_imaginary_parts():
    volume = noise((8, 9, 10), torch.complex64)
    result = resample(volume, SKEW, (6, 7, 8), OFFSET)
    parts = [resample(part.contiguous(), SKEW, (6, 7, 8), OFFSET) for part in (volume.real, volume.imag)]
    torch.testing.assert_close(result, torch.complex(*parts), rtol=0, atol=1e-5)


def test_a_smooth_complex_field_on_a_skew_grid():
    def field(steps: np.ndarray) -> np.ndarray:
        return gaussian(steps) * np.exp(1j * steps @ (0.2, -0.3, 0.1))

    volume = torch.from_numpy(field(offsets((24, 25, 26)))).to(torch.complex64)
    shape = (12, 11, 10)
    np.testing.assert_allclose(resample(volume, SKEW, shape, OFFSET).numpy(), field(sampled(shape)), atol=3e-3)


@given(
    st.tuples(LENGTHS, LENGTHS, LENGTHS),
    st.tuples(LENGTHS, LENGTHS, LENGTHS),
    st.sampled_from([torch.float32, torch.complex64]),
    st.integers(0, 1000),
)
@REPEATABLE
def test_one_pass_on_the_cpu_is_the_eight_look_ups_of_other_devices(source, target, dtype, seed):
    rng = np.random.default_rng(seed)
    volume, matrix, first = noise(source, dtype), rng.normal(size=(3, 3)), rng.normal(size=3) + 1
    found = sample_on_cpu(volume, matrix, first, target)
    position = np.stack(np.meshgrid(*map(np.arange, target), indexing="ij"), -1).reshape(-1, 3) @ matrix.T + first
    coefficients = spline_coefficients(volume)
    looked_up = sample_by_lookup(coefficients, torch.from_numpy(position).float()).reshape(target)
    torch.testing.assert_close(found, looked_up, rtol=1e-4, atol=1e-5)


def test_interpolation_is_linear_in_the_volume():
    one, other = noise((6, 7, 8)), noise((6, 7, 8)).flip(0)
    summed = resample(one + 2 * other, SKEW, (5, 5, 5), OFFSET)
    parts = resample(one, SKEW, (5, 5, 5), OFFSET) + 2 * resample(other, SKEW, (5, 5, 5), OFFSET)
    torch.testing.assert_close(summed, parts, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 3, 2)])
def test_a_mask_is_itself_at_its_voxels(shape):
    mask = noise(shape) > 0
    assert torch.equal(resample_mask(mask, np.eye(3), shape), mask)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_way_between_voxels_both_must_be_true(axis):
    mask = noise((6, 7, 8)) > -0.5
    result = resample_mask(mask, np.eye(3), (6, 7, 8), np.eye(3)[axis] / 2)
    both = mask & torch.roll(mask, -1, axis)
    last = [slice(None)] * 3
    last[axis] = -1
    both[tuple(last)] = False
    assert torch.equal(result, both)


def test_the_share_decides_how_much_must_be_true():
    mask = torch.zeros((4, 4, 4), dtype=torch.bool)
    mask[:2] = True
    offset = (-0.75, 0, 0)  # three quarters of the weight on the last true layer
    assert resample_mask(mask, np.eye(3), (1, 1, 1), offset, share=0.7).all()
    assert not resample_mask(mask, np.eye(3), (1, 1, 1), offset, share=0.8).any()


def test_a_mask_is_false_beyond_its_edge():
    mask = torch.ones((4, 5, 6), dtype=torch.bool)
    result = resample_mask(mask, np.eye(3), (8, 9, 10)).numpy()
    expected = np.zeros((8, 9, 10), bool)
    expected[2:6, 2:7, 2:8] = True
    np.testing.assert_array_equal(result, expected)
