"""Commands as a user types them: exit codes, one JSON object at the end, errors with their remedy."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from cdi_stream.cli import streams
from cdi_stream.files.recorded_scan import read_recorded
from cdi_stream.files.recording import write_scan
from tests.geometry_recipe import BASE
from tests.system.command_line import last_line, run

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


SETTINGS_OF_34IDC = """
[detector]
endpoint = "tcp://127.0.0.1:31001"
[documents]
subscribe = "tcp://127.0.0.1:5578"
publish = "tcp://127.0.0.1:5577"
[geometry]
beamline = "aps_34idc"
[publish]
tiled = "none"
[phase]
budget_s = 120
"""
"""The time limit lets a slow machine finish the same work."""


def test_replay_of_the_real_scan(tmp_path, shared):
    (tmp_path / "34idc.toml").write_text(SETTINGS_OF_34IDC)
    scan = ("--scan", "54", "--config", str(tmp_path / "34idc.toml"))
    done = run("replay", str(shared / "data" / "34idc_staff20_s54"), *scan, "--json", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    summary = last_line(done)
    assert summary["received"] == summary["expected"] == 201
    assert summary["frame_sums_match"] is True
    for size, known in zip(summary["size_lab_nm"], (345, 260, 350), strict=True):
        assert size == pytest.approx(known, rel=0.1)
    assert summary["chi2"] < 0.03
    assert summary["r_p"] > 0.985


@pytest.mark.slow
def test_the_real_scan_without_its_white_field_is_not_good(tmp_path, shared):
    """Its crystal is then larger, with a dim shell, though it explains the counts as well."""
    (tmp_path / "34idc.toml").write_text(SETTINGS_OF_34IDC)
    recorded = replace(read_recorded(shared / "data" / "34idc_staff20_s54", 54), white_field=None)
    write_scan(recorded, tmp_path / "scan.h5")
    done = run("replay", str(tmp_path / "scan.h5"), "--json", "--out", str(tmp_path / "out"))
    assert last_line(done)["verdict"] == "doubtful", last_line(done)


def test_geometry_and_plugins(tmp_path):
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
    assert found["readings"]["aps_34idc"]["energy"] == ["energy (eV)", "Energy (keV)"]
    assert found["readings"]["aps_34idc"]["distance"] == ["detector_distance (m)", "camdist (mm)"]
    assert "theta/Theta/th" in found["readings"]["aps_34idc"]["circles"]


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
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split()), done.stderr


NO_CASE = ("expected a case as JSON", "configuration that ends in .toml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("geometry", "numbers.npy"), NO_CASE),
        (("geometry", "list.json"), NO_CASE),
        (("geometry", "nested.json"), NO_CASE),
        (("geometry", "."), NO_CASE),
        (("calibrate", "gold.h5"), ("gold.h5", "zip archive, got something else")),
        (("play", "gold.h5", "tcp://127.0.0.1:*"), ("gold.h5", "cdi_stream message log 1")),
        (("record", "tcp://127.0.0.1:1", "--out", "x.h5", "--beamline", "TYPO"), ("TYPO", "aps_34idc, esrf_id01")),
        (("check", "--config", "gold.h5"), ("gold.h5 is not TOML",)),
        (("serve", "--config", "numbers.npy"), ("numbers.npy is not TOML",)),
        (("export", "gold.h5", "/absent/folder/x.cxi"), ("gold.h5",)),
        (("record", "tcp://127.0.0.1:1", "--out", "/absent/x.h5", "--timeout", "1"), ("/absent/x.h5",)),
    ],
)
def test_a_wrong_file_is_told_in_a_few_lines(tmp_path, monkeypatch, arguments, words):
    import h5py
    import numpy as np

    monkeypatch.chdir(tmp_path)
    np.save("numbers.npy", np.arange(3))
    Path("list.json").write_text("[1, 2]")
    Path("nested.json").write_text("[" * 100_000)
    with h5py.File("gold.h5", "w") as file:
        file["data"] = np.arange(3)
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    message = " ".join(done.stderr.split())
    assert "Traceback" not in message
    assert all(word in message for word in words), message
    assert len(done.stderr.splitlines()) <= 8


def test_the_version_is_told():
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"cdi-stream {version('cdi-stream')}\n")


def test_the_geometry_of_a_configuration_is_told():
    example = str(Path(__file__).parents[2] / "deploy" / "inline_beamline.toml")
    done = run("geometry", example, "--scan", "eta=0.004", "--shape", "64x128x128", "--json")
    found = last_line(done)
    assert found["two_theta_deg"] == pytest.approx(34.0)
    assert found["d_nm"] == pytest.approx(0.23559, rel=1e-4)
    assert "  sample: mu   about y-  a positive angle turns z+ towards x-" in found["sketch"]
    assert "34.000 deg" in run("geometry", example).stdout
    for option, value in (("--scan", "eta"), ("--shape", "64x64"), ("--angle", "mu=nan")):
        assert option in run("geometry", example, option, value).stderr


def test_a_service_says_that_no_message_has_come():
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "say", told.append)
        silence = streams.Silence("tcp://detector:1", 100.0)
        for now_s in (105.0, 111.0, 112.0, 121.5):
            silence.look(0, now_s)
        silence.look(3, 200.0)
    assert [line.split(",")[0] for line in told] == [
        "no message from tcp://detector:1 for 11 s",
        "no message from tcp://detector:1 for 22 s",
    ]


def test_the_queue_is_told_to_be_empty_where_there_is_none(tmp_path):
    config = config_file(tmp_path)
    done = run("queue", "list", "--config", str(config))
    assert done.returncode == 2
    assert "has queued a refinement yet" in " ".join(done.stderr.split())
    done = run("worker", "--config", str(config))
    assert done.returncode == 2
    assert "runs in this folder" in " ".join(done.stderr.split())
