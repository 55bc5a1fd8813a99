"""The project's file format for a recorded scan: written, read, and told from other files."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import h5py
import numpy as np
import pytest

from cdi_stream.errors import RecordingError
from cdi_stream.files.recording import FORMAT, counts_of_frames, read_scan, scan_header, sum_doubts, write_scan
from cdi_stream.messages import RecordedScan

FRAMES = np.random.default_rng(0).poisson(3, (4, 5, 7)).astype(np.uint16)
MINIMAL = RecordedScan(
    name="scan 12",
    frames=FRAMES,
    beamline="aps_34idc",
    scanned={"theta": np.linspace(0, 0.3, 4), "chi": np.full(4, 90.0)},
    baseline={"delta": 31.5},
    units={"theta": "deg", "chi": "deg", "delta": "deg"},
)
FULL = RecordedScan(
    name="simulated",
    frames=FRAMES.astype(np.uint32),
    beamline={"name": "mine", "sample_circles": [["mu", "x-"]]},
    scanned={"energy": np.linspace(9000, 9010, 4)},
    baseline={"mu": 1.0},
    units={"energy": "eV", "mu": "rad"},
    detector={"pixel_row_m": 55e-6, "beam_row": -2.5},
    pixel_mask=FRAMES[0] > 2,
    white_field=np.linspace(0.9, 1.1, 35, dtype=np.float32).reshape(5, 7),
    times_s=np.arange(4) * 0.5,
    frame_sums=FRAMES.sum(axis=(1, 2)).astype(np.int64),
    truth={"size_m": 4e-7, "facets": [1, 2], "none": None},
    missing=(1, 3),
    frame_files=("a_0.tif", "", "a_2.tif", ""),
    notes=("made up", "twice"),
    doubts=("frames may be shifted",),
)


def assert_same(left: RecordedScan, right: RecordedScan) -> None:
    for name in (field.name for field in fields(RecordedScan)):
        one, other = getattr(left, name), getattr(right, name)
        if isinstance(other, np.ndarray):
            assert one.dtype == other.dtype, name
        np.testing.assert_equal(one, other, err_msg=name)


@pytest.mark.parametrize("scan", [MINIMAL, FULL], ids=["minimal", "full"])
def test_a_scan_comes_back_as_it_was_written(tmp_path, scan):
    write_scan(scan, tmp_path / "scan.h5")
    assert_same(read_scan(tmp_path / "scan.h5"), scan)


def test_scanned_motors_keep_their_order(tmp_path):
    write_scan(MINIMAL, tmp_path / "scan.h5")
    assert list(read_scan(tmp_path / "scan.h5").scanned) == ["theta", "chi"]


def test_frames_lie_where_other_programs_look_for_them(tmp_path):
    write_scan(MINIMAL, tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5") as file:
        np.testing.assert_array_equal(file["entry/data/data"][2], FRAMES[2])


def test_missing_frames_are_told_by_frame():
    np.testing.assert_array_equal(FULL.has_frame, [True, False, True, False])
    assert MINIMAL.has_frame.all()


def test_sums_on_record_are_held_against_the_frames_that_are_there():
    assert sum_doubts(FULL) == ()
    frames = FULL.frames.copy()
    frames[1:] += 1  # frames 1 and 3 are missing, whatever stands in their place
    (doubt,) = sum_doubts(replace(FULL, frames=frames))
    total = int(FULL.frames[2].sum())
    assert doubt.startswith("1 of 2 frames have another sum")
    assert f"frame 2 (a_2.tif) has {total + 35}, on record {total}" in doubt


def test_gaps_are_left_out_of_sums():
    signed = FRAMES.astype(np.int32)
    signed[0, 0, 0] = -1
    unsigned = FRAMES.copy()
    unsigned[0, 0, 0] = 65535
    expected = FRAMES.sum(axis=(1, 2), dtype=np.int64) - [FRAMES[0, 0, 0], 0, 0, 0]
    for frames in (signed, unsigned):
        np.testing.assert_array_equal(counts_of_frames(frames), expected)


def test_a_file_written_before_frames_could_be_missing_has_all(tmp_path):
    write_scan(MINIMAL, tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        attributes = file["entry/cdi_stream"].attrs
        header = json.loads(attributes["header"])
        attributes["header"] = json.dumps({k: v for k, v in header.items() if k not in ("missing", "doubts")})
    assert_same(read_scan(tmp_path / "scan.h5"), MINIMAL)


def test_frame_numbers_that_cannot_be_are_refused(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["entry/data/data"] = FRAMES
        file["entry/data/frame_id"] = [0, 1, 2, 2**40]
        file["entry/data/series_index"] = [0, 0, 0, 0]
        group = file.create_group("entry/cdi_stream/series_0")
        group.attrs["header"] = json.dumps(scan_header(MINIMAL))
        for motor, values in MINIMAL.scanned.items():
            group[f"scanned/{motor}"] = values
    with pytest.raises(RecordingError, match=r"got 4 frames with numbers 0 to 1099511627776"):
        read_scan(tmp_path / "scan.h5")


@pytest.mark.parametrize(
    "header",
    [
        json.dumps({"format": FORMAT}),
        json.dumps({"name": "no format"}),
        json.dumps([FORMAT]),
        "not json",
        7,
    ],
)
def test_a_header_of_another_kind_is_refused(tmp_path, header):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_group("entry/cdi_stream").attrs["header"] = header
    with pytest.raises(RecordingError, match=r"scan\.h5: expected"):
        read_scan(tmp_path / "scan.h5")


def test_a_scan_of_another_format_is_refused(tmp_path):
    write_scan(MINIMAL, tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        attributes = file["entry/cdi_stream"].attrs
        attributes["header"] = attributes["header"].replace(FORMAT, "cdi_stream recorded scan 0")
    with pytest.raises(RecordingError, match=r"expected format .* scan 1', got .* scan 0'"):
        read_scan(tmp_path / "scan.h5")


def test_a_file_of_another_program_is_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["entry/data/data"] = FRAMES
    with pytest.raises(RecordingError, match=r"other\.h5: expected a scan recorded by cdi-stream"):
        read_scan(tmp_path / "other.h5")


@pytest.mark.parametrize("content", [None, b"", b"#S 12 ascan theta 0 0.3 3 1\n"])
def test_a_file_that_is_no_hdf5_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "scan.h5").write_bytes(content)
    with pytest.raises(RecordingError, match=r"scan\.h5: expected a scan recorded by cdi-stream"):
        read_scan(tmp_path / "scan.h5")
