"""Contradicting counts, wrong documents, wrong clocks: the right curve, or a curve with doubts."""

from __future__ import annotations

import numpy as np
import pytest

from cdi_stream.documents.publish import RunPublisher
from cdi_stream.errors import WireError
from cdi_stream.messages import DetectorFrame, RunContext, SeriesEnd, SeriesStart
from tests.assembling import N, Rig, all_events, begin, descriptor, event, frame, picture, run_start, run_stop
from tests.unit.test_publish import IDENTITY, PROVENANCE, SHAPES, result

PERIOD_S = 0.4


def measured(rig: Rig, n_events: int = N, extra_after: tuple[int, ...] = (), skew_s: float = 0.0, pause_s: float = 0.0):
    """Feed a step scan in real time: each frame, then its event; at some points the frame is taken twice."""
    image_id = 0
    for point in range(n_events):
        for _ in range(2 if point in extra_after else 1):
            rig.clock.now_s += PERIOD_S + (pause_s if point in extra_after and _ else 0.0)
            rig.feed(frame(image_id))
            image_id += 1
        rig.clock.now_s += 0.02
        rig.feed(event(point + 1, time=rig.wall_s() + skew_s))


def contents(curve) -> list[int]:
    return [int(image[0, 0]) for image in curve.counts]


# --- frames and events differ in number (issue 17: 2, 3, 11, 29, 47) ---------------------------------------------


def test_a_point_measured_twice_after_a_pause_is_found_by_the_times():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run", n_images=N + 1))
    measured(rig, extra_after=(3,), pause_s=30.0)
    rig.feed(SeriesEnd(series=1), run_stop(N))
    (curve,) = rig.settle()
    assert contents(curve) == [1, 2, 3, 5, 6, 7, 8]
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1))
    assert curve.account.missing == ()
    assert curve.account.duplicate == 1
    assert curve.doubts == ()
    assert any("8 frames for 7 points: joined by their times" in note for note in curve.notes)


def test_a_point_measured_twice_is_doubted_where_times_leave_it_open():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run", n_images=N + 1))
    rig.feed(*(frame(k) for k in range(N + 1)), *(event(k + 1, time=rig.wall_s()) for k in range(N)), run_stop(N))
    (curve,) = rig.settle()
    assert any("frames may lie at wrong angles" in doubt for doubt in curve.doubts)


def test_a_last_frame_that_never_came_is_told_by_the_times():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run"))
    measured(rig, n_events=N - 1)
    rig.clock.now_s += PERIOD_S
    rig.feed(event(N, time=rig.wall_s()), SeriesEnd(series=1), run_stop(N))
    (curve,) = rig.settle()
    assert curve.account.missing == (N - 1,)
    assert contents(curve) == [*range(1, N), 0]


@pytest.mark.parametrize("status", ["abort", "fail"])
def test_an_aborted_run_lacks_the_points_that_it_planned(status):
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run", n_images=None))
    rig.feed(*(frame(k) for k in range(4)), *(event(k + 1, k) for k in range(4)), SeriesEnd(series=1))
    rig.feed(run_stop(4, exit_status=status))
    (curve,) = rig.settle()
    assert curve.account.expected == N
    assert curve.account.missing == (4, 5, 6)
    assert any(f"exit_status '{status}' after 4 of 7 points" in doubt for doubt in curve.doubts)


def test_fewer_points_than_the_detector_announced_are_doubted_and_missing():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"))
    rig.feed(*(frame(k) for k in range(4)), *(event(k + 1, k) for k in range(4)), SeriesEnd(series=1), run_stop(4))
    (curve,) = rig.settle()
    assert curve.account.expected == N
    assert any("announced 7 images, the run had 4 points" in doubt for doubt in curve.doubts)


def test_a_header_that_announces_too_many_is_not_believed_against_plan_events_and_frames():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run", n_images=1000))
    rig.feed(*(frame(k) for k in range(N)), *all_events(), SeriesEnd(series=1), run_stop(N))
    (curve,) = rig.settle()
    assert (curve.account.expected, curve.doubts) == (N, ())
    assert any("announced 1000" in note for note in curve.notes)


@pytest.mark.parametrize("has_stop", [True, False])
def test_frames_whose_events_were_lost_are_no_duplicates(has_stop):
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *(frame(k) for k in range(N)))
    rig.feed(*(event(k + 1) for k in range(N - 2)), SeriesEnd(series=1), *([run_stop(N)] if has_stop else []))
    (curve,) = rig.settle()
    assert (curve.account.expected, curve.account.received, curve.account.duplicate) == (N, N, 0)
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1))
    assert any("2 of 7 events are missing" in doubt for doubt in curve.doubts)


