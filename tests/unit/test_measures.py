"""Every measure against its equation in numpy, and what each must say of cases with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cdi_stream.phasing.measures import (
    FAINTEST,
    chi2,
    chi2_floor,
    fitted_scale,
    held_out_islands,
    nmse,
    phase_error_rms_rad,
    poisson_llk,
    r_p,
    r_p_wu2021,
    relative_rms,
)

pytestmark = pytest.mark.usefixtures("one_thread")
REPEATABLE = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SHAPES = st.sampled_from([(6, 7), (5, 5), (4, 5, 6), (7, 3, 4)])
SEEDS = st.integers(0, 1000)


def block(shape: tuple[int, ...]) -> torch.Tensor:
    """A crystal in Fourier order, a third of the array long, with a phase."""
    crystal = torch.zeros(shape, dtype=torch.complex128)
    crystal[tuple(slice(n // 3) for n in shape)] = 1
    crystal[tuple(slice(n // 6) for n in shape)] = 1j
    return crystal


def case(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two positive arrays of two models and one measurement, and a mask."""
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(2, *shape)), rng.exponential(size=shape), rng.random(shape) < 0.8


@given(shape=SHAPES, seed=SEEDS, single=st.booleans())
@REPEATABLE
def test_measures_of_magnitudes_are_their_equations(shape, seed, single):
    models, measured, valid = case(shape, seed)
    given_models = torch.from_numpy(models.astype(np.float32) if single else models)
    args = given_models, torch.from_numpy(measured), torch.from_numpy(valid)
    m = measured[valid]
    for index, whole in enumerate(models):
        f = whole[valid]
        s = (f * m).sum() / (f * f).sum()
        a, b = f - f.mean(), m - m.mean()
        norms = np.sqrt((a**2).sum() * (b**2).sum())
        expected = {
            fitted_scale: s,
            chi2: ((s * f - m) ** 2).sum() / (m**2).sum(),
            r_p: np.corrcoef(f, m)[0, 1],
            r_p_wu2021: (abs(a) * abs(b)).sum() / norms,
            relative_rms: np.sqrt(((f - m) ** 2).sum()) / np.sqrt((m**2).sum()),
        }
        for measure, value in expected.items():
            found = measure(*args)
            assert found.dtype == torch.float64
            assert found.shape == (2,)
            assert float(found[index]) == pytest.approx(value, abs=1e-6 if single else 1e-12), measure.__name__


def test_numbers_from_outside_agree():
    """As other programs compare with the data: all voxels, numpy's own transform, counts in single precision."""
    rng = np.random.default_rng(5)
    crystal = np.fft.fftshift(block((16, 18, 20)).numpy()) * rng.uniform(0.5, 1, (16, 18, 20))
    amplitude = np.abs(np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(crystal))))
    counts = rng.poisson(amplitude**2 * 1e5 / (amplitude**2).sum()).astype(np.float32)
    root = np.sqrt(counts.astype(float))
    scale = np.linalg.lstsq(amplitude.reshape(-1, 1), root.ravel(), rcond=None)[0][0]
    args = torch.from_numpy(amplitude.astype(np.float32)), torch.from_numpy(counts).sqrt()
    residual = ((scale * amplitude - root) ** 2).sum() / (root**2).sum()
    assert float(chi2(*args)) == pytest.approx(residual, abs=1e-6)
    assert float(r_p(*args)) == pytest.approx(np.corrcoef(amplitude.ravel(), root.ravel())[0, 1], abs=1e-6)


@given(shape=SHAPES, seed=SEEDS, scale=st.floats(1e-6, 1e6))
@REPEATABLE
def test_a_scaled_truth_fits(shape, seed, scale):
    measured = torch.from_numpy(case(shape, seed)[1])
    assert float(fitted_scale(scale * measured, measured)) == pytest.approx(1 / scale)
    assert float(chi2(scale * measured, measured)) == pytest.approx(0, abs=1e-20)
    assert float(r_p(scale * measured, measured)) == pytest.approx(1)


def test_the_correlation_of_the_paper_is_biased_and_ours_is_not():
    models, measured, _ = (torch.from_numpy(part) for part in case((40, 40), 1))
    assert float(r_p(models[0], measured)) == pytest.approx(0, abs=0.05)
    assert float(r_p_wu2021(models[0], measured)) > 0.4
    assert float(r_p_wu2021(-measured, measured)) == pytest.approx(1)


def test_a_model_of_zeros():
    measured = torch.from_numpy(case((6, 7), 0)[1])
    nothing = torch.zeros_like(measured)
    assert chi2(nothing, measured) == 1
    assert math.isnan(r_p(nothing, measured))
    assert math.isfinite(poisson_llk(nothing, measured))


def test_the_floor_is_the_mean_chi2_of_counted_noise():
    mean = torch.from_numpy(np.geomspace(1e-3, 100, 4000)).reshape(40, 100)
    counts = torch.from_numpy(np.random.default_rng(0).poisson(mean, (20, 40, 100)))
    found = np.mean([float(chi2(mean.sqrt(), one.sqrt())) for one in counts])
    floors = np.mean([float(chi2_floor(mean.sqrt(), one.sqrt())) for one in counts])
    assert floors == pytest.approx(found, rel=0.02)


