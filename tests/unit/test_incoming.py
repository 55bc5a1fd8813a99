"""Series that outlive the process: the next process goes on with them, and puts broken files aside."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest

from cdi_stream.assemble.incoming import DESCRIPTION, Incoming
from cdi_stream.assemble.release import RECONNECTION_S
from cdi_stream.messages import DetectorFrame, SeriesEnd
from cdi_stream.stream import frame_log
from cdi_stream_plugins.decoders.dectris2 import Dectris2Decoder
from tests.assembling import N, Rig, all_events, begin, descriptor, event, frame, picture, run_start, run_stop


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "incoming"


def rig(folder, now_s=100.0):
    made = Rig(Incoming(folder))
    made.clock.now_s = now_s
    return made


def resumed(folder, published=()):
    made = rig(folder, 5.0)  # the monotonic clock of another process
    made.wall_ahead_s = 200.0
    made.n = made.assembler.resume(lambda key: key in published, Dectris2Decoder().decode)
    return made


def contents(curve):
    return [int(image[0, 0]) for image in curve.counts]


def test_a_curve_goes_on_with_the_frames_and_documents_that_were_there(folder):
    first = rig(folder)
    mask = np.ones((3, 5), dtype=bool)
    first.feed(run_start(sample="gold"), descriptor(), begin(user_data="run", pixel_mask=mask, distance_m=0.5))
    first.feed(*all_events()[:4], *(frame(k) for k in range(4)))
    second = resumed(folder)
    assert second.n == 1
    second.feed(*all_events()[4:], *(frame(k) for k in range(4, N)))
    (curve,) = second.curves
    assert contents(curve) == list(range(1, N + 1))
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1))
    assert (curve.run.uid, curve.run.sample, curve.doubts) == ("run", "gold", ())
    assert curve.series.distance_m == 0.5
    np.testing.assert_array_equal(curve.series.pixel_mask, mask)


def test_a_release_describes_its_series_once(folder, monkeypatch):
    made = rig(folder)
    made.feed(run_start(), descriptor(), begin(user_data="run"), *all_events(), *(frame(k) for k in range(N - 1)))
    saved = []
    monkeypatch.setattr(Incoming, "save", lambda _, description: saved.append(description))
    made.feed(frame(N - 1))
    assert len(made.curves) == 1
    assert [description.curve_index for description in saved] == [0]


def test_frames_lost_while_nobody_listened_are_missing(folder):
    first = rig(folder)
    first.feed(run_start(num_points=N), descriptor(), begin(user_data="run"), *all_events()[:3])
    first.feed(*(frame(k) for k in range(3)))
    second = resumed(folder)
    second.feed(frame(5), frame(6), SeriesEnd(series=1), *all_events()[5:], run_stop(N))
    (curve,) = second.settle()
    assert curve.account.missing == (3, 4)
    assert contents(curve) == [1, 2, 3, 0, 0, 6, 7]
    assert any("2 of 7 events are missing" in doubt for doubt in curve.doubts)


def test_a_curve_that_was_complete_is_released_again_with_the_same_name(folder):
    first = rig(folder)
    first.feed(run_start(), descriptor(), begin(user_data="run"), *all_events(), *(frame(k) for k in range(N)))
    (released,) = first.curves
    second = resumed(folder)
    (curve,) = second.settle()
    assert (curve.key, curve.curve_index, curve.account) == (released.key, 0, released.account)
    assert contents(curve) == list(range(1, N + 1))


def test_a_curve_whose_reconstruction_is_out_is_not_made_again(folder):
    first = rig(folder)
    first.feed(run_start(), descriptor(), begin(user_data="run"), *all_events(), *(frame(k) for k in range(N)))
    second = resumed(folder, published=[first.curves[0].key])
    assert second.settle() == []
    assert list((folder / "curves").iterdir()) == []


def test_a_series_id_that_is_used_again_is_another_curve(folder):
    first = rig(folder)
    first.feed(run_start(), descriptor(), begin(user_data={"run_uid": "run"}))
    first.feed(*all_events(), *(frame(k) for k in range(N)))
    first.clock.now_s += 1
    again = [event(N + k + 1, k, theta=10.0 + k) for k in range(N)]
    first.feed(begin(user_data={"run_uid": "run", "curve_index": 1, "n_points": N}), *again)
    first.feed(*(frame(k) for k in range(N)))
    keys = [curve.key for curve in first.curves]
    assert len(set(keys)) == 2
    second = resumed(folder, published=keys[:1])
    (curve,) = second.settle()
    assert (curve.key, curve.curve_index) == (keys[1], 1)


def test_the_end_of_a_series_is_remembered(folder):
    first = rig(folder)
    first.feed(begin(user_data={"run_uid": "run"}), *(frame(k) for k in range(3)), SeriesEnd(series=1))
    second = resumed(folder)
    second.settle(12.0)
    assert [curve.account.received for curve in second.curves] == [3]


def test_places_in_a_run_go_on_where_they_were(folder):
    first = rig(folder)
    first.feed(run_start(num_points=2 * N), descriptor())
    first.feed(begin("a"), *(frame(k, "a") for k in range(N)), SeriesEnd(series="a"))
    first.feed(*(event(k + 1, k, series="a") for k in range(N)))
    first.feed(begin("b"), *(frame(k, "b") for k in range(2)), event(N + 1, 0, series="b"))
    assert [curve.curve_index for curve in first.settle(3.0)] == [0]
    assert first.assembler.progress()[0].curve_index == 1
    second = resumed(folder, published=[first.curves[0].key])
    assert [one.curve_index for one in second.assembler.progress()] == [1]


def test_frames_of_no_series_go_on_too(folder):
    first = rig(folder)
    first.feed(run_start(num_points=N), descriptor(), *(frame(100 + k, None) for k in range(4)))
    second = resumed(folder)
    second.feed(*(frame(100 + k, None) for k in range(4, N)))
    second.feed(*(event(k + 1, unique_id=100 + k) for k in range(N)), run_stop(N))
    (curve,) = second.settle()
    assert curve.account.missing == ()


@pytest.mark.parametrize("content", [b"", b"\xc1\xc1", b"\x80", b"\x93\x01\x02\x03"])
def test_a_description_that_cannot_be_read_is_put_aside(folder, content):
    first = rig(folder)
    first.feed(run_start(), descriptor(), begin(user_data="run"), frame(0))
    (description,) = (folder / "curves").glob(f"*/{DESCRIPTION}")
    description.write_bytes(content)
    second = resumed(folder)
    assert second.n == 0
    assert list((folder / "curves").glob("*.broken"))
    second.feed(begin(2, "run"), *(frame(k, 2) for k in range(N)), *all_events())
    assert [curve.account.received for curve in second.settle()] == [N]


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_documents_that_break_off_are_used_as_far_as_they_go(folder, cut):
    first = rig(folder)
    first.feed(run_start(), descriptor(), begin(user_data="run"), *all_events(), frame(0))
    (log,) = (folder / "runs").iterdir()
    log.write_bytes(log.read_bytes()[: len(log.read_bytes()) - cut])
    second = resumed(folder)
    assert len(second.assembler.book.runs["run"].events["primary"]) >= N - 1


@pytest.mark.parametrize("n_before", [0, 4])
def test_frames_that_no_disk_has_room_for_are_kept_in_memory(folder, monkeypatch, caplog, n_before):
    monkeypatch.setattr(frame_log, "SPACE_CHECK_BYTES", 0)
    first = rig(folder)
    first.feed(run_start(), descriptor(), begin(user_data="run"), *(frame(k) for k in range(n_before)))
    monkeypatch.setattr(frame_log, "KEEP_FREE_BYTES", 1 << 60)
    first.feed(*(frame(k) for k in range(n_before, N)), *all_events())
    (curve,) = first.settle()
    assert contents(curve) == list(range(1, N + 1))
    assert "kept in memory only" in caplog.text


def test_documents_of_forgotten_runs_are_deleted(folder):
    first = rig(folder)
    for k in range(60):
        first.feed(run_start(f"run {k}"), run_stop(0, f"run {k}"))
    assert len(list((folder / "runs").iterdir())) <= 52


def test_a_series_that_an_earlier_version_left_is_put_aside_and_named(folder, caplog):
    """Its frames lay in a mapped file, ``layout`` told their shape: this version must not half understand them."""
    first = rig(folder)
    first.feed(run_start(), descriptor(), begin(user_data="run"), frame(0))
    (description,) = (folder / "curves").glob(f"*/{DESCRIPTION}")
    plain = msgpack.unpackb(description.read_bytes(), strict_map_key=False)
    description.write_bytes(msgpack.packb(plain | {"layout": [[3, 5], "uint16"]}))
    (description.parent / "frames.u32").write_bytes(bytes(60))
    assert resumed(folder).n == 0
    (broken,) = (folder / "curves").glob("*.broken")
    assert (broken / "frames.u32").exists(), "nothing is deleted"
    assert str(broken) in caplog.text


@pytest.mark.parametrize("n_before", [0, 3, N])
def test_a_run_without_its_first_documents_goes_on_too(folder, n_before):
    first = rig(folder)
    for k in range(n_before):
        first.feed(frame(k, 5), event(k + 1, series=5))
    second = resumed(folder)
    for k in range(n_before, N):
        second.feed(frame(k, 5), event(k + 1, series=5))
    second.feed(SeriesEnd(series=5), run_stop(N))
    third = resumed(folder)
    (curve,) = second.settle()
    (again,) = third.settle()
    for released in (curve, again):
        assert contents(released) == list(range(1, N + 1))
        assert released.run.uid == "run"
        np.testing.assert_allclose(released.scanned["theta"], 0.1 * np.arange(1, N + 1))


def test_a_series_without_a_start_message_takes_no_other_run_after_a_restart(folder):
    first = rig(folder)
    first.feed(*(frame(k, 5) for k in range(3)))
    second = resumed(folder)
    second.feed(run_start(), descriptor(), begin(series=6, user_data="run"), *(frame(k, 6) for k in range(N)))
    second.feed(*all_events(), run_stop(N))
    (curve,) = second.settle()
    assert curve.series.series == 6


def test_documents_of_a_run_that_is_named_late_are_kept_with_it(folder):
    made = rig(folder)
    made.feed(*(event(k + 1) for k in range(N)), run_stop(N), run_start("other"))
    book = resumed(folder).assembler.book
    assert sorted(book.runs) == ["other", "run"]
    assert len(book.runs["run"].events["primary"]) == N


def test_a_restart_prolongs_no_waiting_time(folder):
    first = rig(folder)
    first.feed(run_start(), descriptor(), begin(user_data="run"), *all_events(), *(frame(k) for k in range(N - 1)))
    for n in range(1, 4):  # restarts every 50 s
        later = rig(folder, 5.0)
        later.wall_ahead_s = 95.0 + 50.0 * n
        later.assembler.resume(lambda key: False, Dectris2Decoder().decode)
        assert later.curves == []
        later.settle(RECONNECTION_S - 0.1)
        assert later.curves == []
        later.settle(0.5)
        assert len(later.curves) == (n == 3), "the end of the series is given up after 120 s"
    assert later.curves[0].account.missing == (N - 1,)


def test_a_clock_that_was_set_back_ends_no_series_and_keeps_none_for_ever(folder):
    first = rig(folder)
    first.feed(run_start(), descriptor(), begin(user_data="run"), *all_events(), frame(0))
    second = rig(folder, 5.0)
    second.wall_ahead_s = -5000.0
    second.assembler.resume(lambda key: False, Dectris2Decoder().decode)
    second.settle(60.0)
    assert second.curves == []
    second.settle(120.0)
    assert len(second.curves) == 1


def test_series_of_one_image_each_go_on_too(folder):
    def point(rig_, k):
        series = 50 + k
        image = DetectorFrame(series=series, image_id=0, pixels=picture(k))
        rig_.feed(begin(series, user_data="run", n_images=1), image, SeriesEnd(series=series))
        rig_.feed(event(k + 1, series=series))

    first = rig(folder)
    first.feed(run_start(num_points=N), descriptor())
    for k in range(4):
        point(first, k)
    second = resumed(folder)
    for k in range(4, N):
        point(second, k)
    second.feed(run_stop(N))
    (curve,) = second.settle()
    assert contents(curve) == list(range(1, N + 1))
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1))


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_series_without_its_start_has_the_header_of_the_series_before(folder, is_restarted):
    mask = np.ones((3, 5), dtype=bool)
    mask[0, 0] = False
    first = rig(folder)
    header = {"image_shape": (3, 5), "pixel_row_m": 55e-6, "distance_m": 0.5, "goniometer": {"theta": (0.0, 1.0)}}
    first.feed(run_start(), descriptor(), begin(1, user_data="run", pixel_mask=mask, **header))
    first.feed(*all_events(series=1), *(frame(k, 1) for k in range(N)), SeriesEnd(series=1), run_stop(N))
    second = resumed(folder) if is_restarted else first
    second.settle(20.0)
    second.curves.clear()
    second.feed(run_start("next"), descriptor("next", "d"), *(frame(k, 2) for k in range(N)))
    second.feed(*all_events(series=2, desc="d"), SeriesEnd(series=2), run_stop(N, "next"))
    (curve,) = second.settle()
    assert (curve.series.pixel_row_m, curve.series.distance_m, curve.series.goniometer) == (55e-6, 0.5, {})
    np.testing.assert_array_equal(curve.series.pixel_mask, mask)
    assert any("the header of series 1 is used" in doubt for doubt in curve.doubts)


def test_frames_of_another_shape_have_no_header_of_before(folder):
    made = rig(folder)
    made.feed(run_start(), descriptor(), begin(1, user_data="run", image_shape=(9, 9), pixel_row_m=55e-6))
    made.feed(run_stop(0), run_start("next"), descriptor("next", "d"), *(frame(k, 2) for k in range(N)))
    made.feed(*all_events(series=2, desc="d"), SeriesEnd(series=2), run_stop(N, "next"))
    (curve,) = (curve for curve in made.settle() if curve.series.series == 2)
    assert curve.series.pixel_row_m is None
    assert any("its header is unknown" in doubt for doubt in curve.doubts)
