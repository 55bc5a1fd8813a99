"""History from the result files: found, searched, and shown as slices, surfaces and small pictures."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace

import h5py
import httpx
import numpy as np
import pytest
from PIL import Image

from cdi_stream.documents.publish import RunPublisher, reconstruction_identity
from cdi_stream.errors import RecordingError
from cdi_stream.files.result_file import read_result
from cdi_stream.messages import Reading, RunContext
from cdi_stream.operators.archive import Archive
from cdi_stream.operators.binary import MEDIA_TYPE, from_bytes, to_bytes
from cdi_stream.operators.colours import phase_colours
from cdi_stream.operators.reconstructor import ReconstructProgram
from cdi_stream.operators.trends import changing_readings, trend
from cdi_stream.operators.views import CrystalViews, ViewCache
from tests.system.browser import crystal as block
from tests.system.browser import wait_until
from tests.unit.test_dashboard import run
from tests.unit.test_publish import PROVENANCE, result

SHAPE = (48, 64, 56)
SHAPES = {"inference": SHAPE, "reconstruction": SHAPE}


def publish(folder, raw, scan_id, stages, time_s, sample="Au 3", grade="good", readings=None, curves=1):
    """Result files of one raw run, as the service writes them; the crystal has no symmetry."""
    context = RunContext(uid=raw, scan_id=scan_id, sample=sample, plan_name="rocking_curve", motors=("theta",))
    identity = reconstruction_identity(raw, "c" * 64)
    publisher = RunPublisher(context, PROVENANCE, SHAPES, folder, lambda *_: None, identity)
    for number, (curve, stage) in enumerate((curve, stage) for curve in range(curves) for stage in stages):
        made = replace(result(stage), curve_index=curve, readings=readings or {})
        made = replace(made, crystal=block(), verdict=replace(made.verdict, grade=grade), frame_sums=np.arange(5) * 10)
        path = publisher.result(made).path
        os.utime(path, (time_s + number, time_s + number))
    return path


@pytest.fixture
def folder(tmp_path):
    """Three scans: of the first only the first answer, the second in a folder of its own, the third failed."""
    publish(tmp_path, "run-a", 7, ["inference"], 1000.0)
    publish(tmp_path / "2026" / "p1", "run-b", 8, ["inference", "reconstruction"], 2000.0, sample="Pt 1")
    publish(tmp_path, "run-c", 9, ["reconstruction"], 3000.0, grade="doubtful")
    (tmp_path / "damaged_reconstruction.h5").write_bytes(b"no file of ours")
    with h5py.File(tmp_path / "other_reconstruction.h5", "w") as file:
        file["entry/data"] = 1
    return tmp_path


def test_scans_are_found_in_all_folders_newest_first(folder):
    archive = Archive(folder)
    scans = archive.scans()
    assert [(scan.uid, scan.newest.scan_id, scan.newest.stage) for scan in scans] == [
        ("run-c", 9, "reconstruction"),
        ("run-b", 8, "reconstruction"),
        ("run-a", 7, "inference"),
    ]
    newest = archive.scan("run-b").newest
    assert (newest.sample, newest.motors, newest.verdict) == ("Pt 1", "theta", "good")
    assert newest.scalars["chi2"] == result("reconstruction").metrics.chi2
    assert archive.scan("run-b").find("inference", 0).stage == "inference"
    assert archive.scan("run-b").find("inference", 3) is None
    assert archive.scan("nothing") is None


@pytest.mark.parametrize(
    ("arguments", "uids"),
    [
        ({"verdict": "good"}, ["run-b", "run-a"]),
        ({"verdict": "doubtful"}, ["run-c"]),
        ({"text": "pt"}, ["run-b"]),
        ({"text": "scan 8"}, ["run-b"]),
        ({"text": "AU theta"}, ["run-c", "run-a"]),
        ({"text": "run-a"}, ["run-a"]),
        ({"text": "gold"}, []),
    ],
)
def test_scans_are_searched(folder, arguments, uids):
    assert [scan.uid for scan in Archive(folder).scans(**arguments)] == uids


def test_files_are_read_once_and_again_when_they_change(folder, monkeypatch):
    times_s, opened, open_file = iter(range(0, 100, 10)), [], h5py.File
    monkeypatch.setattr(h5py, "File", lambda path, mode: opened.append(path) or open_file(path, mode))
    archive = Archive(folder, clock=lambda: next(times_s))
    assert len(archive.scans()) == 3
    assert len(opened) == 6
    changed = archive.scan("run-a").newest.path
    os.utime(changed, (3500.0, 3500.0))
    del opened[:]
    assert archive.scans()[0].uid == "run-a"
    assert opened == [changed]
    for path in folder.rglob("*.h5"):
        path.unlink()
    assert archive.scans() == []


def test_a_result_that_the_feed_has_just_told_of_is_found(folder):
    now_s = [100.0]
    archive = Archive(folder, clock=lambda: now_s[0])
    assert archive.result("run-d", "reconstruction", 0) is None
    publish(folder, "run-d", 10, ["reconstruction"], 4000.0)
    now_s[0] += 0.3
    assert archive.result("run-d", "reconstruction", 0).scan_id == 10


# --- views ---------------------------------------------------------------------------------------------------


@pytest.fixture
def views(folder):
    return CrystalViews(read_result(Archive(folder).scan("run-b").newest.path))


def test_slices_are_those_of_the_crystal(views):
    density, support = block().density, block().support
    header, arrays = views.slice("amplitude", "z")
    assert (header["index"], header["n"], header["voxel_nm"]) == (24, 48, pytest.approx([5.0, 5.0]))
    expected = 255 * np.abs(density[24]) / np.abs(density).max()
    assert np.abs(arrays["slice"] - expected).max() <= 1
    header, arrays = views.slice("phase", "x", 20)
    phase = np.angle(density * np.exp(-1j * np.angle(density.sum())))[:, :, 20]
    inside = support[:, :, 20]
    assert np.array_equal(arrays["slice"] > 0, inside)
    values = header["low"] + (arrays["slice"] - 1.0) / 254 * (header["high"] - header["low"])
    assert np.abs((values - phase)[inside]).max() < 0.03
    header, _ = views.slice("displacement", "y")
    assert (header["unit"], header["low"]) == ("nm", -header["high"])


@pytest.mark.parametrize(("quantity", "axis", "index"), [("charge", "z", None), ("phase", "z", 48), ("phase", "y", -1)])
def test_slices_that_do_not_exist_are_refused(views, quantity, axis, index):
    with pytest.raises(ValueError, match="expected"):
        views.slice(quantity, axis, index)


def test_the_surface_is_that_of_the_block_in_nanometres(views):
    """The block lacks a corner at large x and y; x, y and z are the axes of the laboratory."""
    header, arrays = views.mesh()
    vertices_nm = np.array(header["origin_nm"]) + header["step_nm"] * arrays["vertices"]
    low, high = vertices_nm.min(axis=0), vertices_nm.max(axis=0)
    assert low == pytest.approx([-75.0, -95.0, -55.0], abs=6)
    assert high == pytest.approx([75.0, 95.0, 55.0], abs=6)
    away = np.linalg.norm(vertices_nm - [70.0, 90.0, 0.0], axis=1)
    assert away.min() > 40, "the corner that is not there"
    assert np.linalg.norm(vertices_nm - [-70.0, 90.0, 0.0], axis=1).min() < 12
    outward = (vertices_nm * arrays["normals"]).sum(axis=1)
    assert (outward > 0).mean() > 0.95
    assert arrays["triangles"].max() < len(vertices_nm)
    assert all(len(arrays[name]) == len(vertices_nm) for name in ("phase", "displacement", "strain"))


def test_the_small_picture_has_the_crystal_upright(views):
    picture = np.array(Image.open(io.BytesIO(views.thumbnail()))).sum(axis=2)
    assert picture.shape == (96, 96)
    bright = picture > 200
    assert bright[20:30, 25:40].mean() > 0.9, "large y lies at the top, small x on the left"
    assert bright[20:30, 60:75].mean() < 0.1, "the corner of large x and y is missing"


def test_a_crystal_that_was_asked_for_is_kept_until_its_file_changes(folder):
    cache = ViewCache()
    path = Archive(folder).scan("run-b").newest.path
    first = cache.of(path)
    assert cache.of(path) is first
    os.utime(path, (5000.0, 5000.0))
    assert cache.of(path) is not first
    path.unlink()
    with pytest.raises(RecordingError):
        cache.of(path)


def test_the_colours_of_the_phase_go_round(folder):
    colours = phase_colours(255)
    steps = np.linalg.norm(np.diff(colours, axis=0, append=colours[:1]), axis=1)
    assert colours.min() >= 0
    assert colours.max() <= 255
    assert steps.max() < 8


# --- binary messages -----------------------------------------------------------------------------------------


def test_arrays_come_back_from_a_message_and_begin_at_multiples_of_four():
    arrays = {
        "odd": np.arange(5, dtype=np.uint8),
        "normals": np.array([[-127, 0, 127]], dtype=np.int8),
        "triangles": np.arange(6, dtype=np.uint32).reshape(2, 3),
        "nothing": np.zeros((0, 3), dtype=np.uint16),
    }
    message = to_bytes({"kind": "mesh", "text": "é"}, arrays)
    header, back = from_bytes(message)
    assert header == {"kind": "mesh", "text": "é"}
    assert {name: (array.dtype, array.tolist()) for name, array in back.items()} == {
        name: (array.dtype, array.tolist()) for name, array in arrays.items()
    }
    n = int.from_bytes(message[:4], "little")
    listed = json.loads(message[4 : 4 + n])["arrays"]
    assert [(4 + n + entry["start"]) % 4 for entry in listed] == [0] * 4


@pytest.mark.parametrize("wrong", [{"low": float("nan")}, {}])
def test_what_a_browser_cannot_read_is_refused(wrong):
    with pytest.raises(ValueError, match=r"expected a data type|JSON compliant"):
        to_bytes(wrong, {"values": np.zeros(3, np.float64 if not wrong else np.uint8)})


# --- trends ---------------------------------------------------------------------------------------------------


@pytest.fixture
def heated(tmp_path):
    """A crystal that is heated: two scans, the second with three curves, and a scan whose run tells nothing."""
    for number, (kelvin, curves) in enumerate([(300.0, 1), (350.0, 3)]):
        readings = {"stage": Reading(value=kelvin, unit="K"), "arm": Reading(value=1.5, unit="m")}
        raw, time_s = f"run-{number}", 1000.0 * number
        publish(tmp_path, raw, 1 + number, ["reconstruction"], time_s, readings=readings, curves=curves)
    publish(tmp_path, "run-2", 3, ["reconstruction"], 5000.0)
    return tmp_path


def test_readings_that_differ_between_scans_have_a_trend_over_all_curves(heated):
    scans = Archive(heated).scans()
    assert changing_readings(scans) == {"stage": "K"}, "the arm stands still"
    points = trend(scans, "stage", is_reading=True)
    assert [(p.scan_id, p.curve_index, p.value) for p in points] == [(1, 0, 300), (2, 0, 350), (2, 1, 350), (2, 2, 350)]
    assert len(trend(scans, "chi2", is_reading=False)) == 5
    assert trend(scans, "stage", is_reading=False) == []


def test_a_failed_curve_has_no_point(heated):
    publish(heated, "run-4", 4, ["reconstruction"], 6000.0, grade="failed")
    assert [p.scan_id for p in trend(Archive(heated).scans(), "chi2", is_reading=False)] == [1, 2, 2, 2, 3]


def test_a_later_refinement_counts_and_the_readings_stay(heated):
    publish(heated, "run-1", 2, ["inference"], 9000.0)
    points = trend(Archive(heated).scans(text="run-1"), "stage", is_reading=True)
    assert [p.curve_index for p in points] == [0, 1, 2]


def test_the_interface_serves_trends(heated):
    async def scenario(service, host):
        async with httpx.AsyncClient(base_url=f"http://{host}/api/v1", timeout=30) as client:
            assert (await client.get("/readings")).json() == {"units": {"stage": "K"}}
            query = {"name": "stage", "kind": "reading", "q": "scan 2"}
            points = (await client.get("/trend", params=query)).json()["points"]
            assert [(p["uid"], p["curve_index"], p["value"]) for p in points] == [("run-1", k, 350.0) for k in range(3)]
            assert (await client.get("/trend", params={"name": "nothing"})).json() == {"points": []}
            assert (await client.get("/trend", params={"name": "chi2", "kind": "evil"})).status_code == 422
            assert [scan["n_curves"] for scan in (await client.get("/scans")).json()["scans"]] == [1, 3, 1]

    run(scenario, results=heated)


# --- HTTP ----------------------------------------------------------------------------------------------------


def test_the_interface_serves_scans_and_their_pictures(folder):
    async def scenario(service, host):
        async with httpx.AsyncClient(base_url=f"http://{host}/api/v1", timeout=30) as client:
            answer = (await client.get("/scans")).json()
            assert (answer["total"], [scan["uid"] for scan in answer["scans"]]) == (3, ["run-c", "run-b", "run-a"])
            answer = (await client.get("/scans", params={"verdict": "good", "limit": 1, "offset": 1})).json()
            assert (answer["total"], [scan["uid"] for scan in answer["scans"]]) == (2, ["run-a"])
            detail = (await client.get("/scans/run-b")).json()
            assert [made["stage"] for made in detail["results"]] == ["inference", "reconstruction"]
            assert (await client.get("/scans/run-b/rocking")).json() == {"frame_sums": [0, 10, 20, 30, 40]}
            mesh = await client.get("/scans/run-b/mesh", params={"stage": "inference", "curve": 0})
            assert mesh.headers["content-type"] == MEDIA_TYPE
            assert len(from_bytes(mesh.content)[1]["vertices"]) > 500
            image = await client.get("/scans/run-b/slice", params={"axis": "y", "quantity": "strain", "index": 30})
            assert from_bytes(image.content)[1]["slice"].shape == (48, 56)
            picture = await client.get("/scans/run-b/thumbnail.png")
            assert picture.content.startswith(b"\x89PNG")
            for path in ("/scans/nothing", "/scans/nothing/mesh", "/scans/run-a/mesh?stage=refinement"):
                assert (await client.get(path)).status_code == 404
            assert (await client.get("/scans/run-b/slice?index=48")).status_code == 404
            assert (await client.get("/scans/run-b/slice?quantity=charge")).status_code == 422
            session = (await client.get("/session")).json()
            assert (session["has_archive"], session["can_write"], session["csrf"]) == (True, False, None)
            assert (await client.post("/scans/run-b/reconstruct", json={})).status_code == 403

    run(scenario, results=folder)


# --- a past scan again ---------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path):
    made = ReconstructProgram(tmp_path / "beamline.toml", tmp_path / "results")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"network.file": "evil.pt"}, "expected a key of the sections"),
        ({"publish.directory": "/etc"}, "expected a key of the sections"),
        ({"phase": "1"}, "expected a key of the sections"),
        ({"phase.budget_s": "6\n0"}, "printable"),
        ({"phase.budget_s": "6" * 300}, "at most 200"),
    ],
)
def test_only_numbers_of_the_reconstruction_may_be_changed(program, settings, reason):
    assert reason in program.start("run-b", settings)
    assert program.state()["uid"] is None


def test_a_scan_that_cannot_be_reconstructed_says_why(program, tmp_path):
    (tmp_path / "beamline.toml").write_text("nonsense")
    assert program.start("run-b", {"phase.budget_s": "5"}) == ""
    assert "run run-b is being reconstructed" in program.start("run-b", {})
    wait_until(lambda: not program.state()["is_running"] and "exit code" in program.state()["text"])
    assert "ended with exit code 2" in program.state()["text"]