@pytest.mark.parametrize(("seq", "image"), [(0, 1), (1, 1), (0, 0), (1, 0)])
@pytest.mark.parametrize("has_ids", [True, False])
def test_points_and_images_may_be_counted_from_0_or_from_1(seq, image, has_ids):
    rig = Rig()
    events = [event(seq + k, 0 + k if has_ids else None, theta=0.1 * k) for k in range(N)]
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run"), *events)
    rig.feed(*(frame(image + k) for k in range(N)), SeriesEnd(series=1), run_stop(N))
    (curve,) = rig.settle()
    assert curve.account.missing == ()
    assert contents(curve) == [image + k + 1 for k in range(N)]
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(N))
    assert curve.doubts == ()


@pytest.mark.parametrize("first_id", [1, 2, 100])
@pytest.mark.parametrize("lost", [(3,), (1, 4), (0,), (N - 1,), (0, N - 1)])
def test_lost_frames_do_not_hide_that_events_count_images_from_another_number(first_id, lost):
    """areaDetector counts images from 1, DECTRIS from 0: each frame still lies at its own angle."""
    rig = Rig()
    events = [event(k + 1, first_id + k, theta=0.1 * k) for k in range(N)]
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run"), *events)
    rig.feed(*(frame(k) for k in range(N) if k not in lost), SeriesEnd(series=1), run_stop(N))
    (curve,) = rig.settle()
    has_other_fit = 0 in lost or N - 1 in lost
    assert any("the frames that are missing" in doubt for doubt in curve.doubts) == has_other_fit
    if first_id == 1 and 0 in lost:
        return  # the detector may count from 1 too, and have lost its last frame
    assert curve.account.missing == lost
    assert contents(curve) == [0 if k in lost else k + 1 for k in range(N)]


def test_lost_frames_and_lost_events_together_shift_nothing():
    rig = Rig()
    events = [event(k + 1, k, theta=0.1 * k) for k in range(1, N)]
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run"), *events)
    rig.feed(*(frame(k) for k in range(N - 1)), SeriesEnd(series=1), run_stop(N))
    (curve,) = rig.settle()
    assert contents(curve) == [*range(1, N), 0]


def test_several_frames_a_point_stay_in_the_account():
    rig = Rig()
    n = 48
    rig.feed(run_start(num_points=2), descriptor(), begin(user_data="run", n_images=n), *(frame(k) for k in range(n)))
    rig.feed(event(1), event(2), SeriesEnd(series=1), run_stop(2))
    (curve,) = rig.settle()
    assert (curve.account.expected, curve.account.received) == (n, n)
    assert any("48 frames for 2 events" in doubt for doubt in curve.doubts)


def test_several_frames_a_point_have_the_angles_of_arrays_in_the_events():
    rig = Rig()
    rig.feed(run_start(num_points=2), descriptor(), begin(user_data="run", n_images=6), *(frame(k) for k in range(6)))
    rig.feed(event(1, angles=[0.1, 0.2, 0.3]), event(2, angles=[0.4, 0.5, 0.6]), SeriesEnd(series=1), run_stop(2))
    (curve,) = rig.settle()
    np.testing.assert_allclose(curve.scanned["angles"], 0.1 * np.arange(1, 7))
    assert curve.account.received == 6


# --- which stream, which run (8, 10, 22, 25, 41, 42) --------------------------------------------------------------


def test_a_stream_of_a_monitor_is_not_taken_for_the_scan():
    rig = Rig()
    monitor = [("event", {"descriptor": "mon", "seq_num": k, "time": 0.0, "data": {"ring": 1.0 * k}}) for k in (1, 2)]
    label = [("event", {"descriptor": "a", "seq_num": 1, "time": 0.0, "data": {"label_number": 3.0}})]
    rig.feed(run_start(num_points=N), descriptor(uid="mon", name="monitor"), descriptor(uid="a", name="a_label"))
    rig.feed(descriptor(name="scan"), begin(user_data="run"), *monitor, *label)
    rig.feed(*(frame(k) for k in range(N)), *all_events(), run_stop(N))
    (curve,) = rig.settle()
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1))
    assert curve.account.received == N


