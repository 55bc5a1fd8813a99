"""Every wire format through the whole service; recordings that play again; a file writer that is not robbed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cdi_stream.documents.tiled_server import free_port
from cdi_stream.files.recording import read_scan, write_scan
from cdi_stream.processes import Processes, processes
from cdi_stream.replay.play import example_config, replay
from sim_beamline.scan import recorded_scan
from tests.builders import ONE_START

RECORD = [sys.executable, "-m", "cdi_stream", "record"]


@pytest.fixture(scope="module")
def scan():
    return recorded_scan("plain")


@pytest.fixture(scope="module")
def scan_file(scan, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    write_scan(scan, path)
    return path


def loopback() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


def config_for(scan, directory: Path, wire: str, socket: str) -> Path:
    """Configuration of a replay in another wire format; ``array1`` tells nothing of the detector, so this does."""
    text = example_config(scan, directory).replace(
        "[detector]\n", f'[detector]\nformat = "{wire}"\nsocket = "{socket}"\n'
    )
    known = {key: scan.detector[key] for key in ("pixel_row_m", "pixel_col_m", "beam_row", "beam_col")}
    numbers = "".join(f"{key} = {value}\n" for key, value in known.items())
    path = directory / "beamline.toml"
    path.write_text(text.replace("[publish]\n", f'{ONE_START}[publish]\ntiled = "none"\n') + numbers)
    return path


@pytest.mark.parametrize(
    ("wire", "socket"), [pytest.param("dectris1", "pull", marks=pytest.mark.slow), ("array1", "sub")]
)
def test_each_wire_format_gives_the_crystal(scan, scan_file, tmp_path, wire, socket):
    config = config_for(scan, tmp_path, wire, socket)
    (summary,) = replay(scan_file, tmp_path, speed="max", config_file=config, is_service_running=False)
    assert (summary["received"], summary["missing"], summary["frame_sums_match"]) == (len(scan.frames), 0, True)
    assert summary["verdict"] == "good", summary["reasons"]
    assert summary["chi2"] < 0.01


def start_recording(endpoint: str, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [*RECORD, endpoint, "--out", str(out), "--timeout", "30", "--json", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def counts_of(recording: subprocess.Popen[str]) -> dict[str, int]:
    output, errors = recording.communicate(timeout=600)
    assert recording.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def start_scan(children: Processes, scan_file: Path, data: str, documents: str | None = None) -> None:
    """Start a detector that binds ``data`` and a plan; without a bus the documents go to nobody."""
    control = loopback()
    children.start(
        "detector", "sim_beamline", "detector", "--scan", str(scan_file), "--control", control, "--data", data
    )
    documents_in = documents or loopback()
    children.start(
        "plan", "sim_beamline", "plan", "--scan", str(scan_file), "--control", control, "--documents", documents_in
    )


@pytest.mark.slow
def test_a_recorded_scan_plays_again(scan, scan_file, tmp_path):
    documents_in, documents_out, data = loopback(), loopback(), loopback()
    recorded = tmp_path / "recorded.h5"
    with processes(tmp_path) as children:
        children.start(
            "proxy", "sim_beamline", "proxy", "--documents-in", documents_in, "--documents-out", documents_out
        )
        options = ("--documents", documents_out, "--beamline", str(scan.beamline), "--raw", str(tmp_path / "raw.log"))
        recording = start_recording(data, recorded, *options)
        time.sleep(3)  # the document bus tells nothing of what was before
        start_scan(children, scan_file, data, documents_in)
        counts = counts_of(recording)
    assert (counts["expected"], counts["received"], counts["missing"], counts["bad"]) == (48, 48, 0, 0)
    again = read_scan(recorded)
    assert again.frames.dtype == scan.frames.dtype
    np.testing.assert_array_equal(again.frames, scan.frames)
    for motor, values in scan.scanned.items():
        np.testing.assert_allclose(again.scanned[motor], values)
    (summary,) = replay(recorded, tmp_path / "again", speed="max", config_file=None, is_service_running=False)
    assert summary["verdict"] == "good", summary["reasons"]
    logged_again(tmp_path / "raw.log", tmp_path, scan)


def logged_again(log: Path, directory: Path, scan) -> None:
    """The message log sends the same bytes, and they make the same recording."""
    endpoint = loopback()
    recording = start_recording(endpoint, directory / "copy.h5", "--raw", str(directory / "copy.log"))
    play = [sys.executable, "-m", "cdi_stream", "play", str(log), endpoint, "--json"]
    played = subprocess.run(play, capture_output=True, text=True, check=True, timeout=600)
    assert json.loads(played.stdout.splitlines()[-1])["messages"] == len(scan.frames) + 2
    assert counts_of(recording)["received"] == len(scan.frames)
    from cdi_stream.stream.message_log import read_log

    assert [parts for _, parts in read_log(log)] == [parts for _, parts in read_log(directory / "copy.log")]


def test_the_tee_robs_no_file_writer(scan, scan_file, tmp_path):
    data, writer, onlookers = loopback(), loopback(), loopback()
    with processes(tmp_path) as children:
        children.start("tee", "cdi_stream", "tee", data, "--push", writer, "--pub", onlookers)
        recordings = [
            start_recording(writer, tmp_path / "writer.h5"),
            start_recording(onlookers, tmp_path / "onlooker.h5", "--socket", "sub"),
        ]
        time.sleep(4)  # a publisher loses what it sends before its subscribers have met it
        start_scan(children, scan_file, data)
        for recording in recordings:
            assert counts_of(recording)["received"] == len(scan.frames)
    for name in ("writer", "onlooker"):
        np.testing.assert_array_equal(read_scan(tmp_path / f"{name}.h5").frames, scan.frames)
