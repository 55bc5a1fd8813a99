"""Readings of a run: one value for the whole scan, in the result file too."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

from cdi_stream.files.result_file import readings_in
from cdi_stream.inversion import tracks
from cdi_stream.inversion.chain import failed
from cdi_stream.inversion.tracks import run_readings
from cdi_stream.messages import Reading, RunContext, Verdict
from cdi_stream.metrics import Metrics
from sim_beamline.scan import recorded_scan
from tests.builders import curve_of
from tests.unit.test_archive import publish


@pytest.fixture(scope="module")
def curve():
    """A curve whose run has readings at each frame, and readings of the whole run."""
    n = len(recorded_scan("plain").frames)
    stage = np.where(np.arange(n) % 2, 301.0, 299.0)
    stage[3] = np.nan
    run = RunContext(uid="run", readings={"arm": 1.5, "stage": 7.0, "broken": np.inf}, units={"stage": "K"})
    scanned = {"stage": np.append(stage[:4], stage[4:]), "dead": np.full(n, np.nan)}
    return replace(curve_of(recorded_scan("plain")), scanned=scanned, run=run)


def test_a_reading_at_each_frame_counts_by_its_mean_and_others_by_their_value(curve):
    found = run_readings(curve)
    mean = np.nanmean(curve.scanned["stage"])
    assert found == {"stage": Reading(value=pytest.approx(mean), unit="K"), "arm": Reading(value=1.5)}


def test_readings_at_the_frames_are_kept_first(curve, monkeypatch):
    monkeypatch.setattr(tracks, "MAX_READINGS", 1)
    assert list(run_readings(curve)) == ["stage"]


def test_a_failed_result_has_the_readings_too(curve):
    result = failed("reconstruction", curve, Verdict(grade="failed"), Metrics())
    assert result.readings["arm"].value == 1.5


def test_the_result_file_holds_the_readings(tmp_path):
    readings = {"stage/of π": Reading(value=300.0, unit="°C"), "arm": Reading(value=1.5)}
    path = publish(tmp_path, "run", 1, ["reconstruction"], 1000.0, readings=readings)
    with h5py.File(path) as file:
        assert readings_in(file) == readings
    with h5py.File(publish(tmp_path, "other", 2, ["reconstruction"], 1000.0)) as file:
        assert readings_in(file) == {}