def test_arrays_of_a_position_box_win_over_a_primary_stream_without_the_motor():
    rig = Rig()
    angles = [0.5 * k for k in range(N)]
    rig.feed(run_start(num_points=N), descriptor(), descriptor(uid="box", name="box"), begin(user_data="run"))
    rig.feed(*(("event", {"descriptor": "primary", "seq_num": k + 1, "data": {"ring": 1.0}}) for k in range(N)))
    rig.feed(("event", {"descriptor": "box", "seq_num": 1, "data": {"theta": angles}}), run_stop(N))
    rig.feed(*(frame(k) for k in range(N)))
    (curve,) = rig.settle()
    np.testing.assert_allclose(curve.scanned["theta"], angles)


@pytest.mark.parametrize("user_data", ["scan_0001.h5", {"uid": "experiment 7"}, "[1, 2]", 17, b"\x00"])
def test_user_data_that_are_no_claim_leave_the_other_ways(user_data):
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data=user_data), *all_events(series=1))
    rig.feed(*(frame(k) for k in range(N)))
    (curve,) = rig.settle()
    assert curve.run.uid == "run"
    assert curve.doubts == ()


def test_a_claim_of_a_run_that_was_never_heard_falls_back_and_says_so():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data={"run_uid": "foreign"}), *all_events(series=1))
    rig.feed(*(frame(k) for k in range(N)), run_stop(N))
    assert rig.curves == []
    (curve,) = rig.settle()
    assert curve.run.uid == "run"
    assert any("names run foreign, whose documents were not received" in doubt for doubt in curve.doubts)


@pytest.mark.parametrize("skew_s", [0.0, 90.0, -90.0, 4000.0])
def test_a_join_by_time_that_fits_is_certain_whatever_the_clocks_say(skew_s):
    rig = Rig()
    rig.feed(("start", {"uid": "run", "time": rig.wall_s() + skew_s, "num_points": N}), descriptor(), begin())
    measured(rig, skew_s=skew_s)
    rig.feed(SeriesEnd(series=1), ("stop", {"run_start": "run", "time": rig.wall_s() + skew_s, "num_events": {}}))
    (curve,) = rig.settle()
    assert curve.run.uid == "run"
    assert curve.doubts == ()
    assert any("by time" in note for note in curve.notes)


def test_a_name_is_a_name_whatever_the_clock_says():
    rig = Rig()
    rig.feed(("start", {"uid": "run", "time": rig.wall_s() - 90}), descriptor(), begin("x"))
    rig.feed(*(frame(k, "x") for k in range(N)), *all_events(series="x"))
    rig.feed(("stop", {"run_start": "run", "time": rig.wall_s() - 90, "num_events": {"primary": N}}))
    (curve,) = rig.settle()
    assert (curve.run.uid, curve.doubts) == ("run", ())


@pytest.mark.parametrize("name", ["5", 5.0, 5])
def test_a_series_is_named_by_number_or_text(name):
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(5), *(frame(k, 5) for k in range(N)))
    rig.feed(*(event(k + 1, k, det_sequence_id=name) for k in range(N)), run_stop(N))
    (curve,) = rig.settle()
    assert (curve.run.uid, curve.doubts) == ("run", ())


def test_of_two_runs_that_name_a_series_the_one_at_its_time_is_taken():
    rig = Rig()
    rig.feed(run_start("old"), descriptor("old", "d-old"), *all_events(series=1, desc="d-old"))
    rig.feed(("stop", {"run_start": "old", "time": rig.wall_s(), "num_events": {"primary": N}}))
    rig.clock.now_s += 10
    new = [event(k + 1, k, theta=50.0 + k, series=1, desc="d-new") for k in range(N)]
    rig.feed(("start", {"uid": "new", "time": rig.wall_s()}), descriptor("new", "d-new"), begin(1))
    rig.feed(*(frame(k) for k in range(N)), *new, SeriesEnd(series=1))
    curve, lost = rig.settle()
    assert (curve.run.uid, curve.account.received) == ("new", N)
    assert (lost.run.uid, lost.account.received) == ("old", 0)


def test_a_start_document_that_comes_again_wipes_nothing():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *all_events()[:4], run_start(), descriptor())
    rig.feed(*all_events()[4:], *(frame(k) for k in range(N)))
    (curve,) = rig.curves
    assert curve.doubts == ()


def test_a_stop_document_that_comes_again_changes_nothing():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *all_events(), run_stop(N), run_start(), run_stop(0))
    assert rig.assembler.book.runs["run"].n_events_counted("primary") == N


