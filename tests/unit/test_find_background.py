"""A background is found where there is one, with its slope, and not in diffraction that fills the array."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.phasing.auto import solve
from cdi_stream.phasing.auto_settings import AutoSettings
from cdi_stream.phasing.find_background import find_background, with_background
from cdi_stream.phasing.judge import judge
from cdi_stream.phasing.ranking import metrics_of
from tests.bench.crystals import Case, crystal
from tests.measurements import case_of, data_of, error, ordered, unlimited

N = 48
CASE = Case(seed=440_000, kind="polyhedron", phase_pi=2, n=N)


def counts_with(ground: np.ndarray | float, case: Case = CASE, has_noise: bool = True) -> np.ndarray:
    """Counts of a crystal of half the extent, and a background [counts per voxel]."""
    field = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(crystal(case))))
    expected = np.abs(field) ** 2 * case.photons / (np.abs(field) ** 2).sum() + ground
    return np.random.default_rng(case.seed).poisson(expected) if has_noise else expected


def slope() -> np.ndarray:
    return 0.5 + 0.006 * (np.arange(N) - N // 2)[None, :, None] - 0.004 * (np.arange(N) - N // 2)[None, None, :]


@pytest.mark.parametrize("has_noise", [True, False])
def test_value_and_slope_are_found(has_noise):
    flat = find_background(data_of(counts_with(0.5, has_noise=has_noise)))
    assert flat.counts == pytest.approx(0.5, rel=0.2)
    assert flat.slopes == pytest.approx((0, 0, 0), abs=1e-3)
    tilted = find_background(data_of(counts_with(slope(), has_noise=has_noise)))
    assert tilted.slopes == pytest.approx((0, 0.006, -0.004), abs=1.2e-3)


def test_gaps_are_left_out_and_two_axes_do():
    counts = counts_with(0.5)
    valid = np.ones(counts.shape, dtype=bool)
    valid[:, 30:34] = False
    assert find_background(data_of(counts * valid, valid)).counts == pytest.approx(0.5, rel=0.2)
    plane = np.random.default_rng(1).poisson(1e5 * np.exp(-np.hypot(*np.mgrid[-32:32, -32:32]) / 2) + 20.0)
    assert find_background(data_of(plane)).counts == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize(
    "case",
    [
        CASE,
        Case(seed=2, kind="polyhedron", phase_pi=1, n=32),
        Case(seed=70_000, kind="polyhedron", phase_pi=5, n=32, photons=3e5),
        Case(seed=2, kind="superellipsoid", phase_pi=1, n=24, photons=math.inf),
    ],
)
def test_diffraction_that_fills_the_array_is_no_background(case):
    assert find_background(case_of(case)[0]) is None


@pytest.mark.parametrize("shape", [(8, 8, 8), (9, 11), (16, 17, 18), (2, 2, 2)])
@pytest.mark.parametrize("level", [0, 3])
def test_counts_without_crystal_have_no_background_that_explains_all(shape, level):
    assert find_background(data_of(np.random.default_rng(0).poisson(np.full(shape, level)))) is None


def test_a_crystal_over_a_background_is_found_as_well_as_without():
    truth = ordered(crystal(CASE))
    plain, bare = data_of(counts_with(0.0)), data_of(counts_with(slope()))
    known = with_background(bare)
    settings = AutoSettings(attempts=1, is_thorough=False)
    errors = [error(solve(data, 1, unlimited(), settings).crystal, truth) for data in (plain, bare, known)]
    assert errors[2] < 0.7 * errors[1]
    assert errors[2] < 1.5 * errors[0]
    found = metrics_of(solve(known, 1, unlimited(), settings), known)
    assert judge(found).grade == "good"
    share = float(known.background.sum() / known.magnitude.square().sum())
    assert found.background_share == pytest.approx(share, rel=1e-3)


def test_every_measurement_of_counts_has_its_background():
    counts = counts_with(0.5)

    class Volume:
        valid_pixels, expected_scale, frame_shifts = np.ones(counts.shape, bool), np.ones(counts.shape), None

    volume = Volume()
    volume.counts = counts
    background = measurement_of(volume).background
    assert torch.equal(background, find_background(data_of(counts)).on(background))
