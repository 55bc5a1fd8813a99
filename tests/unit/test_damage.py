"""Frames whose pixels were damaged on their way, as far as their hot voxels tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cdi_stream.inversion.chain import detector_of
from cdi_stream.inversion.damage import MIN_HOT, doubt_of_damage
from cdi_stream.inversion.locate import locate
from cdi_stream.inversion.prepare import prepare
from sim_beamline.faults.fault import Sending
from sim_beamline.faults.menu import Faults
from sim_beamline.scan import recorded_scan
from tests.builders import curve_of, settings_for


def prepared(scan, curve):
    settings = settings_for(scan)
    geometry, _, _ = locate(curve, settings.beamline, settings.fixed)
    return prepare(curve, geometry, detector_of(curve, settings.detector), settings.prepare)


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bits_that_still_decode_are_doubted(seed):
    scan = recorded_scan("small")
    faults = Faults(names=("flip",), seed=seed, n_points=len(scan.frames))
    curve, stage, frames = curve_of(scan), faults.on_frames(), []
    for k, pixels in enumerate(scan.frames):
        frames += [out.pixels for out in stage(Sending(kind="image", series=1, image_id=k, pixels=pixels))]
    assert prepared(scan, curve).doubts == ()
    (doubt,) = prepared(scan, replace(curve, counts=np.stack(frames))).doubts
    for point in faults.points("flip"):
        assert f"{point} (" in doubt


def test_few_hot_voxels_and_hot_voxels_in_every_frame_are_no_damage():
    hot = np.zeros((9, 20, 20), dtype=bool)
    hot[3, 0, :MIN_HOT] = True
    assert doubt_of_damage(hot) == ()
    hot[3, :, 0] = True
    assert "frames, which were masked: 7 (" in doubt_of_damage(hot, first_frame=4)[0]
    hot[:, :, 0] = True
    assert doubt_of_damage(hot) == ()