def test_a_run_with_an_open_series_is_not_pushed_out_by_others():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *all_events()[:4])
    for k in range(1100):
        rig.assembler.on_document("start", {"uid": f"other {k}", "time": rig.wall_s()})
    assert len(rig.assembler.book.runs) <= 1001
    rig.feed(*all_events()[4:], *(frame(k) for k in range(N)))
    assert [curve.run.uid for curve in rig.curves] == ["run"]


def test_readings_that_come_as_stream_datum_are_named():
    rig = Rig()
    datum = {"descriptor": "primary", "indices": {"start": 0, "stop": N}, "seq_nums": {"start": 1, "stop": N + 1}}
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run"), ("stream_datum", datum))
    rig.feed(*(frame(k) for k in range(N)), SeriesEnd(series=1), run_stop(N))
    (curve,) = rig.settle()
    assert any("StreamDatum" in doubt for doubt in curve.doubts)
    assert curve.account.received == N


def test_a_run_whose_start_document_was_lost_is_known_by_its_descriptors():
    rig = Rig()
    rig.feed(begin(user_data={"run_uid": "run"}), *(frame(k) for k in range(N)), descriptor(), *all_events())
    (curve,) = rig.settle()
    assert (curve.run.uid, curve.account.missing) == ("run", ())
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1))
    assert any("the start document of the run was not received" in doubt for doubt in curve.doubts)


def test_a_start_document_that_was_overtaken_is_taken():
    rig = Rig()
    rig.feed(begin(user_data={"run_uid": "run"}), descriptor(), run_start(sample="gold"), *all_events())
    rig.feed(*(frame(k) for k in range(N)))
    assert (rig.curves[0].run.sample, rig.curves[0].doubts) == ("gold", ())


def test_documents_of_which_beginning_and_description_were_lost_are_named():
    rig = Rig()
    rig.feed(begin(), *(frame(k) for k in range(N)), *all_events(), SeriesEnd(series=1), run_stop(N))
    (curve,) = rig.settle()
    assert curve.run.uid == "run"
    assert any("the start document of the run was not received" in doubt for doubt in curve.doubts)
    assert any("1 descriptors of the run were not received" in doubt for doubt in curve.doubts)


def test_a_stop_document_that_no_other_document_belongs_to_is_named():
    rig = Rig()
    rig.feed(begin(), *(frame(k) for k in range(N)), SeriesEnd(series=1), run_stop(N))
    (curve,) = rig.settle()
    assert any("1 documents came of runs whose start document was not received" in doubt for doubt in curve.doubts)


def test_documents_of_this_service_are_no_lost_documents(tmp_path):
    book, emit = Rig().assembler.book, []
    publisher = RunPublisher(
        RunContext(uid="raw"), PROVENANCE, SHAPES, tmp_path, lambda *document: emit.append(document), IDENTITY
    )
    publisher.result(result("reconstruction"))
    publisher.close()
    for name, doc in emit:
        book.on_document(name, doc)
    assert (len(book.runs), book.orphans.total()) == (0, 0)


def test_our_own_descriptors_begin_no_run():
    rig = Rig()
    ours = {"uid": "d", "run_start": "ours", "data_keys": {"inference_chi2": {"source": "cdi_stream:chi2"}}}
    rig.feed(("descriptor", ours))
    assert rig.assembler.book.runs == {}


# --- what frames and documents hold (1, 13, 20, 33, 48, 51) -------------------------------------------------------


@pytest.mark.parametrize("value", [None, "stuck", [], {}, True])
def test_a_reading_lost_in_one_event_is_lost_in_that_one_only(value):
    rig = Rig()
    events = all_events()
    events[3][1]["data"]["theta"] = value
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *events, *(frame(k) for k in range(N)))
    (curve,) = rig.curves
    assert np.isnan(curve.scanned["theta"]).tolist() == [False] * 3 + [True] + [False] * 3


def test_a_reading_in_a_list_of_one_is_a_reading():
    rig = Rig()
    events = all_events()
    events[3][1]["data"]["theta"] = [0.4]
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *events, *(frame(k) for k in range(N)))
    np.testing.assert_allclose(rig.curves[0].scanned["theta"], 0.1 * np.arange(1, N + 1))


def odd(image_id: int, dtype=np.uint16, shape=(3, 5)) -> DetectorFrame:
    return DetectorFrame(series=1, image_id=image_id, pixels=np.full(shape, 9, dtype))


