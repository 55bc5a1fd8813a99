"""Recording into HDF5: each frame once, the frame account, and scans that are read with the right motors."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdi_stream.assemble.recorder import Recorder
from cdi_stream.disk import growing
from cdi_stream.errors import RecordingError, WireError
from cdi_stream.files.recording import read_scan
from cdi_stream.messages import DetectorFrame, SeriesEnd, SeriesStart
from cdi_stream_plugins.readers.own import OwnReader

N = 6
SHAPE = (3, 5)
T_NS = 1_700_000_000 * 10**9


class Tape:
    """Recorder that gets messages and documents, a millisecond apart."""

    def __init__(self, folder, beamline=None) -> None:
        self.path = folder / "recorded.h5"
        self.recorder = Recorder(self.path, beamline)
        self.counts = None
        self._now_ns = T_NS

    def feed(self, *items):
        for item in items:
            self._now_ns += 10**6
            if isinstance(item, tuple):
                self.recorder.on_document(*item)
            else:
                self.recorder.take(item, self._now_ns)
        return self

    def close(self):
        self.counts = self.recorder.close()
        return self

    def accounts(self):
        with h5py.File(self.path) as file:
            return json.loads(file["entry/cdi_stream/accounting"][()])

    def stacks(self):
        with h5py.File(self.path) as file:
            return {name: {key: data[()] for key, data in file[f"{name}/data"].items()} for name in file}


@pytest.fixture
def tape(tmp_path):
    return Tape(tmp_path)


def picture(image_id, dtype="u2", shape=SHAPE, series=1):
    """Return an image that differs for every frame of every series."""
    return (np.arange(np.prod(shape)).reshape(shape) % 7 + 10 * image_id + sum(repr(series).encode())).astype(dtype)


def begin(series=1, **header):
    return SeriesStart(series=series, **header)


def frame(image_id, series=1, **how):
    return DetectorFrame(series=series, image_id=image_id, pixels=picture(image_id, series=series, **how))


def frames(ids, series=1, **how):
    return [frame(k, series, **how) for k in ids]


def end(series=1):
    return SeriesEnd(series=series)


def unnamed(ids, **how):
    return frames(ids, None, **how)


def run_documents(n=N, run="run", ids=None, data=None, motors=("theta",), **metadata):
    """Return the documents of one run; its readings are a function of the place in the scan."""
    desc = f"{run}-primary"
    keys = {"theta": {"units": "deg"}, "chi": {"units": "deg"}}
    base = {"uid": f"{run}-baseline", "run_start": run, "name": "baseline", "data_keys": {"delta": {"units": "rad"}}}
    yield "start", {"uid": run, "time": T_NS / 1e9, "motors": list(motors), **metadata}
    yield "descriptor", base
    yield (
        "event",
        {"descriptor": base["uid"], "seq_num": 1, "data": {"delta": 31.5, "delta_user_setpoint": 31.0, "temp": 20.0}},
    )
    yield "descriptor", {"uid": desc, "run_start": run, "name": "primary", "data_keys": keys}
    for k in range(n):
        readings = {"chi": 90.0 + k, "theta": 0.1 * k, "theta_user_setpoint": 7.0, "det_stats_total": 3.0}
        names = {} if ids is None else {"det_image_id": ids[k]}
        yield "event", {"descriptor": desc, "seq_num": k + 1, "data": readings | names | (data or {})}
    yield "stop", {"run_start": run, "num_events": {"primary": n}}


def assert_pictures(scan, ids, **how):
    """Assert that each received frame is at its point, and that the frames in between are missing."""
    assert scan.missing == tuple(k - ids[0] for k in range(ids[0], ids[-1] + 1) if k not in ids)
    there = scan.frames[scan.has_frame]
    assert len(there) == len(ids)
    assert not scan.frames[~scan.has_frame].any()
    for k, image_id in enumerate(ids):
        np.testing.assert_array_equal(there[k], picture(image_id, **how), strict=True)


# --- each frame once ----------------------------------------------------------------------------------------


def test_every_frame_is_written_once_in_the_order_of_arrival(tape):
    order = [0, 2, 1, 5, 3, 4]
    tape.feed(begin(n_images=N), *frames(order), end()).close()
    (stack,) = tape.stacks().values()
    assert stack["frame_id"].tolist() == order
    assert stack["series_index"].tolist() == [0] * N
    assert (np.diff(stack["receive_time_ns"]) > 0).all()
    assert T_NS < stack["receive_time_ns"][0] < T_NS + 10**9
    for place, image_id in enumerate(order):
        np.testing.assert_array_equal(stack["data"][place], picture(image_id))
    assert tape.counts == {"expected": N, "received": N, "missing": 0, "duplicate": 0, "late": 0, "bad": 0}
    assert tape.recorder.n_frames == N
    assert_pictures(read_scan(tape.path), range(N))


@given(
    order=st.lists(st.integers(0, 9), min_size=1, max_size=25),
    cut=st.integers(0, 25),
    announced=st.none() | st.integers(0, 12),
)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_whatever_comes_twice_late_or_not_at_all_is_accounted_for(order, cut, announced, tmp_path_factory):
    tape = Tape(tmp_path_factory.mktemp("tape"))
    tape.feed(begin(n_images=announced), *frames(order[:cut]), end(), *frames(order[cut:])).close()
    distinct = sorted(set(order))
    account = tape.accounts()[0]
    assert account["received"] == len(distinct)
    assert account["duplicate"] == len(order) - len(distinct)
    assert account["late"] == len(set(order[cut:]) - set(order[:cut]))
    assert account["expected"] == max(announced or 0, distinct[-1] + 1)
    assert account["missing"] == account["expected"] - account["received"]
    assert {name: account[name] for name in tape.counts} == tape.counts
    scan = read_scan(tape.path)
    assert_pictures(scan, distinct)
    np.testing.assert_array_equal(scan.scanned["frame"][scan.has_frame], distinct)


def test_many_frames_make_the_file_grow(tape):
    tape.feed(*frames(range(300), shape=(1, 2))).close()
    assert_pictures(read_scan(tape.path), range(300), shape=(1, 2))


def test_a_frame_in_memory_that_changes_afterwards_stays_as_it_was(tape):
    pixels = np.full(SHAPE, 3, np.uint16)
    tape.feed(DetectorFrame(series=1, image_id=0, pixels=pixels))
    pixels[:] = 9
    tape.close()
    assert (read_scan(tape.path).frames == 3).all()


@pytest.mark.parametrize("image_id", [2**40, 2**63 - 1, 10_000_000, -1])
def test_an_absurd_image_id_is_refused_without_memory(tape, image_id):
    tape.feed(begin(), frame(0))
    absurd = DetectorFrame(series=1, image_id=image_id, pixels=picture(0))
    tracemalloc.start()
    with pytest.raises(WireError, match="beyond the limits"):
        tape.feed(absurd)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    tape.feed(frame(1), end()).close()
    assert tape.counts == {"expected": 2, "received": 2, "missing": 0, "duplicate": 0, "late": 0, "bad": 1}
    assert_pictures(read_scan(tape.path), [0, 1])


@pytest.fixture
def small_disk():
    """Limit the size of files to 8 MiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_frames_that_were_written(small_disk, tape):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 2**16, (256, 256), dtype=np.uint16) for _ in range(100)]
    tape.feed(begin(n_images=100))
    with pytest.raises(OSError, match="File too large") as caught:
        tape.feed(*(DetectorFrame(series=1, image_id=k, pixels=image) for k, image in enumerate(images)))
    assert caught.value.errno == errno.EFBIG
    tape.close()
    n_written = tape.counts["received"]
    assert 10 < n_written < 60
    assert tape.counts["missing"] == 100 - n_written
    np.testing.assert_array_equal(read_scan(tape.path).frames, images[:n_written])
    assert tape.path.stat().st_size < 8 << 20


