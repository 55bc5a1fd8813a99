"""The command ``reconstruct``: a past scan again, from a recorded file, and by uid from a real Tiled server."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import bluesky.plans as bp
import event_model
import h5py
import numpy as np
import pytest
from bluesky.preprocessors import SupplementalData
from ophyd.sim import SynAxis, SynSignal

from cdi_stream.files.recording import write_scan
from cdi_stream.replay.endpoints import example_config
from sim_beamline.scan import recorded_scan
from tests.system.command_line import last_line, run
from tests.system.test_tiled_source import KEY, Beamline, Server

ophyd_async = pytest.importorskip("ophyd_async.core", reason="ophyd-async is not installed: pip install ophyd-async")

QUICK = ("--set", "phase.recipe=20*ER", "--set", "threads=1", "--json")


@pytest.fixture(scope="module")
def scan():
    return recorded_scan("plain")


@pytest.fixture(scope="module")
def scan_file(scan, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    write_scan(scan, path)
    return path


def documents_in(folder):
    return [json.loads(line) for line in (folder / "documents.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_recorded_scan_is_reconstructed_with_other_settings(scan_file, tmp_path):
    first = run("reconstruct", str(scan_file), "--out", str(tmp_path / "a"), *QUICK)
    assert first.returncode == 0, first.stderr
    result = last_line(first)
    assert (result["expected"], result["missing"], result["verdict"]) == (48, 0, "good")
    assert result["frame_sums_match"]
    assert result["nmse_to_truth_lab"] < 0.2
    documents = documents_in(tmp_path / "a")
    for name, doc in documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
    start, stop = documents[0][1], documents[-1][1]
    assert start["uid"] == result["reconstruction_uid"]
    assert start["original_run_uid"] == result["raw_uid"]
    assert start["parent_uids"] == [result["raw_uid"]]
    assert start["simulated"] is True
    assert stop["num_events"] == {"inference": 1, "reconstruction": 1}
    again = run("reconstruct", str(scan_file), "--out", str(tmp_path / "b"), *QUICK)
    other = run(
        "reconstruct", str(scan_file), "--out", str(tmp_path / "c"), *QUICK, "--set", "publish.lab_shape=[64, 64, 64]"
    )
    assert last_line(again)["reconstruction_uid"] == result["reconstruction_uid"]
    assert last_line(other)["reconstruction_uid"] != result["reconstruction_uid"]
    assert last_line(other)["raw_uid"] == result["raw_uid"]
    with h5py.File(last_line(other)["file"]) as file:
        assert file["entry/data/crystal"].shape == (1, 64, 64, 64)


class ImageFile(ophyd_async.DetectorDataLogic):
    """HDF5 file of a detector, with one image more after each trigger."""

    def __init__(self, path: Path, frames: np.ndarray) -> None:
        self.n_written, self._set_written = ophyd_async.soft_signal_r_and_setter(int)
        self._path, self._frames, self._n = path, frames, 0

    async def prepare_unbounded(self, datakey_name):
        shape = self._frames.shape[1:]
        with h5py.File(self._path, "w") as file:
            file.create_dataset("entry/data/data", (0, *shape), self._frames.dtype, maxshape=(None, *shape))
        image = ophyd_async.StreamResourceInfo(
            data_key=datakey_name,
            shape=shape,
            chunk_shape=(1, *shape),
            dtype_numpy=self._frames.dtype.str,
            parameters={"dataset": "/entry/data/data"},
        )
        uri = f"file://localhost{self._path}"
        return ophyd_async.StreamResourceDataProvider(uri, [image], "application/x-hdf5", self.n_written)

    def append(self) -> None:
        """Write the next image."""
        with h5py.File(self._path, "a") as file:
            data = file["entry/data/data"]
            data.resize(self._n + 1, axis=0)
            data[self._n] = self._frames[self._n]
        self._n += 1
        self._set_written(self._n)


class OneFrame(ophyd_async.DetectorTriggerLogic):
    """The detector takes one frame for each trigger."""

    n_frames = 1

    async def prepare_internal(self, num, livetime, deadtime):
        self.n_frames = num


class FileDetector(ophyd_async.StandardDetector):
    """A detector that writes its own file."""

    def __init__(self, path: Path, frames: np.ndarray) -> None:
        from sim_beamline.fly_devices import Capture
        from sim_beamline.pulses import Motion

        triggers, file, motion = OneFrame(), ImageFile(path, frames), Motion(period_s=0.01)
        self.add_detector_logics(triggers, Capture(file, triggers, motion), file)
        motion.start()  # each trigger of the plan takes its frame at once
        super().__init__(name="eiger")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("tiled"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def config_file(scan, server):
    """Configuration with the numbers that the header of the detector has on the wire; its Tiled is the server."""
    path = server.folder / "beamline.toml"
    numbers = {key: scan.detector[key] for key in ("pixel_row_m", "pixel_col_m", "beam_row", "beam_col")}
    geometry = "".join(f"{key} = {value}\n" for key, value in numbers.items())
    text = example_config(scan, server.folder).replace("[geometry]\n", f"[geometry]\n{geometry}")
    path.write_text(text.replace("[publish]\n", f'[publish]\ntiled = "{server.uri}"\ntiled_api_key = "{KEY}"\n'))
    return path


@pytest.fixture(scope="module")
def raw_uid(scan, server):
    """A step scan of a detector that writes its own file, in Tiled."""
    beamline = Beamline(server)
    still = [SynSignal(name=name, func=lambda value=value: value) for name, value in scan.baseline.items()]
    for signal in still:
        signal.trigger().wait()
    beamline.engine.preprocessors = [SupplementalData(baseline=still)]
    detector, (name, track) = FileDetector(server.folder / "images.h5", scan.frames), *scan.scanned.items()
    motor = SynAxis(name=name)
    with contextlib.closing(beamline.client.context):
        (uid,) = beamline.engine(bp.list_scan([detector], motor, track.tolist(), md={"sample": "gold 7"}))
    return uid


def reconstruct_in_tiled(uid, config_file, server, *more):
    out = server.folder / "again"
    return run("reconstruct", uid, "--config", str(config_file), "--out", str(out), *QUICK, *more)


def test_a_run_in_tiled_is_reconstructed_and_published_there(scan, server, config_file, raw_uid):
    from tiled.client import from_uri

    done = reconstruct_in_tiled(raw_uid, config_file, server)
    assert done.returncode == 0, done.stderr
    result = last_line(done)
    assert (result["raw_uid"], result["expected"], result["missing"]) == (raw_uid, 48, 0)
    assert result["verdict"] == "good", result["reasons"]
    client = from_uri(server.uri, api_key=KEY)
    try:
        ours = client[result["reconstruction_uid"]]
        start, stop = ours.metadata["start"], ours.metadata["stop"]
        (volume,) = ours["reconstruction"]["reconstruction_crystal"].read()
    finally:
        client.context.close()
    assert (start["original_run_uid"], start["parent_uids"], start["sample"]) == (raw_uid, [raw_uid], "gold 7")
    assert stop["exit_status"] == "success"
    with h5py.File(result["file"]) as file:
        np.testing.assert_array_equal(volume, file["entry/data/crystal"][0])
        np.testing.assert_array_equal(file["entry/cdi_stream/frame_sums"][()], scan.frame_sums)


@pytest.mark.slow
def test_the_uid_of_a_reconstruction_names_the_raw_run(server, config_file, raw_uid):
    result = last_line(reconstruct_in_tiled(raw_uid, config_file, server))
    by_reconstruction = reconstruct_in_tiled(
        result["reconstruction_uid"], config_file, server, "--set", "prepare.min_counts=7"
    )
    assert by_reconstruction.returncode == 0, by_reconstruction.stderr
    other = last_line(by_reconstruction)
    assert other["raw_uid"] == raw_uid
    assert other["reconstruction_uid"] != result["reconstruction_uid"]
    (start, *_) = (doc for _, doc in documents_in(server.folder / "again"))
    assert start["parent_uids"] == [raw_uid, result["reconstruction_uid"]]


@pytest.mark.slow
def test_the_same_settings_publish_nothing_twice(server, config_file, raw_uid):
    uids = set()
    for _ in range(2):
        done = reconstruct_in_tiled(raw_uid, config_file, server, "--set", "publish.lab_shape=[48, 48, 48]")
        assert done.returncode == 0, done.stderr
        uids.add(last_line(done)["reconstruction_uid"])
    assert len(uids) == 1
    assert "has the run" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_a_run_without_images_names_the_remedy(server, config_file, scan):
    beamline = Beamline(server)
    with contextlib.closing(beamline.client.context):
        (uid,) = beamline.engine(beamline.scan())
    done = reconstruct_in_tiled(uid, config_file, server)
    assert done.returncode == 2, done.stderr
    message = " ".join(done.stderr.split())
    assert "its frames went over the wire only" in message
    assert "'cdi-stream record --documents'" in message


@pytest.mark.slow
def test_an_unknown_uid_and_a_wrong_key_are_told(server, config_file):
    unknown = reconstruct_in_tiled("0d81f2a4", config_file, server)
    assert unknown.returncode == 2
    assert "0d81f2a4: expected a run in the archive, got none" in " ".join(unknown.stderr.split())
    refused = reconstruct_in_tiled("0d81f2a4", config_file, server, "--tiled-key", "wrong")
    assert refused.returncode == 2
    assert "refuses the API key" in " ".join(refused.stderr.split())
    assert "wrong" not in refused.stderr