@pytest.mark.parametrize("kind", [{"shape": (4, 4)}, {"dtype": np.uint32}])
@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize("header", [{}, {"image_shape": (3, 5), "image_dtype": "uint16"}])
def test_one_odd_frame_is_bad_wherever_it_comes(kind, place, header):
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run", **header), *all_events())
    for k in range(N):
        try:
            rig.feed(odd(k, **kind) if k == place else frame(k))
        except WireError as error:
            assert "as before" in str(error)  # noqa: PT017 - which frame is refused depends on the case
    rig.feed(SeriesEnd(series=1), run_stop(N))
    (curve,) = rig.settle()
    assert curve.sentinel == 2**16 - 1
    assert curve.account.missing == (place,)
    assert curve.account.bad == 1
    assert contents(curve) == [0 if k == place else k + 1 for k in range(N)]


def test_a_header_that_lies_of_the_layout_is_outvoted():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run", image_shape=(9, 9), image_dtype="uint32"))
    rig.feed(*all_events(), *(frame(k) for k in range(N)))
    assert rig.curves[0].account.bad == 0


def test_messages_that_could_not_be_read_are_told_where_frames_are_missing():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *all_events(), *(frame(k) for k in range(N - 1)))
    rig.assembler.on_unreadable()
    rig.feed(SeriesEnd(series=1), run_stop(N))
    (curve,) = rig.settle()
    assert any("1 messages of the detector could not be decoded during the series" in doubt for doubt in curve.doubts)


@pytest.mark.parametrize("seq_num", [10**7, 10**8, 2**53])
def test_an_absurd_number_of_an_event_costs_nothing(seq_num):
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run"), *all_events(), event(seq_num))
    rig.feed(*(frame(k) for k in range(N)), SeriesEnd(series=1), run_stop(N))
    (curve,) = rig.settle()
    assert curve.account.expected <= N + 1
    assert curve.account.received == N
    assert any("left out" in doubt for doubt in curve.doubts)


@pytest.mark.parametrize(
    ("name", "doc"),
    [
        ("event_page", {"descriptor": "primary", "seq_num": [1], "data": []}),
        ("event_page", {"descriptor": "primary", "seq_num": [1], "data": {3: 4}}),
        ("event_page", {"descriptor": "primary", "seq_num": [{}], "data": {"theta": [1.0]}}),
        ("event_page", {"descriptor": "primary", "seq_num": 5, "data": {}}),
        ("event", {"descriptor": "primary", "seq_num": -1, "data": {}}),
        ("event", {"descriptor": "primary", "seq_num": "7", "data": {}}),
        ("event", {"descriptor": "primary", "seq_num": float("nan"), "data": {}}),
    ],
)
def test_a_document_that_cannot_be_used_is_refused_and_named(name, doc):
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"))
    with pytest.raises(WireError, match=r"event(_page)? document"):
        rig.feed((name, doc))
    rig.feed(*all_events(), *(frame(k) for k in range(N)))
    assert rig.curves[0].doubts == ()


@pytest.mark.parametrize(
    ("name", "doc"),
    [
        ("descriptor", {"uid": "d", "run_start": "run", "configuration": {"det": {"data": [1]}}, "name": "primary"}),
        ("descriptor", {"uid": "d", "run_start": "run", "configuration": {7: {"data": {3: 4}}}, "data_keys": {5: {}}}),
        ("event", {"descriptor": "primary", "seq_num": 1.0, "data": {7: 8, None: 3}}),
        ("event_page", {"descriptor": "primary", "seq_num": [1, 2], "data": {"theta": [0.1]}, "time": 5}),
        ("stop", {"run_start": "run", "num_events": [1], "exit_status": 5}),
    ],
)
def test_odd_fields_of_usable_documents_harm_nothing(name, doc):
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"), (name, doc))
    rig.feed(*all_events(), *(frame(k) for k in range(N)), SeriesEnd(series=1), run_stop(N))
    assert [curve.account.received for curve in rig.settle()] == [N]


def test_an_event_page_is_as_good_as_its_events():
    rig = Rig()
    page = {"descriptor": "primary", "seq_num": list(range(1, N + 1)), "time": [0.0] * N}
    page["data"] = {"theta": [0.1 * k for k in range(1, N + 1)]}
    rig.feed(run_start(), descriptor(), begin(user_data="run"), ("event_page", page), *(frame(k) for k in range(N)))
    np.testing.assert_allclose(rig.curves[0].scanned["theta"], 0.1 * np.arange(1, N + 1))


