"""Alignment recovers known shifts, phases and variants, wherever the origin is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdi_stream.errors import InputError
from cdi_stream.numerics.fourier import from_fourier_order, twin
from cdi_stream.phasing.align import align, align_all

REPEATABLE = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SHAPES = [(24, 20), (21, 24), (25, 23), (16, 20, 24), (17, 19, 21), (16, 17, 18)]


pytestmark = pytest.mark.usefixtures("one_thread")


def crystal(shape: tuple[int, ...], seed: int = 3) -> np.ndarray:
    """Smooth, strained and without any symmetry: a few blobs of different phase about the middle, edges empty."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[(np.arange(n) - n // 2) / n for n in shape], indexing="ij"), -1)
    places = rng.uniform(-0.12, 0.12, (6, len(shape)))
    factors = rng.uniform(0.5, 1, 6) * np.exp(1j * rng.uniform(-2, 2, 6))
    blobs = [f * np.exp(-((grid - p) ** 2).sum(-1) / (2 * 0.07**2)) for p, f in zip(places, factors, strict=True)]
    return np.sum(blobs, axis=0)


def shifted(array: np.ndarray, shift: tuple[float, ...]) -> np.ndarray:
    """rho(r - shift), by one phase ramp in numpy."""
    k = np.meshgrid(*[np.fft.fftfreq(n) for n in array.shape], indexing="ij")
    ramp = np.exp(-2j * np.pi * sum(a * s for a, s in zip(k, shift, strict=True)))
    return np.fft.ifftn(np.fft.fftn(array) * ramp)


def flipped(array: np.ndarray) -> np.ndarray:
    """rho(-r) about voxel 0."""
    return array[np.ix_(*[-np.arange(n) % n for n in array.shape])]


VARIANTS = {
    "same": lambda a: a,
    "twin": lambda a: flipped(a).conj(),
    "flip": flipped,
    "conj": np.conj,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_shift_phase_and_variant_are_recovered(shape, variant):
    truth = crystal(shape)
    shift, phase = (2.37, -5.5, 0.81)[: len(shape)], 1.1
    changed = 3 * VARIANTS[variant](shifted(truth, shift) * np.exp(1j * phase))
    found = align(torch.from_numpy(truth), torch.from_numpy(changed), tuple(VARIANTS))
    assert found.variant == variant
    np.testing.assert_allclose(found.shift_vox, [-s for s in shift], atol=1e-6)
    assert found.phase_rad == pytest.approx(-phase, abs=1e-6)
    assert found.correlation == pytest.approx(1)
    np.testing.assert_allclose(found.crystal, 3 * truth, atol=1e-6)


@given(
    shape=st.sampled_from(SHAPES),
    fraction=st.tuples(*[st.floats(-0.5, 0.5)] * 3),
    phase=st.floats(-3, 3),
    is_twin=st.booleans(),
    seed=st.integers(0, 100),
)
@REPEATABLE
def test_any_shift_of_a_noisy_crystal_in_single_precision(shape, fraction, phase, is_twin, seed):
    truth = crystal(shape, seed)
    shift = np.array([f * n for f, n in zip(fraction, shape, strict=False)])
    changed = shifted(truth, tuple(shift)) * np.exp(1j * phase)
    changed = VARIANTS["twin"](changed) if is_twin else changed
    noise = np.random.default_rng(seed).normal(size=(2, *shape)) * 1e-3 * np.abs(truth).max()
    single = torch.from_numpy((changed + noise[0] + 1j * noise[1]).astype(np.complex64))
    found = align(torch.from_numpy(truth.astype(np.complex64)), single)
    assert found.variant == ("twin" if is_twin else "same")
    half = np.array(shape) / 2
    np.testing.assert_allclose((found.shift_vox + shift + half) % (2 * half) - half, 0, atol=0.01)
    assert np.cos(found.phase_rad + phase) > 0.9999
    assert found.crystal.dtype == torch.complex64


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [(0.5, 0.5, 0.5), (-0.5, 0.49, 0.51), (0.25, -0.75, 0.1)])
def test_sharp_edges_and_half_voxels(shape, shift):
    truth = np.zeros(shape, dtype=complex)
    truth[tuple(slice(4, 10 + axis) for axis in range(len(shape)))] = 1
    truth[tuple(slice(4, 6) for _ in shape)] = 1j
    found = align(torch.from_numpy(truth), torch.from_numpy(shifted(truth, shift[: len(shape)])))
    np.testing.assert_allclose(found.shift_vox, [-s for s in shift[: len(shape)]], atol=1e-4)
    assert found.correlation == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_twin_is_that_of_the_project_and_the_origin_does_not_matter(shape):
    truth = torch.from_numpy(crystal(shape))
    changed = twin(truth, len(shape))
    centred = align(truth, changed)
    cornered = align(*(from_fourier_order(one) for one in (truth, changed)))
    assert centred.variant == cornered.variant == "twin"
    torch.testing.assert_close(from_fourier_order(centred.crystal), cornered.crystal)
    torch.testing.assert_close(centred.crystal, truth)


