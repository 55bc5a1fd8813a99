"""The Fourier pair against its definition, F(q) = sum rho exp(+i q.r), summed term by term."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdi_stream.geometry.affine import AffineMap
from cdi_stream.geometry.circles import FOURIER_SIGN
from cdi_stream.numerics.fourier import (
    from_fourier_order,
    real_spectrum_modulus,
    to_crystal,
    to_fourier_order,
    to_reciprocal,
    twin,
)

REPEATABLE = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SHAPES = [(4, 6, 2), (3, 5, 7), (4, 5, 6), (1, 2, 3)]
ANY_SHAPE = st.tuples(*[st.integers(1, 7)] * 3)
BQ = np.array([[2.0, 0.3, -0.4], [-0.5, 1.5, 0.2], [0.1, 0.6, -3.0]]) * 1e6


def noise(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))


def offsets(shape: tuple[int, ...]) -> np.ndarray:
    """Every voxel's steps from the origin voxel N//2, ``(n, n_axes)``."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return (index - np.array(shape) // 2).reshape(-1, len(shape))


def wave(shape: tuple[int, ...], steps: tuple[float, ...]) -> torch.Tensor:
    """exp(+2 pi i sum_k steps_k n_k / N_k) about the origin voxel."""
    return torch.from_numpy(np.exp(2j * np.pi * offsets(shape) @ (np.array(steps) / shape)).reshape(shape))


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_reciprocal_space_is_the_sum_over_the_crystal_in_the_axes_of_the_map(shape):
    affine = AffineMap(shape=shape, q0=np.zeros(3), bq=BQ, sample_to_lab=np.eye(3), coordinates="detector")
    crystal = noise(shape)
    r = offsets(shape) @ affine.br.T
    q = affine.q(offsets(shape) + np.array(shape) // 2)
    summed = np.exp(FOURIER_SIGN * 1j * q @ r.T) @ crystal.numpy().ravel() / np.sqrt(np.prod(shape))
    assert FOURIER_SIGN == 1
    assert_close(to_reciprocal(crystal), torch.from_numpy(summed.reshape(shape)))


@given(ANY_SHAPE)
@REPEATABLE
def test_there_and_back_changes_nothing_and_keeps_the_energy(shape):
    crystal = noise(shape)
    assert_close(to_crystal(to_reciprocal(crystal)), crystal)
    assert_close(to_reciprocal(to_crystal(crystal)), crystal)
    assert_close(to_reciprocal(crystal).abs().square().sum(), crystal.abs().square().sum())


def test_axes_before_the_last_are_a_batch():
    batch = noise((2, 3, 4, 5, 6))
    for transform in (to_reciprocal, to_crystal, twin):
        assert_close(transform(batch)[1, 2], transform(batch[1, 2]))
        assert_close(transform(batch, n_axes=2)[1, 2, 3], transform(batch[1, 2, 3], n_axes=2))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_crystal_moved_forward_gains_a_positive_ramp(shape, axis):
    crystal, steps = noise(shape), tuple(float(k == axis) for k in range(3))
    assert_close(to_reciprocal(torch.roll(crystal, 1, axis)), to_reciprocal(crystal) * wave(shape, steps))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_positive_ramp_in_the_crystal_moves_its_diffraction_backwards(shape, axis):
    crystal, steps = noise(shape), tuple(float(k == axis) for k in range(3))
    assert_close(to_reciprocal(crystal * wave(shape, steps)), torch.roll(to_reciprocal(crystal), -1, axis))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_point_at_the_origin_voxel_diffracts_evenly(shape):
    point = torch.zeros(shape, dtype=torch.complex128)
    point[tuple(n // 2 for n in shape)] = 1
    assert_close(to_reciprocal(point), torch.full(shape, 1 / np.sqrt(np.prod(shape)), dtype=torch.complex128))


@given(ANY_SHAPE)
@REPEATABLE
def test_the_twin_is_the_inverted_conjugate_with_the_same_magnitudes(shape):
    crystal = noise(shape)
    mirrored = (-offsets(shape) + np.array(shape) // 2) % shape
    expected = crystal[tuple(torch.from_numpy(mirrored.T))].conj().reshape(shape)
    assert_close(twin(crystal), expected.resolve_conj())
    assert_close(to_reciprocal(twin(crystal)), to_reciprocal(crystal).conj().resolve_conj())
    assert_close(twin(twin(crystal)), crystal)


@given(ANY_SHAPE)
@REPEATABLE
def test_fourier_order_has_the_origin_first(shape):
    array = torch.arange(np.prod(shape)).reshape(shape)
    assert to_fourier_order(array)[0, 0, 0] == array[tuple(n // 2 for n in shape)]
    assert torch.equal(from_fourier_order(to_fourier_order(array)), array)
    assert torch.equal(to_fourier_order(from_fourier_order(array)), array)


@pytest.mark.parametrize("shape", [(6, 7), (5, 4, 6), (4, 6, 5)])
def test_the_modulus_of_a_real_spectrum_is_that_of_all_voxels(shape):
    values = noise(shape).real
    np.testing.assert_allclose(real_spectrum_modulus(values), np.abs(np.fft.ifftn(values.numpy())) * values.numel())