def test_all_series_together_have_a_limit():
    rig = Rig(max_total_bytes=4 * 15 * 10)
    rig.feed(begin(1, n_images=None), begin(2, n_images=None), SeriesStart(series=3))
    held = 0
    for k in range(20):
        for series in (1, 2, 3):
            try:
                rig.feed(DetectorFrame(series=series, image_id=k, pixels=picture(k)))
                held += 1
            except WireError as error:
                assert "no room for more frames" in str(error)  # noqa: PT017 - the limit falls where it falls
    assert 0 < held <= 10


# --- what an independent review found -----------------------------------------------------------------------------


def stop_now(rig, uid, n=N):
    return ("stop", {"run_start": uid, "time": rig.wall_s(), "num_events": {"primary": n}})


def start_now(rig, uid, **more):
    return ("start", {"uid": uid, "time": rig.wall_s(), **more})


def test_user_data_left_over_from_an_earlier_scan_are_not_obeyed():
    rig = Rig()
    rig.feed(start_now(rig, "A", num_points=N), descriptor("A", "dA"), begin(1, "A"))
    rig.feed(*(frame(k, 1) for k in range(N)), *(event(k + 1, k, desc="dA") for k in range(N)), stop_now(rig, "A"))
    rig.clock.now_s += 300
    rig.feed(start_now(rig, "B", num_points=N), descriptor("B", "dB"), begin(2, "A"))
    rig.feed(*(frame(k, 2) for k in range(N)), *(event(k + 1, k, theta=9.0 + k, desc="dB") for k in range(N)))
    *_, second = rig.settle()
    assert second.run.uid == "B"
    np.testing.assert_allclose(second.scanned["theta"], 9.0 + np.arange(N))
    assert any("names run A, which was over before" in doubt for doubt in second.doubts)


def test_a_run_that_never_stopped_keeps_no_series_id():
    rig = Rig()
    rig.feed(start_now(rig, "A"), descriptor("A", "dA"), begin(1), *(frame(k) for k in range(N)))
    rig.feed(*(event(k + 1, k, series=1, desc="dA") for k in range(N)))
    rig.clock.now_s += 600
    rig.feed(begin(1), start_now(rig, "B"), descriptor("B", "dB"), *(frame(k) for k in range(N)))
    rig.feed(*(event(k + 1, k, theta=50.0 + k, series=1, desc="dB") for k in range(N)))
    *_, second = rig.settle()
    assert second.run.uid == "B"
    np.testing.assert_allclose(second.scanned["theta"], 50.0 + np.arange(N))


def test_a_second_series_without_names_does_not_take_the_first_one_s_points():
    rig = Rig()
    rig.feed(start_now(rig, "run", num_points=2 * N), descriptor(), begin(1, "run"), *(frame(k, 1) for k in range(N)))
    rig.feed(SeriesEnd(series=1), *(event(k + 1) for k in range(N)))
    rig.feed(begin(2, "run"), *(frame(k, 2) for k in range(N)), SeriesEnd(series=2))
    rig.feed(*(event(N + k + 1, theta=70.0 + k) for k in range(N)), stop_now(rig, "run", 2 * N))
    rig.settle()
    second = next(curve for curve in rig.curves if curve.series.series == 2)
    assert second.doubts or np.allclose(second.scanned["theta"], 70.0 + np.arange(N))


def measured_as(rig, ids):
    """Feed points whose events follow the frames listed for them; a point may have no frame, or two."""
    for point, taken in enumerate(ids):
        for image_id in taken:
            rig.clock.now_s += PERIOD_S / max(len(taken), 1)
            rig.feed(frame(image_id))
        if not taken:
            rig.clock.now_s += PERIOD_S
        rig.clock.now_s += 0.02
        rig.feed(event(point + 1, time=rig.wall_s()))


def test_a_point_taken_twice_and_another_missed_are_seen_in_the_times():
    rig = Rig()
    rig.feed(start_now(rig, "run", num_points=9), descriptor(), begin(user_data="run", n_images=9))
    measured_as(rig, [[0], [1], [2, 3], [4], [5], [], [6], [7], [8]])
    rig.feed(SeriesEnd(series=1), stop_now(rig, "run", 9))
    (curve,) = rig.settle()
    assert any("their times differ by up to" in doubt for doubt in curve.doubts)


@pytest.mark.parametrize("user_data", ["run", None])
def test_a_uniform_shift_is_seen_in_the_times(user_data):
    rig = Rig()
    rig.feed(start_now(rig, "run", num_points=N), descriptor(), begin(user_data=user_data), frame(0))
    measured_as(rig, [[1], [2], [3], [4], [5], [6], []])
    rig.feed(SeriesEnd(series=1), stop_now(rig, "run"))
    (curve,) = rig.settle()
    assert curve.doubts


