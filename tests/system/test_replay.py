"""Replays beside a running service: nothing reaches it but what is meant for it; errors are told in one line."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from cdi_stream.documents.tiled_server import free_port
from cdi_stream.files.recording import read_scan, write_scan
from cdi_stream.replay.endpoints import example_config
from sim_beamline.scan import recorded_scan
from tests.system.beamline import beamline
from tests.system.command_line import last_line, run


@pytest.fixture(scope="module")
def scan():
    """The scan as from a recording of a run: nothing says that it is simulated."""
    return replace(recorded_scan("plain"), truth=None, name="sample 7 scan 12", run_uid="the raw run")


@pytest.fixture(scope="module")
def scan_file(scan, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    write_scan(scan, path)
    return path


@pytest.mark.slow
def test_a_replay_reaches_a_running_service_only_when_it_is_asked_to(scan, scan_file, tmp_path):
    production = tmp_path / "production"
    production.mkdir()
    with beamline(production, scan, has_tiled=False) as line:
        line.start_service()
        files = results_in(production)
        config = ("--config", str(line.config_file), "--json")
        done = run("replay", str(scan_file), *config, "--out", str(tmp_path / "own"))
        assert done.returncode == 0, done.stderr
        assert last_line(done)["verdict"] == "good"
        assert Path(last_line(done)["file"]).parent == tmp_path / "own"
        assert line.documents() == [], "documents of the replay on the production bus"
        assert results_in(production) == files

        done = run("replay", str(scan_file), *config, "--out", str(tmp_path / "to service"), "--beamline-only")
        assert done.returncode == 0, done.stderr
        assert last_line(done)["received"] == 48
        assert Path(last_line(done)["file"]).parent == production
        starts = [doc for name, doc in line.documents() if name == "start" and "analysis_stage" not in doc]
        assert [(start["replay_of"], start["replay_of_uid"]) for start in starts] == [
            ("sample 7 scan 12", "the raw run")
        ]
        assert [start["original_run_uid"] for start in line.ours("start")] == [starts[0]["uid"]]

        line.start_detector()
        done = run("replay", str(scan_file), *config, "--out", str(tmp_path / "to service"), "--beamline-only")
    assert_one_line(done, "detector.endpoint", line.config.detector.endpoint, "in use")


def test_a_simulated_run_says_so(tmp_path):
    """Also where it is played again from the file that `write_scan` made of it."""
    from sim_beamline.plans import origin

    assert origin(recorded_scan("plain")) == {"simulated": True}
    write_scan(recorded_scan("plain"), tmp_path / "scan.h5")
    assert origin(read_scan(tmp_path / "scan.h5")) == {"simulated": True}


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    """The command ended with one sentence that holds the words."""
    assert done.returncode == code, done.stderr
    message = " ".join(done.stderr.split())
    assert message.startswith("error: " if code == 2 else "failed: "), message
    assert "Traceback" not in message
    joined = message.replace(" ", "")
    for word in words:
        assert word.replace(" ", "") in joined, message


def results_in(folder: Path) -> list[str]:
    """Names of the files of a service, but those of its Tiled server, which starts behind it."""
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if not name.startswith(("catalog", "tables", "tiled"))]


def config_with(scan, folder: Path, detector: str) -> str:
    """Configuration whose detector's endpoint is given."""
    text = example_config(scan, folder)
    path = folder / "beamline.toml"
    path.write_text(
        "\n".join(f'endpoint = "{detector}"' if line.startswith("endpoint") else line for line in text.splitlines())
    )
    return str(path)


@pytest.mark.parametrize("speed", ["fast", "0", "-1", "nan"])
def test_a_wrong_speed_is_told_before_anything_is_computed(scan_file, tmp_path, speed):
    done = run("replay", str(scan_file), "--out", str(tmp_path / "out"), "--speed", speed)
    assert_one_line(done, "--speed", speed, "max")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_told(scan_file, tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_line(
        run("replay", str(scan_file), "--out", str(tmp_path / "file")), "--out", "folder that can be written"
    )
    assert_one_line(run("demo", "--out", str(tmp_path / "file" / "below")), "--out", "Not a directory")
    assert_one_line(run("replay", str(scan_file), "--out", "/proc/replay"), "--out", "/proc/replay")


def test_a_picture_that_cannot_be_written_is_told_before_the_replay(scan_file, tmp_path):
    done = run("replay", str(scan_file), "--out", str(tmp_path), "--plot", str(tmp_path / "absent" / "crystal.png"))
    assert_one_line(done, "--plot", "absent")
    assert not list(tmp_path.glob("*.log"))


def test_two_replays_do_not_share_a_folder(scan_file, tmp_path):
    with (tmp_path / ".replay").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        done = run("replay", str(scan_file), "--out", str(tmp_path))
    assert_one_line(done, "another replay", str(tmp_path))


def test_the_folder_of_a_service_is_refused(scan_file, tmp_path):
    (tmp_path / "ready").touch()
    assert_one_line(run("replay", str(scan_file), "--out", str(tmp_path)), "a service writes there")
    assert (tmp_path / "ready").exists()


def test_endpoints_that_cannot_be_played_to_are_refused(scan, scan_file, tmp_path):
    with zmq.Context() as context, context.socket(zmq.PUSH) as other:
        endpoint = f"tcp://127.0.0.1:{other.bind_to_random_port('tcp://127.0.0.1')}"
        options = ("--beamline-only", "--config", config_with(scan, tmp_path, endpoint), "--out", str(tmp_path))
        assert_one_line(run("replay", str(scan_file), *options), endpoint, "in use")
    options = ("--beamline-only", "--config", config_with(scan, tmp_path, "tcp://192.0.2.1:31001"))
    assert_one_line(run("replay", str(scan_file), *options), "192.0.2.1", "of this machine")


@pytest.mark.parametrize("socket", ["pull", pytest.param("sub", marks=pytest.mark.slow)])
def test_without_a_service_nothing_is_played(scan, scan_file, tmp_path, socket):
    config = Path(config_with(scan, tmp_path, f"tcp://127.0.0.1:{free_port()}"))
    config.write_text(config.read_text().replace("[detector]\n", f'[detector]\nsocket = "{socket}"\n'))
    out = tmp_path / "out"
    done = run("replay", str(scan_file), "--beamline-only", "--config", str(config), "--out", str(out))
    assert_one_line(done, "no service takes frames", "cdi-stream serve", code=1)
    assert not list(out.glob("*.log")), "no process of the beamline was started"


def test_half_a_document_proxy_is_refused(scan, scan_file, tmp_path):
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    config = config_with(scan, tmp_path, endpoint)
    in_address = next(line.split('"')[1] for line in Path(config).read_text().splitlines() if "publish =" in line)
    with zmq.Context() as context, context.socket(zmq.SUB) as other, context.socket(zmq.PULL) as service:
        other.bind(in_address)
        service.connect(endpoint)
        done = run("replay", str(scan_file), "--beamline-only", "--config", config, "--out", str(tmp_path / "out"))
    assert_one_line(done, "document proxy", in_address)


def test_the_configuration_given_is_left_as_it_is(scan, scan_file, tmp_path):
    """Also where it lies in the folder of the results."""
    config = Path(config_with(scan, tmp_path, "tcp://127.0.0.1:31001"))
    before = config.read_text()
    command = [
        sys.executable,
        "-m",
        "cdi_stream",
        "replay",
        str(scan_file),
        "--config",
        str(config),
        "--out",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while not (tmp_path / "replay.toml").exists():
            assert process.poll() is None
        process.terminate()
    assert config.read_text() == before
