"""A hole at the peak: the size of the crystal is still read from the fringes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdi_stream.phasing import autocorrelation
from cdi_stream.phasing.autocorrelation import box_of
from cdi_stream.phasing.hole import taper
from cdi_stream.phasing.quality import misfit
from tests.bench.crystals import Case
from tests.measurements import case_of

CASE = Case(seed=4, kind="polyhedron", phase_pi=1, n=48)


def with_hole(half: int, at: tuple[int, ...] = (0, 0, 0)):
    """The measurement without a cube about a voxel, of ``2 half + 1`` voxels a side, in Fourier order."""
    data, truth = case_of(CASE)
    place = [((np.arange(n) - a + n // 2) % n) - n // 2 for n, a in zip(data.valid.shape, at, strict=True)]
    inside = np.all(np.meshgrid(*[abs(p) <= half for p in place], indexing="ij"), axis=0)
    return replace(data, valid=data.valid & ~torch.from_numpy(inside)), data, truth


def test_the_crystal_keeps_its_size_when_the_peak_is_masked(monkeypatch):
    masked, data, _ = with_hole(2)
    whole, found = box_of(data), box_of(masked)
    np.testing.assert_allclose(found.extents_vox, whole.extents_vox, rtol=0.35)
    monkeypatch.setattr(autocorrelation, "taper", lambda counts, valid: None)
    assert max(box_of(masked).extents_vox) > 1.5 * max(whole.extents_vox)  # the edge of the hole reaches everywhere


@pytest.mark.parametrize(("half", "at"), [(2, (15, 0, 0)), (1, (12, 12, 3)), (0, (1, 0, 0))])
def test_gaps_elsewhere_and_single_voxels_change_nothing(half, at):
    masked, _, _ = with_hole(half, at)
    assert taper(masked.magnitude.square(), masked.valid) is None


def test_the_taper_is_zero_in_the_hole_and_one_far_from_it_wherever_the_origin_is():
    masked, _, _ = with_hole(2)
    factors = taper(masked.magnitude.square(), masked.valid)
    assert not factors[~masked.valid].any()
    assert factors[24, 24, 24] == pytest.approx(1)
    moved = taper(
        torch.roll(masked.magnitude, (7, -3, 20), (0, 1, 2)) ** 2, torch.roll(masked.valid, (7, -3, 20), (0, 1, 2))
    )
    torch.testing.assert_close(torch.roll(moved, (-7, 3, -20), (0, 1, 2))[:5, :5, :5], factors[:5, :5, :5])


def test_the_dark_share_is_that_of_the_intensity_in_the_hole():
    masked, data, truth = with_hole(2)
    intensity = torch.fft.ifftn(truth).abs() ** 2
    expected = float(intensity[~masked.valid].sum() / intensity.sum())
    assert misfit(truth, masked)["dark_share"] == pytest.approx(expected, rel=1e-4)
    assert misfit(truth, data)["dark_share"] == 0