def test_space_that_was_not_needed_is_given_back(tape):
    tape.feed(begin(), *frames(range(N)), end())
    assert tape.path.stat().st_size > growing.AHEAD_BYTES
    tape.close()
    assert tape.path.stat().st_size < 1 << 18


def test_what_was_flushed_can_be_read_as_if_the_process_had_been_killed(tape, tmp_path):
    tape.feed(begin(n_images=N, count_time_s=0.5), *frames(range(3)))
    tape.recorder.flush()
    killed = tmp_path / "killed.h5"
    shutil.copyfile(tape.path, killed)
    tape.feed(*frames(range(3, N)), end()).close()
    scan = read_scan(killed)
    assert_pictures(scan, range(3))
    np.testing.assert_array_equal(scan.scanned["frame"], range(3))
    assert scan.detector == {"count_time_s": 0.5}
    assert "cut off" in scan.notes[0]
    assert not read_scan(tape.path).notes or "cut off" not in read_scan(tape.path).notes[0]


def test_nothing_at_all_makes_a_file_without_scans(tape):
    tape.close()
    assert tape.accounts() == []
    assert set(tape.counts.values()) == {0}
    with pytest.raises(RecordingError, match="recorded series none"):
        read_scan(tape.path)


def test_a_series_without_frames_is_in_the_account_only(tape):
    tape.feed(begin(1, n_images=3), end(1), begin(2), *frames(range(N), 2), end(2)).close()
    assert [(a["series"], a["received"], a["missing"]) for a in tape.accounts()] == [(1, 0, 3), (2, N, 0)]
    assert read_scan(tape.path).name == "series 2"
    with pytest.raises(RecordingError, match=r"recorded series 1, got 0"):
        read_scan(tape.path, 0)


