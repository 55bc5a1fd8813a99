"""Past scans: settings, servers and runs from which they are reconstructed; what cannot be used is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cdi_stream.assemble.past_run import curves_of_run
from cdi_stream.assemble.settings import AssembleSettings
from cdi_stream.cli.past import _recorded
from cdi_stream.errors import ConfigError, InputError, RecordingError
from cdi_stream.live.past import raw_run, reconstruct_again, scan_of_record
from cdi_stream.protocols import PastImages, PastRun
from cdi_stream.replay.archives import tiled_server
from cdi_stream.replay.endpoints import example_config
from cdi_stream.replay.settings import settings_of
from sim_beamline.scan import recorded_scan
from tests.assembling import scan_begin, scan_points


@pytest.fixture(scope="module")
def scan():
    return recorded_scan("plain")


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("phase.budget_s=20", ("phase", "budget_s", 20.0)),
        ("phase.recipe=20*ER", ("phase", "recipe", "20*ER")),
        ('phase.recipe = "20*ER"', ("phase", "recipe", "20*ER")),
        ("publish.lab_shape=[64, 64, 64]", ("publish", "lab_shape", (64, 64, 64))),
        ("geometry.circles_deg.chi=89", ("geometry", "circles_deg", {"chi": 89.0})),
    ],
)
def test_a_key_of_the_configuration_is_replaced(scan, tmp_path, change, value):
    section, key, expected = value
    config, path = settings_of(None, scan, tmp_path, [change])
    assert getattr(getattr(config, section), key) == expected
    assert path == tmp_path / "reconstruct.toml"


def test_a_plain_key_and_several_keys_are_replaced(scan, tmp_path):
    config, _ = settings_of(None, scan, tmp_path, ["threads=1", "prepare.min_counts=7"])
    assert (config.threads, config.prepare.min_counts) == (1, 7)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("phase.recipe=20*EX", r"phase.recipe: recipe '20\*EX'"),
        ("phase.budget", "--set: expected section.key=value, as phase.budget_s=20, got 'phase.budget'"),
        ("=3", "--set: expected section.key=value"),
        ("phase.colour=3", "phase.colour: unknown key"),
        ("threads.many=3", "--set threads.many=3: expected a table at 'threads'|threads"),
    ],
)
def test_a_change_that_cannot_be_used_is_refused(scan, tmp_path, change, reason):
    with pytest.raises(ConfigError, match=reason):
        settings_of(None, scan, tmp_path, [change])


def test_a_run_without_a_recorded_scan_needs_a_configuration(tmp_path):
    with pytest.raises(ConfigError, match="expected --config with the configuration of the beamline, got none"):
        settings_of(None, None, tmp_path, [])


def test_a_given_server_counts_then_that_of_the_configuration(scan, tmp_path):
    path = tmp_path / "beamline.toml"
    text = example_config(scan, tmp_path)
    path.write_text(text)
    with pytest.raises(ConfigError, match="give --tiled http://host:8000"):
        tiled_server(None, None, path)
    (tmp_path / "tiled.json").write_text(json.dumps({"uri": "http://127.0.0.1:9", "api_key": "own"}))
    local = tiled_server(None, None, path)
    assert (local.uri, local.api_key) == ("http://127.0.0.1:9", "own")
    assert "own" not in repr(local)
    path.write_text(text.replace("[publish]\n", '[publish]\ntiled = "http://tiled:8000"\ntiled_api_key = "k"\n'))
    assert tiled_server(None, None, path).api_key == "k"
    assert tiled_server(None, "mine", path).api_key == "mine"
    assert tiled_server("http://other:1", None, path).uri == "http://other:1"


def test_a_text_that_is_neither_a_file_nor_a_uid_is_refused():
    assert _recorded("0d81f2a4", None) is None
    with pytest.raises(
        RecordingError, match=r"no_such_file\.h5: expected a recorded scan, or the uid of a run in Tiled"
    ):
        _recorded("no_such_file.h5", None)
    with pytest.raises(InputError, match="--scan 3: expected a recorded scan that holds several, got the uid 0d81f2a4"):
        _recorded("0d81f2a4", 3)


class Shelf:
    """An archive with the start documents of some runs."""

    def __init__(self, *starts):
        self.runs = {start["uid"]: PastRun(documents=(("start", start),), images=()) for start in starts}

    def run(self, uid):
        return self.runs.get(uid)


def test_the_raw_run_of_a_reconstruction_and_of_its_refinement():
    raw, ours = {"uid": "raw"}, {"uid": "ours", "original_run_uid": "raw"}
    run, parents = raw_run(Shelf(raw, ours), "ours")
    assert (run.start["uid"], parents) == ("raw", ("ours",))
    assert raw_run(Shelf(raw), "raw")[1] == ()
    with pytest.raises(RecordingError, match="raw: expected the raw run of ours in the archive, got none"):
        raw_run(Shelf(ours), "ours")


def past_run(scan, images=None, **metadata):
    """The documents of a scan and its images, as an archive gives them."""
    begin = [item for item in scan_begin(scan, **metadata) if isinstance(item, tuple)]
    events = [item for point in scan_points(scan) for item in point if isinstance(item, tuple)]
    for _, doc in events:
        doc["data"].pop("det_image_id")
    stop = ("stop", {"run_start": "raw", "time": 1e9, "num_events": {"primary": len(events)}})
    frames = scan.frames if images is None else images
    stack = PastImages(stream="primary", key="eiger", shape=frames.shape, read=lambda k, n: frames[k : k + n])
    return PastRun(documents=(*begin, *events, stop), images=(stack,))


SETTINGS = AssembleSettings(motors=frozenset({"theta"}))


def test_a_run_gives_the_curve_of_its_frames_and_readings(scan, monkeypatch):
    monkeypatch.setattr("cdi_stream.assemble.past_run.BLOCK_BYTES", 8 * 5 * scan.frames[0].size)
    (curve,) = curves_of_run(past_run(scan, sample="gold 7"), SETTINGS)
    np.testing.assert_array_equal(curve.counts, scan.frames)
    np.testing.assert_array_equal(curve.scanned["theta"], scan.scanned["theta"])
    assert curve.run.readings == dict(scan.baseline)
    assert (curve.run.uid, curve.run.sample, curve.account.missing, curve.doubts) == ("raw", "gold 7", (), ())


def test_a_run_of_several_curves_gives_each(scan):
    curves = curves_of_run(past_run(scan, points_per_curve=16), SETTINGS)
    assert [curve.curve_index for curve in curves] == [0, 1, 2]
    for k, curve in enumerate(curves):
        np.testing.assert_array_equal(curve.counts, scan.frames[16 * k : 16 * k + 16])
        np.testing.assert_array_equal(curve.scanned["theta"], scan.scanned["theta"][16 * k : 16 * k + 16])


def test_the_region_of_interest_is_cut(scan):
    (curve,) = curves_of_run(past_run(scan), replace(SETTINGS, roi=(4, 40, 8, 48)))
    np.testing.assert_array_equal(curve.counts, scan.frames[:, 4:40, 8:48])
    assert curve.series.roi == (4, 40, 8, 48)


def test_whole_numbers_of_another_type_are_counts_and_others_are_refused(scan):
    (curve,) = curves_of_run(past_run(scan, scan.frames.astype(np.float64)), SETTINGS)
    np.testing.assert_array_equal(curve.counts, scan.frames)
    with pytest.raises(RecordingError, match="eiger: expected whole numbers from 0 to 4294967295, got float64"):
        curves_of_run(past_run(scan, scan.frames + 0.5), SETTINGS)


def test_a_run_without_images_or_with_several_is_refused(scan):
    run = past_run(scan)
    with pytest.raises(RecordingError, match=r"its frames went over the wire only.*cdi-stream record --documents"):
        curves_of_run(replace(run, images=()), SETTINGS)
    two = replace(run, images=(*run.images, replace(run.images[0], key="camera")))
    with pytest.raises(RecordingError, match="expected --detector with one of the images camera, eiger, got several"):
        curves_of_run(two, SETTINGS)
    with pytest.raises(RecordingError, match="got 'pilatus'"):
        curves_of_run(two, SETTINGS, "pilatus")
    assert len(curves_of_run(two, SETTINGS, "eiger")) == 1


def test_a_recorded_scan_has_the_uid_of_its_raw_run_or_one_of_its_frames(scan, tmp_path):
    config, _ = settings_of(None, scan, tmp_path, ["detector.roi=[4, 40, 8, 48]"])
    known = scan_of_record(replace(scan, run_uid="raw", truth=None), config)
    assert known.raw_uid == "raw"
    assert known.curves[0].run.metadata == {"replay_of": scan.name}
    np.testing.assert_array_equal(known.curves[0].counts, scan.frames[:, 4:40, 8:48])
    uids = [scan_of_record(one, config).raw_uid for one in (scan, scan, replace(scan, frames=scan.frames + 1))]
    assert uids[0] == uids[1] != uids[2]


def test_other_settings_give_another_uid_the_same_the_same(scan, tmp_path: Path):
    def uid_with(*changes):
        config, _ = settings_of(None, scan, tmp_path, ["threads=1", "phase.recipe=2*ER", *changes])
        documents = []
        uid = reconstruct_again(scan_of_record(scan, config), config, tmp_path, lambda *d: documents.append(d))
        assert [name for name, _ in documents].count("event") == 2
        return uid

    assert uid_with() == uid_with() != uid_with("publish.lab_shape=[48, 48, 48]")