def test_the_better_of_two_variants_wins_even_where_whole_shifts_mislead():
    truth = crystal((20, 24))
    impure = VARIANTS["twin"](shifted(truth, (0.5, 0.5))) + 0.5 * truth
    assert align(torch.from_numpy(truth), torch.from_numpy(impure)).variant == "twin"


def test_only_the_variants_asked_for_are_tried():
    truth = crystal((20, 24))
    found = align(torch.from_numpy(truth), torch.from_numpy(VARIANTS["twin"](truth)), ("same",))
    assert found.variant == "same"
    assert found.correlation < 0.95


def test_a_ramp_is_left_alone():
    truth = crystal((24, 24))
    ramp = np.exp(2j * np.pi * 3 * np.arange(24) / 24)
    found = align(torch.from_numpy(truth), torch.from_numpy(truth * ramp), ("same",))
    spectra = (np.abs(np.fft.fftn(array)) for array in (found.crystal.numpy(), truth * ramp))
    np.testing.assert_allclose(*spectra, atol=1e-9)


def test_the_correlation_is_that_of_the_crystal_returned():
    truth, other = (torch.from_numpy(crystal((18, 20, 21), seed)) for seed in (1, 2))
    found = align(truth, other)
    overlap = np.vdot(found.crystal.numpy(), truth.numpy())
    norms = np.linalg.norm(found.crystal) * np.linalg.norm(truth)
    assert found.correlation == pytest.approx(abs(overlap) / norms)
    assert np.angle(overlap) == pytest.approx(0, abs=1e-9)
    assert np.linalg.norm(found.crystal) == pytest.approx(np.linalg.norm(other))
    assert found.correlation >= abs(np.vdot(other.numpy(), truth.numpy())) / norms


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e15])
def test_any_scale(scale):
    truth = torch.from_numpy(crystal((20, 24)).astype(np.complex64))
    found = align(truth, torch.roll(truth, 3, 0) * scale)
    assert found.correlation == pytest.approx(1, abs=1e-5)
    assert found.shift_vox == pytest.approx((-3, 0), abs=1e-3)


def test_an_empty_crystal_correlates_with_nothing():
    truth = torch.from_numpy(crystal((20, 24)))
    found = align(truth, torch.zeros_like(truth))
    assert found.correlation == 0
    assert not found.crystal.any()


def test_several_at_once_are_as_one_by_one():
    truth = crystal((16, 18, 20))
    several = [torch.from_numpy(shifted(truth, (0.3 * k, k, -0.7 * k))) for k in range(3)]
    for one, alone in zip(align_all(torch.from_numpy(truth), several), several, strict=True):
        torch.testing.assert_close(one.crystal, align(torch.from_numpy(truth), alone).crystal)


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match=r"expected a crystal of the reference's shape \(4, 5\), got \(4, 6\)"):
        align(torch.ones(4, 5, dtype=torch.complex64), torch.ones(4, 6, dtype=torch.complex64))


@pytest.mark.gpu
def test_on_a_gpu():
    truth = torch.from_numpy(crystal((16, 17, 18))).cuda()
    found = align(truth, torch.roll(twin(truth), 2, 1))
    torch.testing.assert_close(found.crystal, truth)
