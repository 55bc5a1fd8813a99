"""Positions in files that StreamDatum documents name: fly scans join frames to the angles that a box has written."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest

from cdi_stream.messages import SeriesEnd
from tests.assembling import N, Rig, begin, frame, run_start

ANGLES = np.linspace(-0.3, 0.3, N)


@pytest.fixture
def file(tmp_path):
    """A file of a position box."""
    path = tmp_path / "box file.h5"
    with h5py.File(path, "w") as made:
        made.create_dataset("theta", shape=(0,), maxshape=(None,), chunks=(16,), dtype="f8")
        made.create_dataset("names", data=np.array([b"a", b"b"]))
    return path


def write(path, values):
    with h5py.File(path, "r+") as file:
        dataset = file["theta"]
        n = len(dataset)
        dataset.resize(n + len(values), axis=0)
        dataset[n:] = values


def descriptor(frames_an_event=1):
    keys = {
        "theta": {"shape": [frames_an_event], "dtype": "number", "units": "deg", "external": "STREAM:"},
        "eiger": {"shape": [frames_an_event, 3, 5], "dtype": "array", "external": "STREAM:"},
    }
    return ("descriptor", {"uid": "d", "run_start": "run", "name": "main", "data_keys": keys, "configuration": {}})


def resource(file, key="theta", dataset=None, **more):
    uri = "file://localhost" + str(file).replace(" ", "%20")
    parameters = {"dataset": dataset or f"/{key}", "chunk_shape": [16]}
    doc = {"uid": f"r-{key}", "run_start": "run", "mimetype": "application/x-hdf5", "uri": uri, "data_key": key}
    return ("stream_resource", {**doc, "parameters": parameters, **more})


def datum(start, stop, key="theta", seq=True):
    seq_nums = {"start": start + 1, "stop": stop + 1} if seq else {"start": 0, "stop": 0}
    indices = {"start": start, "stop": stop}
    doc = {"uid": f"r-{key}/{start}", "stream_resource": f"r-{key}", "descriptor": "d"}
    return ("stream_datum", {**doc, "indices": indices, "seq_nums": seq_nums})


def frames(rig, series=1, n=N):
    rig.feed(
        begin(series, user_data="run", n_images=n), *(frame(k, series) for k in range(n)), SeriesEnd(series=series)
    )


def stop(n=N, **more):
    return ("stop", {"run_start": "run", "time": 1e9 + 500, "num_events": {"main": n}, **more})


@pytest.mark.parametrize("seq", [True, False])
def test_a_fly_scan_has_the_angles_of_the_box(file, seq):
    rig = Rig()
    rig.feed(run_start(), descriptor(), resource(file), resource(file, "eiger"))
    write(file, ANGLES[:3])
    rig.feed(datum(0, 3, seq=seq), datum(0, 3, "eiger"))
    write(file, ANGLES[3:])
    rig.feed(datum(3, N, seq=seq), datum(3, N, "eiger"))
    frames(rig)
    rig.feed(stop())
    (curve,) = rig.settle()
    np.testing.assert_array_equal(curve.scanned["theta"], ANGLES)
    assert curve.account.missing == ()
    assert curve.doubts == ()
    assert curve.run.units == {"theta": "deg"}


def test_a_file_that_is_written_late_is_waited_for(file):
    rig = Rig()
    rig.feed(run_start(), descriptor(), resource(file), datum(0, N))
    write(file, ANGLES[:4])
    frames(rig)
    rig.feed(stop())
    rig.settle(2.0)
    assert rig.curves == []
    write(file, ANGLES[4:])
    (curve,) = rig.settle(2.0)
    np.testing.assert_array_equal(curve.scanned["theta"], ANGLES)
    assert curve.doubts == ()


def test_positions_that_came_since_the_last_look_are_waited_for(file):
    """A goniometer in the header must not stand in for positions that a document has just named."""
    rig = Rig()
    write(file, ANGLES)
    rig.feed(run_start(), descriptor(), resource(file), datum(0, N - 2))
    rig.feed(begin(user_data="run", goniometer={"theta": (5.0, 0.1)}), *(frame(k) for k in range(N)))
    rig.assembler.poll()
    rig.feed(SeriesEnd(series=1))
    rig.assembler.poll()  # reads the first positions
    rig.feed(datum(N - 2, N), stop())
    (curve,) = rig.curves or rig.settle()
    np.testing.assert_array_equal(curve.scanned["theta"], ANGLES)


def test_several_frames_an_event_have_an_angle_each(file):
    rig = Rig()
    write(file, ANGLES)
    rig.feed(run_start(), descriptor(N), resource(file), datum(0, 1))
    frames(rig)
    rig.feed(stop(1))
    (curve,) = rig.settle()
    np.testing.assert_array_equal(curve.scanned["theta"], ANGLES)
    assert curve.doubts == ()


def test_each_curve_of_a_run_has_its_part_of_the_box_s_file(file):
    rig = Rig()
    write(file, np.concatenate([ANGLES, ANGLES + 1]))
    rig.feed(run_start(points_per_curve=N), descriptor(), resource(file), datum(0, N))
    frames(rig, 1)
    rig.settle(2.0)
    rig.feed(datum(N, 2 * N))
    rig.feed(begin(2, user_data={"run_uid": "run", "curve_index": 1}), *(frame(k, 2) for k in range(N)))
    rig.feed(SeriesEnd(series=2), stop(2 * N))
    first, second = rig.settle()
    np.testing.assert_array_equal(first.scanned["theta"], ANGLES)
    np.testing.assert_array_equal(second.scanned["theta"], ANGLES + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uri": "file://localhost/absent/file.h5"}, "absent"),
        ({"parameters": {"dataset": "/nothing"}}, "nothing"),
        ({"parameters": {"dataset": "/names"}}, "expected numbers"),
    ],
)
def test_positions_that_cannot_be_read_are_named(file, change, message):
    rig = Rig()
    rig.feed(run_start(), descriptor(), resource(file, **change), datum(0, N))
    frames(rig)
    rig.feed(stop())
    (curve,) = rig.settle()
    assert any("positions of the run cannot be read" in doubt and message in doubt for doubt in curve.doubts)
    assert len(curve.counts) == N


@pytest.mark.parametrize(
    "change",
    [
        {"mimetype": "text/csv"},
        {"uri": "s3://bucket/file.h5"},
        {"uri": 3},
        {"parameters": None},
        {"data_key": "other"},
    ],
)
def test_data_of_other_kinds_are_counted_not_read(file, change):
    rig = Rig()
    rig.feed(run_start(), descriptor(), resource(file, **change), datum(0, N))
    frames(rig)
    rig.feed(stop())
    (curve,) = rig.settle()
    assert any("1 StreamDatum or Datum documents name images only" in doubt for doubt in curve.doubts)


@pytest.mark.parametrize(
    "indices", [None, {}, {"start": 0}, {"start": -1, "stop": 4}, {"start": 4, "stop": 0}, {"start": 0, "stop": 10**9}]
)
def test_impossible_indices_are_counted_not_read(file, indices):
    rig = Rig()
    name, doc = datum(0, N)
    rig.feed(run_start(), descriptor(), resource(file), (name, doc | {"indices": indices}))
    assert rig.assembler.book.runs["run"].n_external == 1


def test_positions_and_readings_of_one_stream_come_together(file):
    rig = Rig()
    write(file, ANGLES)
    rig.feed(run_start(), descriptor(), resource(file), datum(0, N))
    for k in range(N):
        rig.feed(("event", {"descriptor": "d", "seq_num": k + 1, "time": 0.0, "data": {"monitor": 100.0 + k}}))
    frames(rig)
    rig.feed(stop())
    (curve,) = rig.settle()
    np.testing.assert_array_equal(curve.scanned["theta"], ANGLES)
    np.testing.assert_array_equal(curve.scanned["monitor"], 100.0 + np.arange(N))


BOX = """
import sys, h5py, numpy as np
with h5py.File(sys.argv[1], "w", libver="latest") as file:
    theta = file.create_dataset("theta", shape=(0,), maxshape=(None,), chunks=(16,), dtype="f8")
    file.swmr_mode = True
    print("open", flush=True)
    for line in sys.stdin:
        theta.resize(len(theta) + 1, axis=0)
        theta[-1] = float(line)
        theta.flush()
        print("written", flush=True)
"""


def test_a_file_is_read_while_the_box_has_it_open(tmp_path):
    path = tmp_path / "open.h5"
    command = [sys.executable, "-c", BOX, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as box:
        assert box.stdout.readline() == "open\n"
        rig = Rig()
        rig.feed(run_start(), descriptor(), resource(path))
        frames(rig)
        for k, angle in enumerate(ANGLES.tolist()):
            print(angle, file=box.stdin, flush=True)
            assert box.stdout.readline() == "written\n"
            rig.feed(datum(k, k + 1))
            rig.settle(1.0)
        rig.feed(stop())
        (curve,) = rig.settle()
    np.testing.assert_array_equal(curve.scanned["theta"], ANGLES)
    assert curve.doubts == ()
