"""Frames beside their even steps: against the sum of the crystal's waves at each frame's own place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdi_stream.config import FixedGeometry
from cdi_stream.inversion.locate import locate
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.frames import along_first, frame_matrix
from cdi_stream.phasing.projections import Measurement, Projector, expected_counts, reciprocal
from cdi_stream.phasing.pyramid import coarsen
from tests.measurements import ordered
from tests.unit.test_prepare import APS_34IDC, PEAK, blob, curve, prepared


def waves(crystal: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """|F|^2 of a crystal, origin at N//2, each frame at its own place, summed voxel by voxel along the first axis."""
    n = len(crystal)
    index = np.arange(n) - n // 2
    field = np.fft.ifftn(np.fft.ifftshift(crystal, (1, 2)), axes=(1, 2), norm="ortho")
    rows = [sum(np.exp(2j * np.pi / n * place * x) * field[x + n // 2] for x in index) for place in index + shifts]
    return np.fft.fftshift(np.abs(np.stack(rows)) ** 2 / n, (1, 2))


def small_crystal(n: int) -> np.ndarray:
    """A crystal without symmetry that fills less than half of the first axis."""
    rng = np.random.default_rng(5)
    crystal = np.zeros((n, 8, 6), complex)
    crystal[n // 2 - 3 : n // 2 + 4, 2:6, 2:5] = rng.normal(size=(7, 4, 3)) + 1j * rng.normal(size=(7, 4, 3))
    return crystal


@pytest.mark.parametrize("n", [18, 19])
def test_the_counts_of_a_frame_are_those_at_its_own_place(n):
    crystal, shifts = small_crystal(n), np.random.default_rng(6).normal(0, 0.2, n)
    ones = torch.ones(crystal.shape, dtype=torch.float64)
    data = Measurement(magnitude=ones, magnitude_scale=ones, valid=ones > 0, frame_shifts=ordered(shifts))
    found = expected_counts(reciprocal(ordered(crystal), 3), data)
    np.testing.assert_allclose(found, ordered(waves(crystal, shifts)), atol=1e-9)


def test_even_frames_stay_as_they_are():
    matrix = frame_matrix(torch.zeros(7, dtype=torch.float64))
    torch.testing.assert_close(matrix, torch.eye(7, dtype=torch.float64))
    values = torch.rand(2, 7, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(along_first(matrix, values, 3), values)


def test_the_true_crystal_is_a_fixed_point_of_the_projection():
    crystal, shifts = small_crystal(18), np.random.default_rng(7).normal(0, 0.2, 18)
    magnitude = ordered(np.sqrt(waves(crystal, shifts)))
    ones = torch.ones_like(magnitude)
    data = Measurement(magnitude=magnitude, magnitude_scale=ones, valid=ones > 0, frame_shifts=ordered(shifts))
    truth = ordered(crystal)[None]
    moved = [float((Projector(one)(truth.clone()) - truth).norm()) for one in (data, replace(data, frame_shifts=None))]
    assert moved[0] < 0.2 * moved[1]
    assert moved[1] > 0.05 * truth.norm()


def test_a_coarse_grid_has_the_shifts_of_its_frames():
    ones = torch.ones(12, 8, 6)
    shifts = to_fourier_order(torch.arange(12.0))
    data = Measurement(magnitude=ones, magnitude_scale=ones, valid=ones > 0, frame_shifts=shifts)
    torch.testing.assert_close(torch.fft.fftshift(coarsen(data, (8, 8, 6)).frame_shifts), torch.arange(2.0, 10.0))


def test_measured_angles_give_the_shifts_of_the_frames():
    jitter = np.random.default_rng(8).normal(0, 0.12, 32)
    angles = 0.3 + 0.01 * (np.arange(32) + jitter)
    line = np.polyval(np.polyfit(np.arange(32), jitter, 1), np.arange(32))
    step = 1 + np.polyfit(np.arange(32), jitter, 1)[0]
    volume = prepared(blob(), scanned={"theta": angles})
    first = PEAK[0] - len(volume.counts) // 2
    found = volume.frame_shifts[max(-first, 0) :][:20]
    np.testing.assert_allclose(found, ((jitter - line) / step)[max(first, 0) :][:20], atol=0.005)
    assert measurement_of(volume).frame_shifts is not None
    assert prepared(blob()).frame_shifts is None
    assert locate(curve(blob(), scanned={"theta": angles}), APS_34IDC, FixedGeometry())[1] == ()
