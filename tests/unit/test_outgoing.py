"""Results on a full disk: events are published, arrays follow, and an alarm is active."""

from __future__ import annotations

import errno
from dataclasses import replace

import h5py
import numpy as np
import pytest

from cdi_stream.alarms import Alarms
from cdi_stream.disk.result_folder import ResultFolder
from cdi_stream.documents import publish
from cdi_stream.documents.spool import BUS, Spool
from cdi_stream.files.result_file import ARRAYS, LATTICE_ARRAYS
from cdi_stream.live.outgoing import ARRAYS_WAIT_S, Outgoing
from cdi_stream.messages import CurveProgress, RunContext
from cdi_stream.operators.announce import Announcer
from tests.unit.test_publish import PROVENANCE, SHAPES, result

CONTEXT = RunContext(uid="raw", scan_id=4, sample="gold 7", plan_name="rock", motors=("theta",))


class Rig:
    def __init__(self, directory, monkeypatch):
        self.now_s = 0.0
        self.is_full = False
        self.alarms = Alarms()
        self.spool = Spool(directory)
        self.announcer = Announcer(None)
        self.outgoing = Outgoing(
            PROVENANCE,
            SHAPES,
            ResultFolder(base=directory),
            self.spool,
            lambda: None,
            self.announcer,
            self.alarms,
            lambda: self.now_s,
        )
        self._whole = publish.write_result
        monkeypatch.setattr(publish, "write_result", self._write)

    def _write(self, path, content):
        if self.is_full:
            raise OSError(errno.ENOSPC, "no space left on the disk")
        self._whole(path, content)

    def documents(self, kind=None):
        return [entry.doc if kind else entry.name for entry in self.spool.waiting(BUS) if kind in (None, entry.name)]


@pytest.fixture
def rig(tmp_path, monkeypatch):
    made = Rig(tmp_path, monkeypatch)
    yield made
    made.announcer.close()
    made.spool.close()


def test_a_result_goes_out_with_its_arrays_and_says_so(rig):
    assert rig.outgoing.result(CONTEXT, result("reconstruction")) is None
    (event,) = rig.documents("event")
    assert event["data"]["reconstruction_arrays"] == "stored"
    assert len(rig.documents("stream_datum")) == len(ARRAYS | LATTICE_ARRAYS)
    (start,) = rig.documents("start")
    assert (start["sample"], start["raw_plan_name"], start["raw_motors"]) == ("gold 7", "rock", ["theta"])


def test_the_file_tells_what_it_is_of_by_itself(rig):
    rig.outgoing.result(CONTEXT, result("reconstruction"))
    (event,) = rig.documents("event")
    with h5py.File(event["data"]["reconstruction_file"]) as file:
        entry = file["entry"]
        assert (entry.attrs["raw_uid"], entry.attrs["scan_id"], entry.attrs["sample"]) == ("raw", 4, "gold 7")
        assert list(entry["data"].attrs["axes"]) == ["curve", "z_nm", "y_nm", "x_nm"]
        assert entry["data/x_nm"][6] == 0
        assert entry["data/x_nm"][7] == pytest.approx(5.0)
        assert entry["data/x_nm"].attrs["units"] == "nm"


def test_a_failed_result_takes_no_room(rig, tmp_path):
    rig.outgoing._shapes = SHAPES | {"reconstruction": (96, 96, 96)}
    rig.outgoing.result(CONTEXT, result("reconstruction", with_crystal=False))
    (file,) = tmp_path.glob("*_reconstruction.h5")
    assert file.stat().st_size < 100_000
    with h5py.File(file) as content:
        assert content["entry/data/crystal"].shape == (1, 96, 96, 96)
        assert not content["entry/data/crystal"][()].any()
        assert np.isnan(content["entry/data/strain"][()]).all()


def test_on_a_full_disk_the_event_goes_out_and_the_arrays_follow(rig):
    rig.is_full = True
    problem = rig.outgoing.result(CONTEXT, result("reconstruction"))
    assert "no space left" in problem
    (event,) = rig.documents("event")
    assert event["data"]["reconstruction_arrays"] == "pending"
    assert event["data"]["reconstruction_verdict"] == "good"
    assert rig.documents("stream_datum") == []
    assert [alarm["key"] for alarm in rig.alarms.active()] == ["disk"]
    rig.outgoing.close("raw")
    rig.outgoing.retry()
    assert rig.documents("stop") == []
    rig.is_full = False
    rig.outgoing.retry()
    assert len(rig.documents("stream_datum")) == len(ARRAYS | LATTICE_ARRAYS)
    assert rig.documents()[-1] == "stop"
    assert rig.alarms.active() == []


