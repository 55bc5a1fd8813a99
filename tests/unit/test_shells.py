"""Shells and curves against numpy, and what each must say of cases with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cdi_stream.geometry.affine import AffineMap
from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.projections import reciprocal
from cdi_stream.phasing.shells import Curve, fsw, prtf, radial_q, resolution, shells
from tests.unit.test_measures import REPEATABLE, SEEDS, SHAPES, block, case

pytestmark = pytest.mark.usefixtures("one_thread")


def affine(shape: tuple[int, int, int]) -> AffineMap:
    bq = 1e7 * np.array([[1.0, 0.2, 0], [0, 0.7, 0.1], [0.3, 0, 1.5]])
    return AffineMap(shape=shape, q0=np.array([1e10, 0, 2e10]), bq=bq, sample_to_lab=np.eye(3), coordinates="detector")


def test_radial_q_is_that_of_the_affine_map():
    found = affine((5, 6, 7))
    q = found.q(np.moveaxis(np.indices(found.shape), 0, -1)) - found.q0
    expected = to_fourier_order(torch.from_numpy(np.linalg.norm(q, axis=-1)))
    torch.testing.assert_close(radial_q(found.shape, found.bq), expected, rtol=1e-6, atol=1)


@pytest.mark.parametrize("shape", [(8, 9), (5, 6, 7)])
def test_without_a_map_q_is_in_radians_per_voxel(shape):
    k = np.meshgrid(*[2 * np.pi * np.fft.fftfreq(n) for n in shape], indexing="ij")
    np.testing.assert_allclose(radial_q(shape), np.linalg.norm(k, axis=0), atol=1e-12)


@given(shape=SHAPES, n_shells=st.integers(1, 9), seed=SEEDS)
@REPEATABLE
def test_shells_are_a_histogram_of_q(shape, n_shells, seed):
    values, where = case(shape, seed)[1:]
    over, q = shells(shape, n_shells=n_shells), radial_q(shape).numpy()
    edges = np.linspace(0, q.max(), n_shells + 1)
    kept = np.abs(q[..., None] - edges[1:-1]).min(-1, initial=1) > 1e-9  # no voxel on an edge
    total = np.histogram(q[kept], edges, weights=values[kept])[0]
    np.testing.assert_allclose(over.total(torch.from_numpy(values * kept)), total, atol=1e-12)
    counted = np.histogram(q[kept & where], edges)[0]
    mean = np.histogram(q[kept & where], edges, weights=values[kept & where])[0] / np.where(counted, counted, np.nan)
    np.testing.assert_allclose(over.mean(torch.from_numpy(values), torch.from_numpy(kept & where)), mean, atol=1e-12)


@pytest.mark.parametrize("shape", [(24, 25), (12, 15, 16)])
def test_identical_runs_of_the_truth_transfer_every_phase(shape):
    fields = reciprocal(block(shape), len(shape)).expand(3, *shape)
    curve = prtf(5 * fields, fields[0].abs(), shells(shape))
    known = torch.isfinite(curve.value)
    torch.testing.assert_close(curve.value[known], torch.ones_like(curve.value[known]))
    assert resolution(curve) == pytest.approx(2 * math.pi / float(curve.q[known][-1]))


def test_runs_of_random_phase_transfer_as_a_random_walk():
    shape, n_runs = (16, 16, 16), 25
    magnitude = 1 + torch.rand(shape, generator=torch.Generator().manual_seed(1))
    phase = 2 * math.pi * torch.rand((n_runs, *shape), generator=torch.Generator().manual_seed(2))
    over = shells(shape, n_shells=4)
    curve = prtf(torch.polar(magnitude.expand(n_runs, *shape), phase), magnitude, over)
    np.testing.assert_allclose(curve.value[1:], math.sqrt(math.pi / 4 / n_runs), rtol=0.1)
    assert resolution(curve) == math.inf


def test_the_transfer_function_is_its_equation():
    rng = np.random.default_rng(3)
    shape = (6, 7, 8)
    fields = rng.normal(size=(4, *shape)) + 1j * rng.normal(size=(4, *shape))
    counts, valid = rng.poisson(2, shape), rng.random(shape) < 0.8
    over = shells(shape, n_shells=5)
    found = prtf(torch.from_numpy(fields), torch.from_numpy(counts).sqrt(), over, torch.from_numpy(valid))
    m, f = np.sqrt(counts), np.abs(fields).mean(0)
    scale = (f * m)[valid].sum() / (f * f)[valid].sum()
    for shell, value in enumerate(found.value):
        chosen = (over.label.numpy() == shell) & valid & (counts > 0)
        assert float(value) == pytest.approx((scale * np.abs(fields.mean(0)) / np.maximum(m, 1))[chosen].mean())


def test_the_spectral_weight_is_a_sum_of_amplitudes():
    field = reciprocal(block((9, 10, 11)), 3)
    curve = fsw(field, shells(field.shape))
    torch.testing.assert_close(curve.value.sum(), field.abs().sum())


@pytest.mark.parametrize(
    ("value", "level", "expected"),
    [
        ([1.0, 0.8, 0.2], 0.5, 2 * math.pi / 2.5),
        ([1.0, 0.2, 0.9], 0.6, 2 * math.pi / 1.5),
        ([1.0, math.nan, 0.0], 0.5, 2 * math.pi / 2),
        ([1.0, 0.8, 0.7], 0.5, 2 * math.pi / 3),
        ([0.1, 0.8, 0.7], 0.5, math.inf),
        ([math.nan] * 3, 0.5, math.inf),
    ],
)
def test_the_resolution_is_where_the_curve_falls_below(value, level, expected):
    curve = Curve(q=torch.tensor([1.0, 2.0, 3.0]), value=torch.tensor(value))
    assert resolution(curve, level) == pytest.approx(expected, rel=1e-6)


@pytest.mark.gpu
def test_on_a_gpu():
    models, measured, valid = (torch.from_numpy(part) for part in case((12, 13, 14), 0))
    fields = torch.polar(models, models)
    there = prtf(fields.cuda(), measured.cuda(), shells(measured.shape, device="cuda"), valid.cuda())
    here = prtf(fields, measured, shells(measured.shape), valid)
    torch.testing.assert_close(there.value.cpu(), here.value, equal_nan=True)