# --- where series begin and end -----------------------------------------------------------------------------


def test_a_configuration_after_the_header_completes_it(tape):
    """DECTRIS 1.8 sends the header first, and its configuration in a second message."""
    tape.feed(begin(), begin(n_images=N, pixel_row_m=75e-6), *frames(range(N)), end()).close()
    assert len(tape.accounts()) == 1
    assert tape.counts["expected"] == N
    assert read_scan(tape.path).detector == {"pixel_row_m": 75e-6}
    assert tape.recorder.n_ended == 1


def test_a_double_end_counts_once(tape):
    tape.feed(begin(), *frames(range(N)), end(), end()).close()
    assert tape.recorder.n_ended == 1


def test_an_end_of_an_unknown_series_counts_for_nothing(tape):
    tape.feed(end(9), begin(), *frames(range(N)), end()).close()
    assert tape.recorder.n_ended == 1
    assert len(tape.accounts()) == 1


def test_a_series_whose_end_was_lost_ends_when_the_next_begins(tape):
    tape.feed(begin(1), *frames(range(3), 1), begin(2))
    assert tape.recorder.n_ended == 1
    tape.feed(*frames(range(4), 2), end(2)).close()
    assert tape.recorder.n_ended == 2
    assert_pictures(read_scan(tape.path, 0), range(3))
    assert_pictures(read_scan(tape.path, 1), range(4), series=2)


def test_frames_of_an_ended_series_are_late_and_written(tape):
    tape.feed(begin(1), *frames(range(3), 1), begin(2), frame(0, 2), frame(3, 1), frame(1, 2), end(2)).close()
    assert [(a["received"], a["late"]) for a in tape.accounts()] == [(4, 1), (2, 0)]
    assert_pictures(read_scan(tape.path, 0), range(4))


def test_the_same_series_id_again_is_another_series(tape):
    tape.feed(begin(), *frames(range(3)), end(), begin(), *frames(range(N), dtype="u2"), end()).close()
    assert [(a["series"], a["received"], a["duplicate"]) for a in tape.accounts()] == [(1, 3, 0), (1, N, 0)]
    assert_pictures(read_scan(tape.path, 0), range(3))
    assert_pictures(read_scan(tape.path, 1), range(N))
    assert tape.recorder.n_ended == 2


def test_a_start_in_the_middle_of_the_same_series_begins_another(tape):
    tape.feed(begin(), *frames(range(3)), begin(), *frames(range(2)), end()).close()
    assert [a["received"] for a in tape.accounts()] == [3, 2]
    assert tape.recorder.n_ended == 2


def test_a_series_joined_in_its_middle_misses_its_beginning(tape):
    tape.feed(*frames(range(4, 9)), end()).close()
    assert tape.counts["missing"] == 4
    assert tape.counts["received"] == 5
    scan = read_scan(tape.path)
    assert_pictures(scan, range(4, 9))
    np.testing.assert_array_equal(scan.scanned["frame"], range(4, 9))
    assert tape.recorder.n_ended == 1