def test_arrays_that_come_too_late_have_a_run_of_their_own(rig):
    rig.is_full = True
    rig.outgoing.result(CONTEXT, result("reconstruction"))
    rig.outgoing.close("raw")
    rig.now_s += ARRAYS_WAIT_S + 1
    rig.outgoing.retry()
    assert rig.documents()[-1] == "stop"
    rig.is_full = False
    rig.outgoing.retry()
    first, second = rig.documents("start")
    assert second["analysis_stage"] == "arrays"
    assert second["parent_uids"] == ["raw", first["uid"]]
    assert len(rig.documents("stream_datum")) == len(ARRAYS | LATTICE_ARRAYS)
    assert len(rig.documents("stop")) == 2


def test_what_cannot_be_published_is_returned_and_harms_nothing(rig):
    odd = replace(result("reconstruction"), notes={"method": object()})
    assert "not published" in rig.outgoing.result(CONTEXT, odd)
    assert rig.outgoing.result(CONTEXT, result("inference")) is None
    assert len(rig.documents("event")) == 1


@pytest.mark.parametrize(
    "metadata",
    [
        {"data_session": 5},
        {"sample": {"a.b": 1}},
        {"proposal": "\ud800"},
        {"sample": "a\x00b"},
        {"tiled_access_tags": {}},
    ],
)
def test_metadata_that_no_document_allows_cost_no_result(rig, metadata):
    context = replace(CONTEXT, metadata={"cycle": "2026-2", **metadata})
    assert rig.outgoing.result(context, result("reconstruction")) is None
    (start,) = rig.documents("start")
    assert start["cycle"] == "2026-2"
    assert len(rig.documents("event")) == 1


def test_a_curve_is_spoken_for_only_when_its_arrays_are_stored(rig):
    done = []
    rig.outgoing._done = done.append
    rig.is_full = True
    rig.outgoing.result(CONTEXT, replace(result("reconstruction"), key="curve"))
    assert done == []
    assert not rig.spool.is_published("curve")
    rig.is_full = False
    rig.outgoing.retry()
    assert done == ["curve"]
    assert rig.spool.is_published("curve")


def test_every_run_is_closed_at_the_end(rig):
    rig.is_full = True
    rig.outgoing.result(CONTEXT, result("reconstruction"))
    rig.outgoing.close("raw")
    rig.outgoing.result(replace(CONTEXT, uid="other"), result("inference"))
    assert rig.outgoing.close_all("stopped") == 2
    assert len(rig.documents("stop")) == 2


@pytest.mark.parametrize("is_open", [True, False])
def test_arrays_that_cannot_be_described_leave_no_half_documents(rig, monkeypatch, is_open):
    def breaks(publisher, *_):
        publisher._emit("stream_resource", {"uid": "half"})
        raise ValueError("no such array")

    rig.is_full = True
    rig.outgoing.result(CONTEXT, result("reconstruction"))
    if not is_open:
        rig.outgoing.close("raw")
        rig.now_s += ARRAYS_WAIT_S + 1
        rig.outgoing.retry()
    rig.is_full = False
    monkeypatch.setattr(publish.RunPublisher, "_name_arrays", breaks)
    rig.outgoing.retry()
    assert rig.outgoing.close_all("the end") == 0
    assert rig.documents() == ["start", "descriptor", "event", "stop"]


def test_progress_that_fails_takes_nothing_from_another_run(rig, monkeypatch):
    def breaks(publisher, _):
        publisher._emit("event", {"uid": "half"})
        raise ValueError("no progress")

    other = replace(CONTEXT, uid="other")
    monkeypatch.setattr(publish.RunPublisher, "progress", breaks)
    rig.outgoing.progress(CurveProgress(series=1, run=other, curve_index=0, account=result("reconstruction").account))
    assert rig.outgoing.result(CONTEXT, result("reconstruction")) is None
    assert rig.documents().count("event") == 1
