"""Frames whose angles were not measured: their places are found with the crystal, and only where they are uneven."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cdi_stream.files.intensities.volume import Intensities
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.interface.phase_counts import PhaseOptions, method_settings, phase_counts
from cdi_stream.numerics.fourier import from_fourier_order
from cdi_stream.phasing.auto import solve
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.frame_search import find_shifts, improve_shifts
from cdi_stream.phasing.frames import along_first, frame_matrix, frame_slopes
from cdi_stream.phasing.projections import Measurement, expected_counts, reciprocal
from cdi_stream.phasing.ranking import hold_out, metrics_of
from tests.bench.crystals import Case, crystal
from tests.measurements import error, ordered, unlimited

CASE = Case(seed=3, kind="polyhedron", phase_pi=2.0, n=32)
SCATTER = 0.3


def counted(photons: float, scatter: float) -> tuple[Measurement, torch.Tensor, np.ndarray]:
    """Counts of a crystal of which each frame lies at its own place, the crystal, and the places [steps]."""
    truth = ordered(crystal(CASE))
    shifts = np.random.default_rng(11).normal(0, scatter, CASE.n)
    ones = torch.ones(truth.shape)
    model = Measurement(
        magnitude=ones, magnitude_scale=ones, valid=ones > 0, frame_shifts=ordered(shifts).float() if scatter else None
    )
    expected = expected_counts(reciprocal(truth, 3), model).double()
    scale = photons / float(expected.sum())
    counts = torch.poisson(expected * scale, torch.Generator().manual_seed(12)).float()
    data = replace(model, magnitude=counts.sqrt(), frame_shifts=None, shift_error_steps=0.15)
    return data, truth * scale**0.5, ordered(shifts)


@pytest.mark.parametrize("n", [18, 19])
def test_slopes_are_the_change_of_the_rows_with_the_places(n):
    shifts, step = torch.linspace(-0.4, 0.5, n, dtype=torch.float64), 1e-4
    change = frame_matrix(shifts + step) - frame_matrix(shifts - step)
    torch.testing.assert_close(frame_slopes(shifts), change / (2 * step), atol=1e-6, rtol=0)


@pytest.mark.parametrize("n", [18, 19])
def test_slopes_at_even_steps_are_those_of_the_waves(n):
    turns = 2 * torch.pi / n * torch.arange(n, dtype=torch.float64)
    slope = along_first(frame_slopes(torch.zeros(n, dtype=torch.float64)), torch.sin(3 * turns)[:, None], 2)[:, 0]
    torch.testing.assert_close(slope, 6 * torch.pi / n * torch.cos(3 * turns))


def test_the_true_crystal_tells_the_places_of_bright_frames():
    data, truth, shifts = counted(1e8, SCATTER)
    found = data
    for _ in range(4):
        found = replace(found, frame_shifts=improve_shifts(truth, found))
    is_bright = data.magnitude.square().sum((1, 2)) > 1e5
    assert int(is_bright.sum()) > 8
    np.testing.assert_allclose(found.frame_shifts[is_bright], shifts[is_bright], atol=0.01)


def test_a_frame_without_counts_is_expected_at_its_even_step():
    data, truth, _ = counted(1e6, SCATTER)
    valid = data.valid.clone()
    valid[5] = False
    assert improve_shifts(truth, replace(data, valid=valid))[5] == 0


def test_even_frames_are_not_moved():
    data, truth, _ = counted(1e6, 0.0)
    _, held = hold_out(data, seed=1)
    assert find_shifts(data, held, Batch(crystal=truth[None], support=truth[None].abs() > 0.1), unlimited()) is None


@pytest.mark.parametrize("are_angles_known", [False, True])
def test_places_are_unknown_where_no_geometry_says_the_angles(are_angles_known):
    data, _, _ = counted(1e7, SCATTER)
    counts = from_fourier_order(data.magnitude.square()).numpy()
    affine = AffineMap(
        shape=counts.shape,
        q0=np.array([0.0, 0.0, 1e10]),
        bq=1e7 * np.fliplr(np.eye(3)),
        sample_to_lab=np.eye(3),
        coordinates="detector",
    )
    intensities = Intensities(
        counts=counts,
        valid_pixels=counts >= 0,
        axes=("frame", "row", "col"),
        source="simulated",
        affine=affine if are_angles_known else None,
    )
    options = PhaseOptions(method="auto", settings=method_settings(budget_s=60.0, seed=1), deadline=unlimited())
    assert math.isnan(phase_counts(intensities, options).metrics.uneven_steps) == are_angles_known


def test_a_search_finds_uneven_frames_and_a_better_crystal():
    data, truth, shifts = counted(1e7, SCATTER)
    solution = solve(data, 1, unlimited())
    as_even = solve(replace(data, shift_error_steps=0.0), 1, unlimited())
    assert as_even.frame_shifts is None
    found = metrics_of(solution, data)
    is_bright = data.magnitude.square().sum((1, 2)) > 1e4
    assert np.corrcoef(solution.frame_shifts[is_bright], shifts[is_bright])[0, 1] > 0.9
    assert found.uneven_steps == pytest.approx(SCATTER, rel=0.5)
    assert found.chi2 < 0.7 * metrics_of(as_even, data).chi2
    assert error(from_fourier_order(solution.crystal), from_fourier_order(truth)) < 0.05