def test_two_series_in_one_file_are_told_apart_by_number(tape):
    tape.feed(begin("a"), *frames(range(3), "a"), end("a"), begin("b"), *frames(range(4), "b"), end("b")).close()
    assert list(tape.stacks()) == ["entry"]
    for number, (name, n) in enumerate([("a", 3), ("b", 4)]):
        scan = read_scan(tape.path, number)
        assert scan.name == f"series {name}"
        assert_pictures(scan, range(n), series=name)
    for number in (None, 2, -1):
        with pytest.raises(RecordingError, match=f"--scan with one of the recorded series 0, 1, got {number}"):
            read_scan(tape.path, number)


def test_the_reader_of_our_own_files_takes_it(tape):
    tape.feed(begin(), *frames(range(N)), end(), begin(2), *frames(range(2), 2), end(2)).close()
    reader = OwnReader()
    assert reader.can_read(tape.path)
    assert len(reader.read(tape.path, 1).frames) == 2
    assert not reader.can_read(tape.path.parent)


# --- streams that know no series ----------------------------------------------------------------------------


def test_a_count_that_starts_above_zero_misses_nothing(tape):
    tape.feed(*unnamed([500, 501, 503, 502])).close()
    assert tape.counts["missing"] == 0
    scan = read_scan(tape.path)
    assert_pictures(scan, range(500, 504), series=None)
    np.testing.assert_array_equal(scan.scanned["frame"], range(4))


@pytest.mark.parametrize(("first", "second"), [(500, 0), (500, 400), (1, 1), (0, 0)])
def test_a_count_that_begins_anew_is_another_series(tape, first, second):
    tape.feed(*unnamed(range(first, first + 4)))
    assert tape.recorder.n_ended == 0
    tape.feed(*unnamed(range(second, second + 5)))
    assert tape.recorder.n_ended == 1
    tape.close()
    assert [(a["received"], a["missing"], a["duplicate"]) for a in tape.accounts()] == [(4, 0, 0), (5, 0, 0)]
    assert_pictures(read_scan(tape.path, 0), range(first, first + 4), series=None)
    assert_pictures(read_scan(tape.path, 1), range(second, second + 5), series=None)


def test_the_end_of_a_run_ends_the_frames_of_no_series(tape):
    *documents, stop = run_documents(4)
    tape.feed(*documents, *unnamed(range(7, 11)))
    assert tape.recorder.n_ended == 0
    tape.feed(stop)
    assert tape.recorder.n_ended == 1
    tape.close()
    np.testing.assert_allclose(read_scan(tape.path).scanned["theta"], 0.1 * np.arange(4))


@pytest.mark.parametrize("second", [11, 7, 0], ids=["count runs on", "count begins anew", "count begins at zero"])
def test_two_runs_of_frames_of_no_series_are_two_series(tape, second):
    for run, ids in (("one", range(7, 11)), ("two", range(second, second + 5))):
        *documents, stop = run_documents(len(ids), run=run)
        tape.feed(*documents, *unnamed(ids[:-1]), stop, *unnamed(ids[-1:]))
    tape.close()
    assert tape.recorder.n_ended == 2
    assert [(a["received"], a["late"], a["missing"]) for a in tape.accounts()] == [(4, 1, 0), (5, 1, 0)]
    for number, n in enumerate((4, 5)):
        np.testing.assert_allclose(read_scan(tape.path, number).scanned["theta"], 0.1 * np.arange(n))


def test_other_runs_do_not_end_the_frames_of_no_series(tape):
    *documents, stop = run_documents(4)
    tape.feed(*documents, *unnamed(range(2)))
    ours = {"original_run_uid": "yesterday", "analysis_stage": "reconstruction"}
    tape.feed(*run_documents(0, run="ours", **ours), ("stop", {"run_start": "heard nothing of it"}))
    assert tape.recorder.n_ended == 0
    tape.feed(*unnamed(range(2, 4)), stop).close()
    assert tape.counts["received"] == 4
    assert tape.recorder.n_ended == 1


