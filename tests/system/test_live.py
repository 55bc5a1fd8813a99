"""Service, RunEngine and detector in processes of their own, a proxy between, a foreign client listening."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from cdi_stream.documents.tiled_server import local_tiled
from cdi_stream.errors import ServiceError
from cdi_stream_plugins.sinks.tiled import TiledSink
from sim_beamline.scan import recorded_scan
from tests.system.beamline import beamline


@pytest.fixture(scope="module")
def plain():
    return recorded_scan("plain")


def reconstructions(line):
    return line.ours("event", "reconstruction")


def test_two_curves_in_one_run_reach_a_foreign_dispatcher_and_tiled(tmp_path, plain):
    with beamline(tmp_path, plain) as line:
        line.start_service()
        line.start_detector()
        line.start_plan(n_curves=2, speed="5")
        line.wait_until(lambda: line.ours("stop"))
        (start,) = line.ours("start")
        (stop,) = line.ours("stop")
        line.wait_until(lambda: line.is_in_tiled(start["uid"]))
        raw = [doc for name, doc in line.documents() if name == "start" and "analysis_stage" not in doc]
        progress, previews = line.ours("event", "progress"), line.ours("event", "preview")
        inferences, results = line.ours("event", "inference"), reconstructions(line)
        documents = line.documents()
    assert start["original_run_uid"] == raw[0]["uid"]
    assert start["parent_uids"] == [raw[0]["uid"]]
    assert start["cdi_stream"]["network"]["sha256"]
    assert stop["exit_status"] == "success"
    counts = {"progress": len(progress), "preview": len(previews), "inference": 2, "reconstruction": 2}
    assert stop["num_events"] == {stream: n for stream, n in counts.items() if n}
    assert [event["data"]["inference_curve_index"] for event in inferences] == [0, 1]
    for index, event in enumerate(results):
        data = event["data"]
        assert data["reconstruction_curve_index"] == index
        assert data["reconstruction_frames_received"] == data["reconstruction_frames_expected"] == len(plain.frames)
        assert data["reconstruction_verdict"] == "good", data["reconstruction_reasons"]
        assert not any(isinstance(value, list) for value in data.values()), "no volume inside an event"
    received = [event["data"]["progress_frames_received"] for event in progress]
    assert any(0 < n < len(plain.frames) for n in received), "progress must be seen while the scan runs"

    first = h5py.File(results[0]["data"]["reconstruction_file"])["entry"]
    np.testing.assert_array_equal(first["cdi_stream/frame_sums"][()], plain.frame_sums)
    files = [event["data"]["reconstruction_file"] for event in results]
    with local_tiled(tmp_path) as server:
        wait_for(server)
        check_tiled(server.uri, server.api_key, start["uid"], files)
        ours = [(name, doc) for name, doc in documents if belongs(name, doc, start["uid"], documents)]
        check_old_writer(server.uri, server.api_key, ours, files)
        check_rewriting(server.uri, server.api_key, ours, files)


def wait_for(server, timeout_s=600):
    end = time.monotonic() + timeout_s
    while True:
        try:
            return server.require_answer()
        except ServiceError:
            assert time.monotonic() < end
            time.sleep(0.2)


def belongs(name, doc, uid, documents):
    resources = {d["uid"] for n, d in documents if n == "stream_resource" and d["run_start"] == uid}
    descriptors = {d["uid"] for n, d in documents if n == "descriptor" and d["run_start"] == uid}
    if name == "start":
        return doc["uid"] == uid
    return (
        doc.get("run_start") == uid or doc.get("descriptor") in descriptors or doc.get("stream_resource") in resources
    )


def check_tiled(uri, api_key, uid, files):
    from tiled.client import from_uri

    client = from_uri(uri, api_key=api_key)
    try:
        run = client[uid]
        assert run.metadata["stop"]["exit_status"] == "success"
        volumes = run["reconstruction"]["reconstruction_crystal"].read()
        chi2 = run["reconstruction"]["reconstruction_chi2"].read()
    finally:
        client.context.close()
    assert volumes.dtype == np.complex64
    assert np.isfinite(chi2).all()
    for volume, file in zip(volumes, files, strict=True):
        with h5py.File(file) as data:
            np.testing.assert_array_equal(volume, data["entry/data/crystal"][0])


@pytest.mark.filterwarnings("ignore")
def check_old_writer(uri, api_key, documents, files):
    """The writer that ships with bluesky reads our assets back identically too."""
    import warnings

    from bluesky.callbacks.tiled_writer import TiledWriter
    from tiled.client import from_uri

    client = from_uri(uri, api_key=api_key)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            old = client.create_container(key="old-writer")
            writer = TiledWriter(old)
            for name, doc in documents:
                writer(name, doc)
            uid = documents[0][1]["uid"]
            volumes = client["old-writer"][uid]["reconstruction"]["reconstruction_crystal"].read()
    finally:
        client.context.close()
    for volume, file in zip(volumes, files, strict=True):
        with h5py.File(file) as data:
            np.testing.assert_array_equal(volume, data["entry/data/crystal"][0])


def check_rewriting(uri, api_key, documents, files):
    """A run that a killed service left without its stop document is written again, and its files stay."""
    uid = documents[0][1]["uid"]
    other = uid[:-4] + "0000"
    again = [(name, doc) for name, doc in json.loads(json.dumps(documents).replace(uid, other))]
    copies = [shutil.copy(file, file.replace(uid, other)) for file in files]
    for file in Path(files[0]).parent.glob(f"{uid}*_inference.h5"):
        shutil.copy(file, str(file).replace(uid, other))
    for attempt in (again[:-1], again):
        sink = TiledSink(uri=uri, api_key=api_key)
        assert not sink.has_run(other)
        for name, doc in attempt:
            sink(name, doc)
        sink.close()
    sink = TiledSink(uri=uri, api_key=api_key)
    assert sink.has_run(other)
    sink.close()
    check_tiled(uri, api_key, other, copies)


@pytest.mark.slow
def test_killed_in_mid_scan_the_curve_goes_on_with_the_frames_that_were_there(tmp_path, plain):
    with beamline(tmp_path, plain) as line:
        line.start_service()
        line.start_detector()
        broken_plan = line.start_plan(speed="3")
        line.wait_until(lambda: line.ours("event", "progress"))
        line.children.kill("service")
        raw = [doc["uid"] for name, doc in line.documents() if name == "start" and "analysis_stage" not in doc]
        restarted = line.start_service("restarted")
        assert broken_plan.wait(60) == 0
        line.wait_until(lambda: reconstructions(line))
        assert line.start_plan().wait(60) == 0
        line.wait_until(lambda: len(line.ours("stop")) >= 3)
        restarted.terminate()
        assert restarted.wait(60) == 0
        results = reconstructions(line)
        starts = line.ours("start")
    first, second = [event["data"] for event in results]
    n = len(plain.frames)
    assert first["reconstruction_frames_expected"] == second["reconstruction_frames_expected"] == n
    assert first["reconstruction_frames_received"] >= n - 16, "what the socket held when it died, no more"
    assert first["reconstruction_verdict"] != "failed", first["reconstruction_reasons"]
    assert second["reconstruction_frames_missing"] == 0
    assert second["reconstruction_verdict"] == "good"
    by_raw = [start["original_run_uid"] for start in starts]
    assert by_raw.count(raw[0]) == 2, "the run left open, and the one that says what became of it"
    assert len({start["uid"] for start in starts}) == len(starts)