@given(shape=SHAPES, seed=SEEDS)
@REPEATABLE
def test_the_likelihood_is_that_of_poisson_above_the_saturated(shape, seed):
    models, _, where = case(shape, seed)
    counts = np.random.default_rng(seed).poisson(3, shape)
    found = poisson_llk(torch.from_numpy(models), torch.from_numpy(counts), torch.from_numpy(where))
    n = counts[where]
    for value, model in zip(found, models, strict=True):
        excess = stats.poisson.logpmf(n, n) - stats.poisson.logpmf(n, np.maximum(model[where], FAINTEST))
        assert float(value) == pytest.approx(excess.mean(), rel=1e-9)
        assert value >= 0
    assert float(poisson_llk(torch.from_numpy(counts), torch.from_numpy(counts))) == pytest.approx(0, abs=1e-5)


def test_the_likelihood_of_the_truth_is_a_half_at_high_counts():
    mean = torch.full((300, 300), 1e4)
    counts = torch.poisson(mean, generator=torch.Generator().manual_seed(1))
    truth = float(poisson_llk(mean, counts))
    assert truth == pytest.approx(0.5, abs=0.01)
    assert poisson_llk(1.01 * mean, counts) > truth + 0.4


def test_one_count_where_none_was_expected_costs_what_is_said():
    assert 12 < float(poisson_llk(torch.zeros(1, 1), torch.ones(1, 1))) < 14
    assert float(poisson_llk(torch.zeros(1, 1), torch.zeros(1, 1))) == pytest.approx(FAINTEST)


@pytest.mark.parametrize("shape", [(64, 64, 64), (65, 48, 31), (128, 128), (101, 64)])
def test_islands_have_the_share_and_the_radius_asked_for(shape):
    held = held_out_islands(torch.ones(shape, dtype=torch.bool), torch.Generator().manual_seed(0))
    assert held.float().mean() == pytest.approx(0.05, rel=0.15)
    inner = held.clone()
    for axis in range(held.ndim):  # every island holds a cross of radius three, except those cut by the centre
        for step in range(-3, 4):
            inner &= torch.roll(held, step, axis)
    assert inner.sum() > 0.8 * 0.05 * held.numel() / (123 if held.ndim == 3 else 29)


@given(
    shape=st.sampled_from([(8, 8), (16, 17), (33, 20), (6, 7, 8), (16, 16, 16), (21, 30, 18)]),
    share=st.floats(0.01, 0.2),
    seed=SEEDS,
    place=st.tuples(*[st.integers(0, 5)] * 3),
)
@REPEATABLE
def test_islands_are_valid_reproducible_and_spare_the_centre(shape, share, seed, place):
    valid = torch.from_numpy(np.random.default_rng(seed).random(shape) < 0.9)
    centre = place[: len(shape)]
    one, two = (
        held_out_islands(valid, torch.Generator().manual_seed(seed), share, centre=centre, keep_centre=0.15)
        for _ in range(2)
    )
    assert torch.equal(one, two)
    assert not (one & ~valid).any()
    assert 0 < one.float().mean() < 2 * share + 2 / one.numel()
    steps = (np.array(np.nonzero(one.numpy())).T - centre) / shape
    distance = np.linalg.norm(steps - np.round(steps), axis=-1)
    assert distance.min() > 0.15 - 1e-6


def test_no_island_without_valid_voxels():
    assert not held_out_islands(torch.zeros(8, 9, dtype=torch.bool), torch.Generator()).any()


@given(shape=SHAPES, seed=SEEDS, phase=st.floats(-3, 3), scale=st.floats(0.1, 10))
@REPEATABLE
def test_errors_in_real_space_are_their_equations(shape, seed, phase, scale):
    rng = np.random.default_rng(seed)
    truth, found = rng.normal(size=(2, *shape)) + 1j * rng.normal(size=(2, *shape))
    args = torch.from_numpy(truth), torch.from_numpy(scale * np.exp(1j * phase) * np.stack((found, truth)))
    overlap = np.vdot(found, truth)
    correlation = abs(overlap) / np.linalg.norm(found) / np.linalg.norm(truth)
    np.testing.assert_allclose(nmse(*args), [1 - correlation**2, 0], atol=1e-12)
    inside = abs(truth) > 0.5 * abs(truth).max()
    difference = np.angle(found * truth.conj() * overlap / abs(overlap))[inside]
    np.testing.assert_allclose(phase_error_rms_rad(*args), [np.sqrt((difference**2).mean()), 0], atol=1e-7)


@pytest.mark.gpu
def test_on_a_gpu():
    models, measured, valid = (torch.from_numpy(part) for part in case((12, 13, 14), 0))
    for measure in (chi2, chi2_floor, r_p, r_p_wu2021, relative_rms, poisson_llk):
        found = measure(models.cuda(), measured.cuda(), valid.cuda())
        torch.testing.assert_close(found.cpu(), measure(models, measured, valid))
    assert held_out_islands(valid.cuda(), torch.Generator().manual_seed(0)).is_cuda
