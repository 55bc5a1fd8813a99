"""Where frames lie: lost readings, units of all spellings, unknown motors, scans that do not move."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cdi_stream.config import FixedGeometry
from cdi_stream.errors import CurveError
from cdi_stream.inversion.locate import locate
from cdi_stream.inversion.units import factor
from cdi_stream_plugins.beamlines.aps_34idc import APS_34IDC
from tests.unit.test_prepare import READINGS, UNITS, RunContext, blob, curve

ANGLES = 0.3 + 0.01 * np.arange(32)


def located(angles=ANGLES, units=None, readings=None, motors=(), **scanned):
    run = RunContext(uid="run", readings=READINGS | (readings or {}), units=UNITS | (units or {}), motors=motors)
    tracks = ({} if angles is None else {"theta": np.asarray(angles, dtype=float)}) | scanned
    return locate(curve(blob(), run=run, scanned=tracks), APS_34IDC, FixedGeometry())


@pytest.mark.parametrize("lost", [0, 7, 31])
def test_a_reading_lost_at_one_frame_is_filled_and_doubted_by_name(lost):
    angles = ANGLES.copy()
    angles[lost] = np.nan
    geometry, doubts, _ = located(angles)
    np.testing.assert_allclose(geometry.positions.sample_rad[:, 0], np.deg2rad(ANGLES), atol=1e-12)
    assert any("'theta' is no number at frame" in doubt for doubt in doubts)


def test_a_reading_lost_at_many_frames_fails_by_name_and_frame():
    angles = ANGLES.copy()
    angles[4:12] = np.nan
    with pytest.raises(CurveError, match="'theta' is no number at 8 of 32 frames, first at frame 4"):
        located(angles)


def test_a_scan_that_moves_an_unknown_motor_names_it():
    with pytest.raises(CurveError, match=r"span no volume.*moved theta_fine, no motor of a circle"):
        located(None, readings={"theta": 0.3}, motors=("theta_fine",), theta_fine=ANGLES)


def test_a_count_in_which_nothing_moves_says_so():
    with pytest.raises(CurveError, match="no circle and no energy moved; readings that changed: ring"):
        located(None, readings={"theta": 0.3}, ring=np.linspace(0, 1, 32))


def test_encoder_noise_is_no_movement():
    rng = np.random.default_rng(0)
    with pytest.raises(CurveError, match=r"span no volume.*theta moved, but on the whole not"):
        located(0.3 + 1e-5 * rng.normal(size=32))


@pytest.mark.parametrize("step_deg", [1e-5, 1e-4])
def test_steps_too_small_for_a_volume_are_refused(step_deg):
    with pytest.raises(CurveError, match="span no volume"):
        located(0.3 + step_deg * np.arange(32))


FLY = replace(
    APS_34IDC,
    sample_circles=(replace(APS_34IDC.sample_circles[0], motors=("omega",)), *APS_34IDC.sample_circles[1:]),
)
"""Beamline whose circle theta is the detector's axis omega."""


def test_in_a_fly_scan_the_axis_of_the_detector_moves_the_circle_not_its_reading_in_the_baseline():
    run = RunContext(uid="run", readings=READINGS | {"theta": 0.3}, units=UNITS)
    geometry, _, _ = locate(curve(blob(), run=run, scanned={"omega": ANGLES}), FLY, FixedGeometry())
    np.testing.assert_allclose(geometry.positions.sample_rad[:, 0], np.deg2rad(ANGLES), atol=1e-12)


def test_the_baseline_goes_before_the_resting_axes_of_the_detector_which_go_before_nothing():
    readings = {name: value for name, value in READINGS.items() if name != "phi"}
    one = curve(blob(), run=RunContext(uid="run", readings=readings, units=UNITS), scanned={"omega": ANGLES})
    axes = {"omega": (0.3, 0.01), "chi": (1.0, 0.0), "phi": (2.0, 0.0)}
    one = replace(one, series=replace(one.series, goniometer=axes))
    geometry, _, _ = locate(one, FLY, FixedGeometry())
    np.testing.assert_allclose(geometry.positions.sample_rad[0, 1:], np.deg2rad([READINGS["chi"], 2.0]))


def scans():
    up_and_down = np.concatenate((ANGLES[::2], ANGLES[::-2]))
    there_and_back = np.concatenate((ANGLES[:24], ANGLES[23:15:-1]))
    shuffled = np.random.default_rng(1).permutation(ANGLES)
    return {"up and down": up_and_down, "there and back": there_and_back, "shuffled": shuffled}


@pytest.mark.parametrize("name", scans())
def test_a_scan_that_is_not_even_is_never_taken_without_a_doubt(name):
    try:
        _, doubts, _ = located(scans()[name])
    except CurveError as error:
        assert "span no volume" in str(error)  # noqa: PT017 - either is an answer
    else:
        assert any("uneven scan" in doubt for doubt in doubts)


def test_an_even_scan_downwards_is_as_good_as_upwards():
    assert located(ANGLES[::-1])[1] == ()


def test_noise_of_a_motor_that_stands_still_is_no_unevenness():
    rng = np.random.default_rng(0)
    assert located(chi=READINGS["chi"] + 1e-6 * rng.normal(size=32))[1] == ()


@pytest.mark.parametrize("unit", ["deg", "Deg", "Degrees", "degree", "DEGREE", "°", "degs"])
def test_degrees_are_spelled_in_many_ways(unit):
    geometry, doubts, _ = located(units={"theta": unit})
    np.testing.assert_allclose(geometry.positions.sample_rad[:, 0], np.deg2rad(ANGLES))
    assert doubts == () or unit == "degs"


@pytest.mark.parametrize(
    ("unit", "kind", "expected"),
    [
        ("mrad", "angle", 1e-3),
        ("RAD", "angle", 1.0),
        ("arcsec", "angle", math.pi / 180 / 3600),
        ("keV", "energy", 1e3),
        ("KEV", "energy", 1e3),
        ("kev", "energy", 1e3),
        ("eV", "energy", 1.0),
        ("J", "energy", 1 / 1.602176634e-19),
        ("mm", "length", 1e-3),
        ("MM", "length", 1e-3),
        ("micron", "length", 1e-6),
        ("µm", "length", 1e-6),
        ("percent", "angle", None),
        ("", "angle", None),
        ("counts", "angle", None),
        ("mm", "angle", None),
        ("parsnip", "energy", None),
        ("m; import os", "length", None),
    ],
)
def test_units_by_kind(unit, kind, expected):
    found = factor(unit, kind)
    assert found is expected if expected is None else found == pytest.approx(expected)


def test_an_unknown_unit_is_a_doubt_with_the_remedy():
    geometry, doubts, _ = located(units={"theta": "steps"})
    np.testing.assert_allclose(geometry.positions.sample_rad[:, 0], np.deg2rad(ANGLES))
    assert any("'theta' has the unit 'steps'" in doubt and "taken as deg" in doubt for doubt in doubts)


def test_what_was_looked_for_is_said():
    bare = replace(APS_34IDC, energy_readings=(("mono_energy", "keV"),), distance_readings=(("table_z", "mm"),))
    run = RunContext(uid="run", readings={k: v for k, v in READINGS.items() if k not in ("energy",)}, units=UNITS)
    with pytest.raises(CurveError, match="looked for mono_energy, and in the detector's header"):
        locate(curve(blob(), run=run), bare, FixedGeometry())
    with pytest.raises(CurveError, match=r"detector distance \(looked for table_z\)"):
        locate(curve(blob(), run=run), bare, FixedGeometry(photon_energy_ev=9000.0))
