"""Commands as a user types them: exit codes, one JSON object at the end, errors with their remedy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cdi_stream", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def last_line(done: subprocess.CompletedProcess[str]) -> dict:
    return json.loads(done.stdout.strip().splitlines()[-1])


CONTRACT_KEYS = {
    "expected", "received", "missing", "duplicate", "late", "bad", "chi2", "r_p", "verdict", "reasons", "latency_s",
    "size_lab_nm", "raw_uid", "reconstruction_uid", "file",
}  # fmt: skip


def test_demo_reaches_the_truth(tmp_path):
    picture = tmp_path / "crystal.png"
    done = run("demo", "--case", "plain", "--json", "--out", str(tmp_path / "out"), "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    summary = last_line(done)
    assert summary.keys() >= CONTRACT_KEYS
    assert summary["nmse_to_truth_lab"] <= 0.1
    assert summary["received"] == summary["expected"] == 48
    assert summary["frame_sums_match"] is True
    assert {"inference", "reconstruction"} <= summary["latency_s"].keys()
    assert Path(summary["file"]).exists()
    assert picture.read_bytes()[:4] == b"\x89PNG"
    for name in ("crystal.cxi", "crystal.vti"):
        assert run("export", summary["file"], str(tmp_path / name)).returncode == 0
        assert (tmp_path / name).stat().st_size > 1e5


def test_replay_of_the_real_scan(tmp_path, shared):
    done = run("replay", str(shared / "data" / "34idc_staff20_s54"), "--scan", "54", "--json", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    summary = last_line(done)
    assert summary["received"] == summary["expected"] == 201
    assert summary["frame_sums_match"] is True
    for size, known in zip(summary["size_lab_nm"], (345, 260, 350), strict=True):
        assert size == pytest.approx(known, rel=0.1)
    assert summary["chi2"] < 0.03
    assert summary["r_p"] > 0.985


def test_geometry_and_plugins(tmp_path):
    from tests.physics.test_geometry_against_xrayutilities import BASE

    case = tmp_path / "case.json"
    case.write_text(json.dumps({"name": "mine", "recipe": BASE}))
    done = run("geometry", str(case), "--json")
    assert done.returncode == 0, done.stderr
    assert last_line(done)["name"] == "mine"
    assert "dectris2" in last_line(run("plugins", "--json"))["decoder"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("geometry", "absent.json"), ("absent.json",)),
        (("replay", "absent.spec"), ("absent.spec", "does not exist")),
        (("replay", "pyproject.toml"), ("no reader", "aps_spec_tiff")),
        (("serve", "--config", "absent.toml"), ("absent.toml", "deploy/beamline.toml")),
        (("demo", "--case", "plain", "--speed", "fast"), ("--speed", "fast")),
        (("demo", "--case", "plain", "--beamline-only"), ("--config",)),
        (("demo", "--case", "no-such-case"), ("no-such-case", "plain")),
    ],
)
def test_bad_input_ends_with_code_2_and_says_what_to_do(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    message = " ".join(done.stderr.split())
    for word in words:
        assert word in message
    assert "Traceback" not in done.stderr


def test_a_wrong_key_of_a_case_is_named(tmp_path):
    from tests.physics.test_geometry_against_xrayutilities import BASE

    case = tmp_path / "case.json"
    case.write_text(json.dumps({"name": "mine", "recipe": BASE | {"distance_m": -1}}))
    done = run("geometry", str(case))
    assert done.returncode == 2
    assert "distance_m" in done.stderr


def config_file(directory: Path) -> Path:
    text = (Path(__file__).parents[2] / "deploy" / "beamline.toml").read_text()
    text = text.replace('directory = "cdi-stream-results"', f'directory = "{directory / "results"}"')
    path = directory / "beamline.toml"
    path.write_text(text.replace("tcp://127.0.0.1:5580", "tcp://127.0.0.1:*"))
    return path


def test_check_names_every_problem_with_its_remedy(tmp_path):
    done = run("check", "--config", str(config_file(tmp_path)), "--json")
    assert done.returncode == 2
    found = {check["name"]: check for check in last_line(done)["checks"]}
    assert {name for name, check in found.items() if not check["is_ok"]} == {"detector", "documents"}
    assert "is the stream on" in found["detector"]["text"]
    assert "bluesky-0MQ-proxy" in found["documents"]["text"]
    assert "theta/Theta/th" in found["geometry"]["text"]


def test_plugins_are_listed():
    found = last_line(run("plugins", "--json"))
    assert set(found["decoder"]) >= {"array1", "dectris1", "dectris2"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("record", "tcp://127.0.0.1:1", "--out", "x.h5", "--format", "xml"), "installed are: array1, dectris1"),
        (("record", "nonsense", "--out", "x.h5"), "expected tcp://host:port"),
        (("record", "tcp://127.0.0.1:1", "--out", "x.h5", "--socket", "rep"), "'pull' or 'sub'"),
        (("export", "missing.h5", "x.cxi"), "missing.h5"),
        (("play", "missing.log", "tcp://127.0.0.1:*"), "missing.log"),
        (("dashboard",), "feed.endpoint"),
    ],
)
def test_bad_input_is_told_with_its_remedy(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.returncode in (1, 2)
    assert message in " ".join(done.stderr.split()), done.stderr


def test_the_queue_is_told_to_be_empty_where_there_is_none(tmp_path):
    config = config_file(tmp_path)
    done = run("queue", "list", "--config", str(config))
    assert done.returncode == 2
    assert "has queued a refinement yet" in " ".join(done.stderr.split())
    done = run("worker", "--config", str(config))
    assert done.returncode == 2
    assert "runs in this folder" in " ".join(done.stderr.split())