# --- shapes and types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<u4", ">u4", "<i4", ">i4", "<i2", "<f4", ">f4"])
def test_the_type_of_the_wire_is_kept(tape, dtype):
    pixels = np.arange(-7, 8).reshape(SHAPE).astype(dtype)
    tape.feed(*(DetectorFrame(series=1, image_id=k, pixels=pixels) for k in range(2))).close()
    scan = read_scan(tape.path)
    assert scan.frames.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(scan.frames, [pixels, pixels])


@pytest.mark.parametrize("other", [{"shape": (5, 3)}, {"shape": (4, 4)}, {"dtype": "u4"}, {"dtype": ">u2"}])
def test_another_shape_or_type_goes_into_an_entry_of_its_own(tape, other):
    tape.feed(begin(1), *frames(range(3), 1), end(1), begin(2), *frames(range(4), 2, **other), end(2))
    tape.feed(begin(3), *frames(range(2), 3), end(3)).close()
    stacks = tape.stacks()
    assert {name: stack["series_index"].tolist() for name, stack in stacks.items()} == {
        "entry": [0, 0, 0, 2, 2],
        "entry_2": [1] * 4,
    }
    assert_pictures(read_scan(tape.path, 0), range(3))
    assert_pictures(read_scan(tape.path, 1), range(4), series=2, **other)
    assert_pictures(read_scan(tape.path, 2), range(2), series=3)


def test_an_odd_frame_in_the_middle_of_a_series_harms_no_other(tape):
    tape.feed(*frames(range(2)), frame(2, shape=(9, 9)), *frames(range(3, 5)), end()).close()
    assert_pictures(read_scan(tape.path), [0, 1, 3, 4])
    np.testing.assert_array_equal(tape.stacks()["entry_2"]["data"][0], picture(2, shape=(9, 9)))
    assert tape.counts["received"] == 5


def test_sides_of_different_length_keep_their_order(tape):
    tape.feed(*frames(range(2), shape=(2, 11), dtype="u1")).close()
    assert read_scan(tape.path).frames.shape == (2, 2, 11)


# --- motors and header --------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_ids", [True, False])
@pytest.mark.parametrize("order", [range(N), [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]])
def test_motors_belong_to_their_frames_in_whatever_order_those_came(tape, order, has_ids):
    documents = list(run_documents(ids=range(N) if has_ids else None, motors=["theta"]))
    tape.feed(*documents[:5], begin(user_data="run", n_images=N), *frames(order), *documents[5:], end()).close()
    scan = read_scan(tape.path)
    assert_pictures(scan, range(N))
    assert next(iter(scan.scanned)) == "theta"
    np.testing.assert_allclose(scan.scanned["theta"], 0.1 * np.arange(N))
    np.testing.assert_allclose(scan.scanned["chi"], 90 + np.arange(N))
    assert "theta_user_setpoint" not in scan.scanned
    assert "det_image_id" not in scan.scanned
    assert scan.baseline == {"delta": 31.5, "temp": 20.0}
    assert scan.units == {"theta": "deg", "chi": "deg", "delta": "rad"}


def test_motors_of_frames_that_came_stay_with_them_when_others_are_missing(tape):
    tape.feed(*run_documents(ids=range(N)), begin(user_data="run", n_images=N), *frames([4, 1, 5]), end()).close()
    scan = read_scan(tape.path)
    assert_pictures(scan, [1, 4, 5])
    np.testing.assert_allclose(scan.scanned["theta"], [0.1, 0.2, 0.3, 0.4, 0.5])
    assert tape.counts["missing"] == 3
    assert scan.doubts == ("the scan is incomplete: 3 of 6 frames were received when it was recorded",)


def test_motors_belong_to_their_frames_where_two_series_are_mixed_in_one_stack(tape):
    for number in range(2):
        run, series = f"run {number}", f"series {number}"
        tape.feed(*run_documents(run=run, ids=range(N), data={"theta": 0.0, "det_series_id": series, "eta": number}))
    tape.feed(begin("series 0"), begin("series 1"))
    for k in range(N):
        tape.feed(frame(k, "series 1"), frame(N - 1 - k, "series 0"))
    tape.close()
    for number in range(2):
        scan = read_scan(tape.path, number)
        assert_pictures(scan, range(N), series=f"series {number}")
        np.testing.assert_allclose(scan.scanned["chi"], 90 + np.arange(N))
        np.testing.assert_allclose(scan.scanned["eta"], number)


