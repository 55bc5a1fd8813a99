"""Crystals of curves that are still measured: what is not measured is not valid, and previews give way to curves."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import h5py
import numpy as np
import pytest

from cdi_stream.disk.result_folder import ResultFolder
from cdi_stream.documents import publish
from cdi_stream.documents.spool import BUS, Spool
from cdi_stream.inversion.ahead import WorkAhead
from cdi_stream.inversion.chain import infer_curve
from cdi_stream.inversion.locate import locate
from cdi_stream.inversion.prepare import prepare
from cdi_stream.inversion.preview import preview_curve
from cdi_stream.live.outgoing import Outgoing
from cdi_stream.live.previews import Previews
from cdi_stream.operators.announce import Announcer
from sim_beamline.scan import recorded_scan
from tests.assembling import Rig, scan_begin, scan_points
from tests.builders import settings_for
from tests.unit.test_publish import PROVENANCE


@pytest.fixture(scope="module")
def scan():
    return recorded_scan("plain")


@pytest.fixture(scope="module")
def settings(scan):
    return settings_for(scan)


@pytest.fixture(scope="module")
def partials(scan):
    """Partial curves at 50 and 75 % of the scan, and the complete curve, measured point by point."""
    rig = Rig(motors=frozenset(scan.scanned), preview_fractions=(0.5, 0.75))
    rig.feed(*scan_begin(scan))
    found = []
    for item in chain.from_iterable(scan_points(scan)):
        rig.feed(item)
        found += rig.assembler.partial_curves()
    return [*found, *rig.curves]


@pytest.fixture(scope="module")
def at_75(partials, network, settings):
    return preview_curve(partials[1], network, settings)


def test_frames_that_are_not_measured_are_not_valid(partials, settings):
    curve = partials[1].with_counts()
    geometry, _, _ = locate(curve, settings.beamline, settings.fixed)
    volume = prepare(curve, geometry, settings.detector, settings.prepare)
    first = 26 - len(volume.counts) // 2  # the peak, frame 26, lies at the origin voxel
    measured = volume.valid_pixels.any(axis=(1, 2))
    assert np.flatnonzero(measured).tolist() == [k - first for k in range(36) if 0 <= k - first < len(measured)]
    assert not volume.counts[~measured].any()


def test_a_preview_is_preliminary_and_says_how_many_frames_it_has(at_75):
    assert at_75.stream == "preview"
    assert at_75.verdict.grade == "preliminary"
    assert at_75.verdict.reasons[0] == "a preview of 36 of 48 frames: the others are not measured yet"
    assert not any("missing" in reason or "newest" in reason for reason in at_75.verdict.reasons)
    assert at_75.metrics.fraction == 0.75
    assert at_75.account.received == 36
    assert np.isfinite(at_75.metrics.chi2)


def test_a_peak_that_is_not_passed_yet_is_a_reason(partials, network, settings):
    result = preview_curve(partials[0], network, settings)
    text = "the newest frame has 100 % of the largest counts: the Bragg peak is not passed yet"
    assert text in result.verdict.reasons


def test_frames_that_are_missing_before_the_newest_are_a_doubt(partials, network, settings):
    partial = partials[1]
    has_frame = partial.curve.has_frame.copy()
    has_frame[3] = False
    account = replace(partial.curve.account, received=35, missing=(3, *partial.curve.account.missing))
    lacking = replace(partial, curve=replace(partial.curve, has_frame=has_frame, account=account))
    result = preview_curve(lacking, network, settings)
    assert "incomplete: 1 of 48 frames missing (3)" in result.verdict.reasons


def test_the_inference_is_the_same_with_and_without_a_preview_before_it(at_75, partials, network, settings):
    after = infer_curve(partials[2], network, settings).result.crystal
    fresh = infer_curve(replace(partials[2], counts=partials[2].counts.copy()), network, settings).result.crystal
    np.testing.assert_array_equal(after.density, fresh.density)
    np.testing.assert_array_equal(after.support, fresh.support)
    assert not np.array_equal(at_75.crystal.density, after.density)


class Desk:
    """Previews with a clock that is set by hand, and the documents of what they publish."""

    def __init__(self, directory, network, settings):
        self.now_s, self.directory = 0.0, directory
        self.spool, self.announcer = Spool(directory), Announcer(None)
        results = ResultFolder(base=directory)
        shapes = {"preview": network.lab_shape}
        outgoing = Outgoing(PROVENANCE, shapes, results, self.spool, lambda: None, self.announcer)
        self.previews = Previews(network, settings, WorkAhead(settings), outgoing, lambda: self.now_s)

    def take(self, partial, *reasons, ends_s=1e9):
        """Take a preview; ``reasons`` are those that speak against it before each step, in turn."""
        turns = iter(reasons)
        self.previews.take(replace(partial, ends_s=ends_s), lambda: next(turns, ""))
        return self.previews.n_published, self.previews.n_dropped

    def documents(self, kind):
        return [entry.doc for entry in self.spool.waiting(BUS) if entry.name == kind]


@pytest.fixture
def desk(tmp_path, network, settings):
    made = Desk(tmp_path, network, settings)
    yield made
    made.announcer.close()
    made.spool.close()


def test_a_preview_is_published_with_its_arrays(desk, partials, at_75, network):
    assert desk.take(partials[1]) == (1, 0)
    (event,) = desk.documents("event")
    assert event["data"]["preview_fraction"] == 0.75
    assert event["data"]["preview_curve_index"] == 0
    assert (event["data"]["preview_frames_received"], event["data"]["preview_frames_expected"]) == (36, 48)
    assert [doc["data_key"] for doc in desk.documents("stream_resource")] == ["preview_crystal", "preview_support"]
    (descriptor,) = desk.documents("descriptor")
    assert descriptor["data_keys"]["preview_crystal"]["shape"] == list(network.lab_shape)
    with h5py.File(event["data"]["preview_file"]) as file:
        np.testing.assert_array_equal(file["entry/data/crystal"][0], at_75.crystal.density)


@pytest.mark.parametrize("step", range(5))
def test_a_preview_gives_way_to_a_complete_curve_at_each_step(desk, partials, step, caplog):
    with caplog.at_level("INFO"):
        assert desk.take(partials[1], *[""] * step, "a complete curve waits") == (0, 1)
    assert "the preview at 75 % is dropped: a complete curve waits (1 dropped so far)" in caplog.text
    assert desk.documents("event") == []


def test_a_preview_that_would_be_later_than_its_curve_is_dropped(desk, partials):
    desk.previews._duration_s = 4.0
    assert desk.take(partials[1], ends_s=3.0) == (0, 1)
    assert desk.take(partials[1], ends_s=3.0) == (1, 1), "one slow preview does not prevent all others"


def test_on_a_full_disk_no_preview_is_published_and_none_is_kept(desk, partials, monkeypatch):
    def full(path, content):
        raise OSError(28, "no space left on the disk")

    with monkeypatch.context() as patch:
        patch.setattr(publish, "write_result", full)
        assert desk.take(partials[1]) == (0, 1)
    assert desk.documents("event") == []
    assert desk.previews._outgoing._pending == []
    assert desk.take(partials[1]) == (1, 1)
    assert [event["seq_num"] for event in desk.documents("event")] == [1]


def test_an_error_of_the_program_is_a_failed_preview(desk, partials, monkeypatch):
    from cdi_stream.live import previews

    def breaks(*_):
        raise ValueError("a stage broke")

    monkeypatch.setattr(previews, "preview_curve", breaks)
    desk.take(partials[1])
    (event,) = desk.documents("event")
    assert event["data"]["preview_verdict"] == "failed"
    assert "a stage broke" in event["data"]["preview_reasons"]