@pytest.mark.parametrize("user_data", ["run", None])
def test_a_slow_counter_of_each_point_is_no_shift(user_data):
    rig = Rig()
    rig.feed(start_now(rig, "run", num_points=N), descriptor(), begin(user_data=user_data))
    for point in range(N):
        rig.clock.now_s += 0.2
        rig.feed(frame(point))
        rig.clock.now_s += 0.7
        rig.feed(event(point + 1, time=rig.wall_s()))
    rig.feed(SeriesEnd(series=1), stop_now(rig, "run"))
    (curve,) = rig.settle()
    assert curve.doubts == ()


def test_frames_that_come_late_from_a_full_queue_are_no_shift():
    rig = Rig()
    rig.feed(start_now(rig, "run", num_points=9), descriptor(), begin(user_data="run", n_images=9))
    for point in range(9):
        rig.clock.now_s += PERIOD_S
        if point < 3 or point > 6:
            rig.feed(frame(point))
        if point == 6:
            rig.feed(*(frame(k) for k in range(3, 7)))
        rig.feed(event(point + 1, time=rig.wall_s()))
    rig.feed(SeriesEnd(series=1), stop_now(rig, "run", 9))
    (curve,) = rig.settle()
    assert curve.doubts == ()


def test_an_aborted_run_of_a_curve_with_a_place_is_doubted():
    rig = Rig()
    claim = {"run_uid": "run", "curve_index": 0}
    rig.feed(run_start(), descriptor(), begin(user_data=claim, n_images=None), *(frame(k) for k in range(4)))
    rig.feed(*(event(k + 1, k) for k in range(4)), SeriesEnd(series=1), run_stop(4, exit_status="abort"))
    (curve,) = rig.settle()
    assert any("exit_status 'abort'" in doubt for doubt in curve.doubts)


def test_two_detectors_that_name_their_series_in_the_same_events():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), begin(1, n_images=None), *(frame(k) for k in range(4)))
    rig.feed(*(event(k + 1, k, series=1, other_series_id=77) for k in range(4)), SeriesEnd(series=1))
    rig.feed(run_stop(4, exit_status="abort"))
    (curve,) = rig.settle()
    assert curve.account.expected == N
    assert any("exit_status 'abort'" in doubt for doubt in curve.doubts)


def test_a_running_number_of_images_in_the_events_is_an_offset():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run"), *(frame(k) for k in range(N)))
    rig.feed(*(event(k + 1, unique_id=5001 + k) for k in range(N)), run_stop(N))
    (curve,) = rig.settle()
    assert contents(curve) == list(range(1, N + 1))
    assert any("shifted by -5001" in note for note in curve.notes)


def test_places_of_curves_count_by_their_own_frames_not_by_the_plan_of_all():
    rig = Rig()
    rig.feed(run_start(num_points=3 * N), descriptor(), *(event(k + 1) for k in range(3 * N)))
    for index in range(3):
        rig.feed(begin(index, {"run_uid": "run", "curve_index": index}), *(frame(k, index) for k in range(N)))
        rig.feed(SeriesEnd(series=index))
    for index, curve in enumerate(sorted(rig.settle(), key=lambda curve: curve.curve_index)):
        np.testing.assert_allclose(curve.scanned["theta"], 0.1 * (index * N + np.arange(1, N + 1)))


def test_a_series_id_used_again_whose_header_was_lost_is_taken_in_a_new_run():
    rig = Rig()
    rig.feed(start_now(rig, "A"), descriptor("A", "dA"), begin(1, "A"), *(frame(k) for k in range(N)))
    rig.feed(*(event(k + 1, k, series=1, desc="dA") for k in range(N)), stop_now(rig, "A"))
    rig.clock.now_s += 100
    rig.feed(start_now(rig, "B"), descriptor("B", "dB"), *(frame(k) for k in range(N)))
    rig.feed(*(event(k + 1, k, series=1, desc="dB") for k in range(N)), stop_now(rig, "B"))
    assert [curve.run.uid for curve in rig.settle()] == ["A", "B"]


def test_spectra_in_events_cost_nothing():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run"))
    rig.feed(*(event(k + 1, k, spectrum=[1.0] * 4096) for k in range(N)), *(frame(k) for k in range(N)))
    assert set(rig.curves[0].scanned) >= {"theta"}
    assert rig.curves[0].account.received == N


