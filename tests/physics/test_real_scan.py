"""A small cut of a real scan of APS 34-ID-C, from its files to a crystal in lab coordinates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.constants import c, e, h
from scipy.ndimage import label

from cdi_stream.files.recorded_scan import read_recorded
from cdi_stream.inversion.chain import reconstruct
from tests.builders import curve_of, settings_for

SCAN = Path(__file__).parents[1] / "data" / "scan54"
RECIPE = "SW[every=10,after=20,threshold=0.3,relative=rms,sigma=1.0]+100*HIO+50*RAAR+50*ER"
SIZE_LAB_NM = {"x": 345, "y": 260, "z": 350}
"""Extent of the crystal from the whole published scan, by another reconstruction."""


@pytest.fixture(scope="module")
def scan():
    return read_recorded(SCAN, 54)


@pytest.fixture(scope="module")
def reconstruction(scan, network):
    *_, result = reconstruct(curve_of(scan), network, settings_for(scan, phase={"recipe": RECIPE}))
    return result


def test_the_reader_finds_frames_motors_and_maps(scan):
    assert scan.frames.shape == (64, 96, 96)
    assert scan.frames.max() == 159_259
    assert not scan.missing
    assert not scan.doubts
    np.testing.assert_array_equal(scan.frame_sums, scan.frames.sum(axis=(1, 2)))
    np.testing.assert_allclose(np.diff(scan.scanned["Theta"]), 0.01, atol=1e-5)
    assert scan.baseline["Delta"] == pytest.approx(32.174)
    assert (scan.baseline["Energy"], scan.units["Energy"]) == (9.0, "keV")
    assert scan.pixel_mask.sum() == 96**2 - 1, "the dark image knows one bad pixel"
    assert np.median(scan.white_field) == pytest.approx(16_000, rel=0.1)


def test_the_geometry_gives_the_lattice_spacing_and_the_voxels(reconstruction):
    wavelength_m, distance_m, pixel_m = h * c / (9e3 * e), 0.5, 55e-6
    affine = reconstruction.phased.volume.affine
    two_theta_rad = np.arccos(np.cos(np.deg2rad(32.174)) * np.cos(np.deg2rad(12.6346)))
    bragg_m = wavelength_m / (2 * np.sin(two_theta_rad / 2))
    assert reconstruction.metrics.d_spacing_m == pytest.approx(bragg_m, rel=2e-3)
    for axis in (1, 2):
        step = np.linalg.norm(affine.bq[:, axis])
        assert step == pytest.approx(2 * np.pi / wavelength_m * pixel_m / distance_m, rel=2e-3)
    assert reconstruction.metrics.voxel_size_m == pytest.approx(13.4e-9, rel=0.01)


def test_the_crystal_has_the_known_size_and_explains_the_counts(reconstruction):
    assert reconstruction.verdict.grade == "good", reconstruction.verdict.reasons
    assert any("direct-beam pixel unknown" in reason for reason in reconstruction.verdict.reasons)
    assert reconstruction.metrics.chi2 < 0.035
    assert reconstruction.metrics.r_p > 0.98
    for length_nm, known_nm in zip(extent_lab_nm(reconstruction.crystal), SIZE_LAB_NM.values(), strict=True):
        assert length_nm == pytest.approx(known_nm, rel=0.15)


def extent_lab_nm(crystal) -> list[float]:
    """Extent along lab x, y and z of the largest part of more than 0.4 of the largest amplitude."""
    amplitude = np.abs(crystal.density)
    parts, _ = label(amplitude > 0.4 * amplitude.max())
    where = np.nonzero(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
    steps_nm = 1e9 * np.linalg.norm(crystal.affine.br, axis=0)
    return [(np.ptp(where[axis]) + 1) * steps_nm[axis] for axis in (2, 1, 0)]
