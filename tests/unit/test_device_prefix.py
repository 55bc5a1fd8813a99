"""Readings of motors that are parts of a device, and bear its name."""

from __future__ import annotations

import pytest

from cdi_stream.errors import CurveError
from cdi_stream.inversion.device_prefix import device_prefix
from cdi_stream_plugins.beamlines.aps_34idc import APS_34IDC

CIRCLES = APS_34IDC.sample_circles + APS_34IDC.detector_circles
NAMES = ("theta", "chi", "phi", "delta", "gamma")


@pytest.mark.parametrize("joint", ["_", "-"])
def test_circles_of_one_device_are_found_by_its_name(joint):
    readings = [f"gonio{joint}{name}" for name in NAMES] + ["eiger_total", "gonio_theta_user_setpoint"]
    assert device_prefix(readings, CIRCLES) == f"gonio{joint}"


def test_circles_with_their_own_names_need_no_prefix():
    assert device_prefix([*NAMES, "gonio_theta"], CIRCLES) == ""


def test_one_circle_may_be_a_device_of_its_own():
    assert device_prefix(["theta", *(f"gonio_{name}" for name in NAMES[1:])], CIRCLES) == "gonio_"


def test_circles_of_two_devices_are_refused_with_their_names():
    readings = [f"{device}_{name}" for device in ("left", "right") for name in NAMES]
    with pytest.raises(CurveError, match="several devices, left, right"):
        device_prefix(readings, CIRCLES)


def test_a_device_that_lacks_a_circle_is_not_the_goniometer():
    readings = [f"gonio_{name}" for name in NAMES] + ["stage_theta", "stage_chi"]
    assert device_prefix(readings, CIRCLES) == "gonio_"
    assert device_prefix(["stage_theta", "stage_chi"], CIRCLES) == ""