@pytest.mark.parametrize("uid", ["", "\ud800", "a\x00b", "x" * 300])
def test_a_uid_that_can_be_none_is_refused(uid):
    with pytest.raises(WireError, match="expected a uid"):
        Rig().feed(("start", {"uid": uid}))


@pytest.mark.parametrize("key", ["points_per_curve", "num_points"])
def test_a_header_of_one_image_a_trigger_ends_no_curve(key):
    """A detector that is triggered once a point announces one image."""
    rig = Rig()
    rig.feed(run_start(**{key: N}), descriptor())
    for index in range(1 if key == "num_points" else 2):
        series = index + 1
        claim = {"run_uid": "run", "curve_index": index} if index else "run"
        rig.feed(begin(series, user_data=claim, n_images=1))
        for k in range(N):
            rig.feed(frame(k, series), event(index * N + k + 1, image_id=k, series=series))
        rig.feed(SeriesEnd(series=series))
        rig.settle(5.0)
    assert [curve.account.missing for curve in rig.curves] == ([()] if key == "num_points" else [(), ()])


# --- scans of which one side never came ---------------------------------------------------------------------------


def test_a_run_whose_frames_never_came_is_declared():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), *all_events(series=4), run_stop(N))
    (curve,) = rig.settle()
    assert curve.run.uid == "run"
    assert (curve.account.expected, curve.account.received) == (N, 0)
    assert any("series 4, of which no frame came" in doubt for doubt in curve.doubts)
    assert rig.settle() == [curve]


def test_a_run_without_frames_and_without_a_stop_document_is_declared():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), *all_events(series=4))
    (curve,) = rig.settle()
    assert curve.account.missing == tuple(range(N))


def test_images_of_single_series_that_never_came_are_one_curve():
    rig = Rig()
    events = [event(k + 1, image_id=0, series=10 + k) for k in range(N)]
    rig.feed(run_start(num_points=N), descriptor(), *events, run_stop(N))
    (curve,) = rig.settle()
    assert curve.account.missing == tuple(range(N))


def test_a_run_that_names_no_series_or_whose_frames_came_is_not_declared():
    rig = Rig()
    rig.feed(run_start("diode"), descriptor("diode", "d"), *(event(k + 1, desc="d") for k in range(N)))
    rig.feed(run_stop(N, "diode"), run_start(num_points=N), descriptor(), begin(user_data="run"))
    rig.feed(*all_events(series=1, other_series_id=77), *(frame(k) for k in range(N)), run_stop(N))
    (curve,) = rig.settle()
    assert curve.run.uid == "run"


@pytest.mark.parametrize(("series", "pause_s"), [(2, 0.5), (1, 20.0)])
def test_a_series_whose_run_was_never_heard_is_not_given_to_the_run_before(series, pause_s):
    """Not to a run that was over just before, and not to one that named the series before the detector's restart."""
    claim = {"run_uid": "9b2a1c1e-0000-4000-8000-000000000000", "n_points": N}
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run"), *all_events(series=1))
    rig.feed(*(frame(k) for k in range(N)), SeriesEnd(series=1), run_stop(N))
    rig.clock.now_s += pause_s
    rig.feed(begin(series, user_data=claim), *(frame(k, series) for k in range(N)), SeriesEnd(series=series))
    first, second = rig.settle()
    assert first.run.uid == "run"
    assert second.run.uid == claim["run_uid"]
    assert any("no other run fits" in doubt for doubt in second.doubts)


def test_an_image_that_comes_twice_with_other_counts_is_doubted():
    rig = Rig()
    other = DetectorFrame(series=1, image_id=2, pixels=picture(5))
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run"), *(frame(k) for k in range(N - 1)))
    rig.feed(frame(3), other, frame(N - 1), *all_events(series=1))
    (curve,) = rig.curves
    assert contents(curve) == list(range(1, N + 1))
    assert curve.account.duplicate == 2
    assert curve.doubts == ("1 images came twice with different counts: the first of each is used",)


def test_a_run_of_which_only_events_came_has_the_uid_that_the_detector_names():
    rig = Rig()
    rig.feed(begin(user_data={"run_uid": "raw", "n_points": N}), *all_events(series=1), *(frame(k) for k in range(N)))
    (curve,) = rig.settle()
    assert curve.run.uid == "raw"
    assert (curve.account.received, contents(curve)) == (N, list(range(1, N + 1)))
    assert any("the start document of the run was not received" in doubt for doubt in curve.doubts)
    rig.feed(run_stop(N, "raw"))
    assert rig.settle() == [curve]