def test_the_only_run_is_taken_even_if_nothing_names_it(tape):
    tape.feed(*run_documents(), *frames(range(N)), end()).close()
    np.testing.assert_allclose(read_scan(tape.path).scanned["theta"], 0.1 * np.arange(N))


def test_lost_events_are_interpolated_and_noted(tape):
    documents = [d for d in run_documents(ids=range(N)) if d[0] != "event" or d[1]["seq_num"] != 3]
    documents += [d for d in run_documents() if d[0] == "event" and "delta" in d[1]["data"]]
    tape.feed(*documents, begin(user_data={"run_uid": "run", "n_points": N}), *frames(range(N)), end()).close()
    scan = read_scan(tape.path)
    np.testing.assert_allclose(scan.scanned["theta"], 0.1 * np.arange(N), atol=1e-9)
    assert any("events are missing" in note for note in scan.notes)


def test_without_documents_the_goniometer_of_the_header_tells_the_angles(tape):
    tape.feed(begin(n_images=N, goniometer={"omega": (5.0, 0.5)}), *frames([2, 0, 1, 5, 4]), end()).close()
    scan = read_scan(tape.path)
    assert scan.missing == (3,)
    np.testing.assert_allclose(scan.scanned["omega"], [5.0, 5.5, 6.0, 6.5, 7.0, 7.5])
    assert scan.baseline == {}
    assert any("goniometer" in note for note in scan.notes)


def test_without_any_angles_frames_have_their_number(tape):
    tape.feed(begin(), *frames([2, 0, 1]), end()).close()
    scan = read_scan(tape.path)
    assert list(scan.scanned) == ["frame"]
    np.testing.assert_array_equal(scan.scanned["frame"], [0, 1, 2])
    assert any("no readings" in note for note in scan.notes)


def test_what_the_header_tells_is_kept(tmp_path):
    told = {
        "pixel_row_m": 55e-6,
        "pixel_col_m": 75e-6,
        "beam_row": -2.5,
        "beam_col": 0.0,
        "count_time_s": 0.5,
        "saturation_counts": 1e5,
        "photon_energy_ev": 9000.0,
        "distance_m": 1.2,
    }
    mask = np.arange(15).reshape(SHAPE) % 2 == 0
    tape = Tape(tmp_path, beamline="aps_34idc")
    tape.feed(begin(pixel_mask=mask, **told), *frames(range(2)), end()).close()
    scan = read_scan(tape.path)
    assert scan.detector == told
    assert scan.beamline == "aps_34idc"
    np.testing.assert_array_equal(scan.pixel_mask, mask)


def test_a_mask_of_another_shape_is_left_out(tape):
    tape.feed(begin(pixel_mask=np.ones((9, 9), bool)), *frames(range(2)), end()).close()
    assert read_scan(tape.path).pixel_mask is None


# --- the file to other programs -----------------------------------------------------------------------------


def test_silx_finds_the_images_of_every_entry(tape):
    tape.feed(begin(1), *frames(range(2), 1), end(1), begin(2), *frames(range(3), 2, dtype="u4"), end(2)).close()
    with h5py.File(tape.path) as file:
        for entry, n in (("entry", 2), ("entry_2", 3)):
            assert file[entry].attrs["NX_class"] == "NXentry"
            group = file[entry][file[entry].attrs["default"]]
            assert group.attrs["NX_class"] == "NXdata"
            assert group[group.attrs["signal"]].shape == (n, *SHAPE)
            assert {len(dataset) for dataset in group.values()} == {n}
        assert file.attrs["default"] == "entry"


def test_the_account_lies_beside_the_frames(tape):
    tape.feed(begin("a", n_images=5), *frames([0, 1, 1, 3], "a"), end("a"), frame(2, "a"), begin(7), end(7)).close()
    assert tape.accounts() == [
        {"series": "a", "expected": 5, "received": 4, "missing": 1, "duplicate": 1, "late": 1, "bad": 0},
        {"series": 7, "expected": 0, "received": 0, "missing": 0, "duplicate": 0, "late": 0, "bad": 0},
    ]
    assert tape.counts == {"expected": 5, "received": 4, "missing": 1, "duplicate": 1, "late": 1, "bad": 0}
