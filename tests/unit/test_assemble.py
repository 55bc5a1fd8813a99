"""Assembly with lost, repeated and reordered messages: the right volume, or a volume that states what it lacks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdi_stream.documents.runs import MAX_STOPPED, MAX_UNKNOWN
from cdi_stream.errors import WireError
from cdi_stream.messages import DetectorFrame, SeriesEnd, SeriesStart
from tests.assembling import N, Rig, all_events, begin, descriptor, event, frame, picture, run_start, run_stop

orders = st.permutations([frame(k) for k in range(N)] + [SeriesEnd(series=1)])


@given(
    order=orders,
    lost=st.sets(st.integers(0, N - 1), max_size=N - 1),
    repeated=st.lists(st.integers(0, N - 1), max_size=4),
    docs=st.permutations(range(N)),
    split=st.integers(0, N + 1),
    has_stop=st.booleans(),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_loss_repeat_or_order_gives_the_right_volume_or_says_what_is_missing(
    order, lost, repeated, docs, split, has_stop
):
    rig = Rig()
    sent = [m for m in order if not (isinstance(m, DetectorFrame) and m.image_id in lost)]
    sent += [frame(k) for k in repeated if k not in lost]
    documents = [run_start(), descriptor(), *(event(k + 1, image_id=k) for k in docs)]
    rig.feed(*documents[: 2 + split], begin(user_data={"run_uid": "run", "curve_index": 0, "n_points": N}))
    rig.feed(*sent, *documents[2 + split :], *([run_stop(N)] if has_stop else []))
    (curve,) = rig.settle()
    assert curve.account.missing == tuple(sorted(lost))
    assert curve.account.received + len(lost) == curve.account.expected == N
    for k in range(N):
        np.testing.assert_array_equal(curve.counts[k], 0 * picture(k) if k in lost else picture(k))
    np.testing.assert_array_equal(curve.has_frame, [k not in lost for k in range(N)])
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1))
    assert curve.run.uid == "run"


def test_complete_curve_is_released_at_once_without_any_waiting():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *all_events())
    rig.feed(*(frame(k) for k in range(N)))
    assert len(rig.curves) == 1
    assert rig.curves[0].doubts == ()
    assert rig.curves[0].complete_s == rig.clock.now_s


@given(docs=st.permutations(range(N)), lost=st.sets(st.integers(0, N - 1), max_size=N - 2))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_lost_events_are_interpolated_and_said(docs, lost):
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data={"run_uid": "run", "n_points": N}))
    rig.feed(*(frame(k) for k in range(N)), *(event(k + 1, image_id=k) for k in docs if k not in lost), run_stop(N))
    (curve,) = rig.settle()
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1), atol=1e-9)
    assert curve.account.missing == ()
    assert bool(curve.doubts) == bool(lost)


def test_a_rewound_sequence_number_takes_the_last_event_and_its_frame():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data={"run_uid": "run", "n_points": 3}, n_images=4))
    rig.feed(*(frame(k) for k in range(4)))
    rig.feed(event(1, 0), event(2, 1, theta=9.9), event(2, 2, theta=0.2), event(3, 3), run_stop(3))
    (curve,) = rig.settle()
    assert [int(image[0, 0]) for image in curve.counts] == [1, 3, 4]
    np.testing.assert_allclose(curve.scanned["theta"], [0.1, 0.2, 0.3])
    assert curve.account.expected == curve.account.received == 3
    assert curve.account.duplicate == 1


def test_events_without_image_ids_are_joined_by_sequence_number_not_by_arrival():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *(event(k) for k in (3, 1, 2, 7, 5, 6, 4)))
    rig.feed(*(frame(k) for k in reversed(range(N))))
    (curve,) = rig.settle()
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1))
    assert [int(image[0, 0]) for image in curve.counts] == list(range(1, N + 1))


def test_two_curves_in_one_run_by_the_series_id_in_the_events():
    rig = Rig()
    events = [event(k + 1, k, theta=k, series="a") for k in range(N)]
    events += [event(N + k + 1, k, theta=10 + k, series="b") for k in range(N)]
    rig.feed(run_start(), descriptor(), begin("a"), *(frame(k, "a") for k in range(N)), SeriesEnd(series="a"))
    rig.feed(begin("b"), *(frame(k, "b") for k in range(N)), *events, run_stop(2 * N))
    first, second = rig.settle()
    np.testing.assert_allclose(first.scanned["theta"], np.arange(N))
    np.testing.assert_allclose(second.scanned["theta"], 10 + np.arange(N))
    assert (first.curve_index, second.curve_index) == (0, 1)
    assert first.doubts == second.doubts == ()


def test_two_curves_in_one_run_by_their_place_in_it():
    rig = Rig()
    claims = [{"run_uid": "run", "curve_index": index, "n_points": N} for index in range(2)]
    rig.feed(run_start(), descriptor(), *(event(k + 1) for k in range(2 * N)))
    rig.feed(
        begin(1, claims[0]), *(frame(k, 1) for k in range(N)), begin(2, claims[1]), *(frame(k, 2) for k in range(N))
    )
    first, second = rig.settle()
    np.testing.assert_allclose(first.scanned["theta"], 0.1 * np.arange(1, N + 1))
    np.testing.assert_allclose(second.scanned["theta"], 0.1 * np.arange(N + 1, 2 * N + 1))


def test_joined_by_time_with_the_doubt_stated():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(), *(frame(k) for k in range(N)), *all_events(), run_stop(N))
    (curve,) = rig.settle()
    assert curve.run.uid == "run"
    assert any("by time" in doubt for doubt in curve.doubts)


def test_without_any_run_the_goniometer_of_the_wire_places_the_frames():
    rig = Rig()
    rig.feed(begin(goniometer={"theta": (5.0, 0.5)}), *(frame(k) for k in range(N)), SeriesEnd(series=1))
    (curve,) = rig.settle()
    np.testing.assert_allclose(curve.scanned["theta"], 5 + 0.5 * np.arange(N))
    assert any("goniometer" in doubt for doubt in curve.doubts)


def test_in_a_run_only_the_axes_that_move_come_from_the_wire():
    """A detector states all its axes; those that nobody has set are 0, and the run's baseline knows better."""
    rig = Rig()
    axes = {"omega": (5.0, 0.5), "chi": (0.0, 0.0), "phi": (0.0, 0.0)}
    rig.feed(run_start(), begin(user_data="run", goniometer=axes), *(frame(k) for k in range(N)), SeriesEnd(series=1))
    rig.feed(run_stop(0))
    (curve,) = rig.settle()
    assert curve.scanned.keys() == {"omega"}
    np.testing.assert_allclose(curve.scanned["omega"], 5 + 0.5 * np.arange(N))


def test_readings_as_arrays_in_a_second_stream():
    rig = Rig()
    angles = [0.5 * k for k in range(N)]
    rig.feed(run_start(), descriptor(uid="panda", name="panda"), begin(user_data="run"), *(frame(k) for k in range(N)))
    rig.feed(("event", {"descriptor": "panda", "seq_num": 1, "time": 0.0, "data": {"theta": angles}}))
    (curve,) = rig.settle()
    np.testing.assert_allclose(curve.scanned["theta"], angles)
    assert curve.doubts == ()


def test_a_lost_end_and_lost_frames_time_out_and_say_so():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *all_events(), frame(0), frame(2))
    assert rig.curves == []
    (curve,) = rig.settle()
    assert curve.account.missing == (1, 3, 4, 5, 6)
    assert any("end of the series was lost" in doubt for doubt in curve.doubts)


def test_an_aborted_series_is_closed_when_the_next_begins():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(1, "run"), *all_events(), frame(0), begin(2, "run"))
    rig.feed(*(frame(k, 2) for k in range(N)))
    first, second = sorted(rig.settle(), key=lambda curve: curve.series.series)
    assert any("aborted" in doubt for doubt in first.doubts)
    assert len(first.account.missing) == N - 1
    assert second.account.missing == ()


def test_a_whole_series_whose_end_was_lost_is_not_aborted_by_the_next():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(1, "run"), *(frame(k) for k in range(N)), begin(2, "other"))
    rig.feed(*all_events())
    (first,) = [curve for curve in rig.settle() if curve.series.series == 1]
    assert first.doubts == ()


def test_a_double_end_and_frames_after_it():
    rig = Rig()
    end = SeriesEnd(series=1)
    rig.feed(
        run_start(), descriptor(), begin(user_data="run"), *all_events(), *(frame(k) for k in range(N - 1)), end, end
    )
    rig.feed(frame(N - 1))
    (curve,) = rig.settle()
    assert curve.account.missing == ()
    assert curve.account.late == 1


def test_a_series_not_seen_to_start_is_drained():
    rig = Rig()
    rig.feed(*(frame(k, "stale") for k in range(3)), SeriesEnd(series="stale"))
    assert rig.settle() == []
    assert rig.assembler.n_stale == 3


def test_the_header_may_announce_too_few_images():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), begin(user_data="run", n_images=2), *(frame(k) for k in range(N)))
    rig.feed(*all_events(), SeriesEnd(series=1), run_stop(N))
    (curve,) = rig.settle()
    assert curve.account.expected == N
    assert curve.account.missing == ()


def test_a_frame_of_another_shape_is_bad_and_refused():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"), frame(0))
    with pytest.raises(WireError, match="as before"):
        rig.feed(DetectorFrame(series=1, image_id=1, pixels=np.zeros((4, 4), np.uint16)))
    rig.feed(*all_events(), *(frame(k) for k in range(1, N)))
    (curve,) = rig.settle()
    assert curve.account.bad == 1
    assert curve.account.missing == ()


@pytest.mark.parametrize("lost", [1, 3, 6, 7])
@pytest.mark.parametrize("has_ids", [True, False])
def test_a_lost_event_never_shifts_frames_against_readings(lost, has_ids):
    rig = Rig()
    events = [event(k + 1, k if has_ids else None) for k in range(N) if k + 1 != lost]
    rig.feed(run_start(), descriptor(), begin(user_data={"run_uid": "run", "n_points": N}))
    rig.feed(*(frame(k) for k in range(N)), *events, run_stop(N))
    (curve,) = rig.settle()
    assert [int(image[0, 0]) for image in curve.counts] == list(range(1, N + 1))
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1), atol=1e-9)
    assert curve.doubts


def test_lost_last_events_of_a_second_curve_are_not_taken_from_the_first():
    rig = Rig()
    claims = [{"run_uid": "run", "curve_index": index, "n_points": N} for index in range(2)]
    events = [event(k + 1, k, series=1) for k in range(N)]
    events += [event(N + k + 1, k, theta=10 + k, series=2) for k in range(N - 2)]
    rig.feed(run_start(), descriptor(), begin(1, claims[0]), *(frame(k, 1) for k in range(N)))
    rig.feed(begin(2, claims[1]), *(frame(k, 2) for k in range(N)), *events, run_stop(2 * N))
    second = next(curve for curve in rig.settle() if curve.curve_index == 1)
    np.testing.assert_allclose(second.scanned["theta"], 10 + np.arange(N), atol=1e-9)
    assert second.account.missing == ()


@pytest.mark.parametrize("n", [10**12, 10**5])
def test_absurd_announcements_cost_no_memory(n):
    rig = Rig()
    rig.feed(begin(n_images=n, goniometer={"theta": (0.0, 1.0)}), *(frame(k) for k in range(3)), SeriesEnd(series=1))
    assert len(rig.assembler.progress()[0].account.missing) <= 20_000
    (curve,) = rig.settle()
    assert len(curve.counts) == 3


@pytest.mark.parametrize(
    "document",
    [
        ("start", {}),
        ("start", {"uid": ["x"]}),
        ("descriptor", {"uid": "d"}),
        ("event", {"descriptor": "primary", "data": {}}),
        ("event", {"descriptor": "primary", "seq_num": 1}),
        ("event", {"descriptor": ["primary"], "seq_num": 1, "data": {}}),
        ("event_page", {"descriptor": "primary"}),
        ("stop", {"run_start": {}}),
    ],
)
def test_a_malformed_document_is_refused_and_harms_nothing(document):
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"))
    with pytest.raises(WireError):
        rig.feed(document)
    rig.feed(*all_events(), *(frame(k) for k in range(N)))
    assert len(rig.curves) == 1


def test_raw_runs_of_other_conventions_are_heard():
    rig = Rig()
    rig.feed(run_start(analysis_stage="raw"), descriptor(), begin(user_data="run"), *all_events())
    rig.feed(*(frame(k) for k in range(N)))
    assert rig.curves[0].run.is_heard


def test_exposures_come_with_the_frames():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *all_events())
    rig.feed(*(DetectorFrame(series=1, image_id=k, pixels=picture(k), exposure_s=0.1 * (k + 1)) for k in range(N)))
    np.testing.assert_allclose(rig.curves[0].exposure_s, 0.1 * np.arange(1, N + 1))


# --- what an independent review found ---------------------------------------------------------------------------


def test_curves_named_by_series_alone_get_their_own_angles():
    rig = Rig()
    rig.feed(run_start(num_points=2 * N), descriptor())
    for index, series in enumerate((7, 8)):
        rig.feed(begin(series), *(frame(k, series) for k in range(N)), SeriesEnd(series=series))
        first = index * N + 1
        rig.feed(*(event(first + k, theta=float(first + k), series=series) for k in range(N)))
    rig.feed(run_stop(2 * N))
    first, second = rig.settle()
    for curve, start in ((first, 1), (second, N + 1)):
        assert curve.account.missing == ()
        np.testing.assert_array_equal(curve.scanned["theta"], start + np.arange(N))
        assert curve.doubts == ()


def test_a_number_that_a_restarted_detector_uses_again_is_not_the_old_series():
    rig = Rig()
    rig.feed(run_start("old"), descriptor("old", "d-old"), begin(1), *(frame(k) for k in range(N)))
    rig.feed(*(event(k + 1, k, series=1, desc="d-old") for k in range(N)))
    rig.feed(("stop", {"run_start": "old", "time": 1e9 + 101, "num_events": {"primary": N}}))
    rig.settle(600.0)
    new = ("start", {"uid": "new", "time": 1e9 + rig.clock()})
    rig.feed(new, descriptor("new", "d-new"), begin(1), *(frame(k) for k in range(N)), SeriesEnd(series=1))
    rig.feed(*(event(k + 1, k, theta=50.0 + k, series=1, desc="d-new") for k in range(N)))
    *_, curve = rig.settle()
    assert curve.run.uid == "new"
    np.testing.assert_array_equal(curve.scanned["theta"], 50.0 + np.arange(N))


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("start", {"time": "noon", "data_groups": None, "scan_id": "A12", "num_points": "many"}),
        ("descriptor", {"data_keys": None, "configuration": [1], "name": 7}),
        ("descriptor", {"data_keys": {"theta": None}, "configuration": {"det": {"data": None}}}),
        ("stop", {"time": None, "num_events": None}),
        ("stop", {"num_events": {"primary": "seven"}}),
    ],
)
def test_a_document_with_odd_fields_ends_nothing(name, odd):
    rig = Rig()
    documents = [run_start(), descriptor(), *all_events(), run_stop(N)]
    documents = [(kind, doc | odd if kind == name else doc) for kind, doc in documents]
    rig.feed(begin(user_data={"run_uid": "run"}), *(frame(k) for k in range(N)), SeriesEnd(series=1), *documents)
    assert [curve.account.received for curve in rig.settle()] == [N]


@pytest.mark.parametrize("number", [float("nan"), 1e300, 10**400, float("inf")])
def test_an_image_number_that_is_none_ends_nothing(number):
    rig = Rig()
    events = [event(k + 1, image_id=number) for k in range(N)]
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *(frame(k) for k in range(N)), *events, run_stop(N))
    assert len(rig.settle()) == 1


def test_a_free_running_camera_ends_its_curve_with_the_run():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), *(event(k + 1, unique_id=100 + k) for k in range(N)))
    rig.feed(*(frame(100 + k, None) for k in range(N) if k != 3), run_stop(N))
    for k in range(2000):
        rig.clock.now_s += 0.01
        rig.feed(frame(200 + k, None))
    (curve,) = rig.curves
    assert curve.account.missing == (3,)


def test_each_of_several_aborted_series_of_one_number_is_released():
    rig = Rig()
    for n in (1, 2, 3):
        rig.feed(begin(user_data={"run_uid": "run"}), *(frame(k) for k in range(n)))
    assert sorted(curve.account.received for curve in rig.settle()) == [1, 2, 3]


def test_a_header_in_two_messages_makes_one_curve():
    rig = Rig()
    rig.feed(run_start(), descriptor(), SeriesStart(series=1))
    rig.assembler.progress()
    rig.feed(begin(), *(frame(k) for k in range(N)), *all_events(series=1), run_stop(N))
    assert [curve.curve_index for curve in rig.settle()] == [0]


def test_the_tail_of_a_foreign_series_is_not_told_of():
    rig = Rig()
    rig.feed(run_start(), descriptor(), *all_events(series=5), *(frame(k, "foreign") for k in range(3)))
    assert rig.assembler.progress() == []
    assert rig.assembler.open_runs() == {}
    (lost,) = rig.settle()
    assert (lost.series.series, lost.account.received) == ("5", 0)
    assert rig.assembler.n_stale == 3


def test_missing_frames_are_zeros_in_memory_that_an_earlier_scan_used():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *all_events(), *(frame(k) for k in range(N)))
    rig.curves.clear()
    rig.feed(run_start("next"), descriptor("next", "d"), begin(2, user_data="next"), *all_events(desc="d"))
    rig.feed(frame(3, 2), SeriesEnd(series=2), run_stop(N, "next"))
    (curve,) = rig.settle()
    assert [int(image.sum()) for image in curve.counts] == [0, 0, 0, 4 * 15, 0, 0, 0]


# --- one series for each point -----------------------------------------------------------------------------------


def single(k, series, user_data="run", lost=False):
    """A series of one image, as a detector sends it that is armed for each point."""
    image = DetectorFrame(series=series, image_id=0, pixels=picture(k))
    start = begin(series, user_data=user_data, n_images=1)
    return [start, *([] if lost else [image]), SeriesEnd(series=series)]


def single_event(k, series=None):
    return event(k + 1, image_id=None if series is None else 0, series=series)


@pytest.mark.parametrize("names", [True, False], ids=["events name the series", "events name nothing"])
@pytest.mark.parametrize("user_data", ["run", None], ids=["by uid", "by time"])
def test_series_of_one_image_each_are_one_curve(names, user_data):
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor())
    for k in range(N):
        assert rig.curves == []
        rig.feed(*single(k, 50 + k, user_data), single_event(k, 50 + k if names else None))
        rig.settle(15.0)
    (curve,) = rig.curves  # the plan has said how many points there are
    rig.feed(run_stop(N))
    assert rig.settle() == [curve]
    assert [int(image[0, 0]) for image in curve.counts] == list(range(1, N + 1))
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1))
    assert curve.account.missing == ()
    assert (curve.doubts == ()) or user_data is None


def test_a_lost_image_among_series_of_one_image_is_missing():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor())
    for k in range(N):
        rig.feed(*single(k, 50 + k, lost=k == 2), single_event(k, 50 + k))
    rig.feed(run_stop(N))
    (curve,) = rig.settle()
    assert curve.account.missing == (2,)
    assert [int(image[0, 0]) for image in curve.counts] == [1, 2, 0, 4, 5, 6, 7]


def test_two_runs_of_series_of_one_image_are_two_curves():
    rig = Rig()
    for n, uid in enumerate(("one", "two")):
        rig.feed(run_start(uid, num_points=N), descriptor(uid, f"d-{uid}"))
        for k in range(N):
            series = 50 + 10 * n + k
            rig.feed(*single(k, series, uid), event(k + 1, series=series, desc=f"d-{uid}"))
        rig.feed(run_stop(N, uid))
    curves = rig.settle()
    assert [curve.run.uid for curve in curves] == ["one", "two"]
    assert all(curve.account.missing == () for curve in curves)


def test_a_series_of_one_image_without_a_run_is_a_curve_of_its_own():
    rig = Rig()
    rig.feed(*single(0, 50, None), *single(1, 51, None))
    assert len(rig.settle()) == 2


# --- series whose start was lost ---------------------------------------------------------------------------------


def test_a_series_whose_start_was_lost_is_taken_if_a_run_names_it():
    rig = Rig()
    rig.feed(run_start(), descriptor(), *(frame(k, 5) for k in range(2, N)), SeriesEnd(series=5))
    rig.feed(*all_events(series=5), run_stop(N))
    (curve,) = rig.settle()
    assert curve.run.uid == "run"
    assert curve.account.missing == (0, 1)
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1))
    assert [int(image[0, 0]) for image in curve.counts] == [0, 0, *range(3, N + 1)]
    assert any("start of series 5 was not received" in doubt for doubt in curve.doubts)
    assert rig.assembler.n_stale == 0


def test_a_series_whose_start_was_lost_is_joined_by_time_if_no_event_names_a_series():
    rig = Rig()
    rig.feed(run_start(), descriptor(), *(frame(k, 5) for k in range(N)), *all_events(), run_stop(N))
    (curve,) = rig.settle()
    assert curve.run.uid == "run"
    assert any("start of series 5 was not received" in doubt for doubt in curve.doubts)


def test_the_end_of_an_earlier_series_is_dropped_if_its_run_has_a_curve(caplog):
    rig = Rig()
    rig.feed(run_start(), descriptor(), *(frame(k, 5) for k in range(3)), begin(series=6))
    rig.feed(*(frame(k, 6) for k in range(N)), *all_events(), run_stop(N))
    (curve,) = rig.settle()
    assert curve.series.series == 6
    assert rig.assembler.n_stale == 3
    assert "no run names it; 3 frames dropped" in caplog.text


def test_frames_after_their_series_was_dropped_are_counted():
    rig = Rig()
    rig.feed(frame(0, 5))
    rig.settle()
    rig.feed(frame(1, 5), frame(2, 5))
    assert rig.assembler.n_stale == 3
    rig.feed(run_start("other"), frame(3, 5))
    assert rig.settle() == []
    assert rig.assembler.n_stale == 4


# --- first documents of a run lost -------------------------------------------------------------------------------


def test_a_run_without_its_first_documents_is_known_by_its_stop_document():
    rig = Rig()
    for k in range(N):
        rig.feed(frame(k, 5), event(k + 1, series=5))
    rig.feed(SeriesEnd(series=5), run_stop(N))
    (curve,) = rig.settle()
    assert (curve.run.uid, curve.run.is_heard) == ("run", True)
    assert curve.account.missing == ()
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1))
    assert any("start document of the run was not received" in doubt for doubt in curve.doubts)
    assert any("1 descriptors of the run were not received" in doubt for doubt in curve.doubts)


def test_a_run_of_which_only_events_came_is_released_with_its_doubt():
    rig = Rig()
    for k in range(N):
        rig.feed(frame(k, 5), event(k + 1, series=5))
    assert rig.curves == []
    (curve,) = rig.settle()
    assert (curve.run.uid, curve.run.is_heard) == ("unknown-primary", False)
    assert any("only events of the run were received" in doubt for doubt in curve.doubts)


@pytest.mark.parametrize("has_start", [True, False])
def test_streams_without_a_descriptor_are_known_by_their_numbers_of_events(has_start):
    rig = Rig()
    rig.feed(
        *([run_start()] if has_start else []), begin(user_data="run"), event(1, theta=0.5, delta=30.0, desc="base")
    )
    rig.feed(*(frame(k) for k in range(N)), *all_events(), event(2, theta=0.5, delta=30.0, desc="base"))
    stop = run_stop(N)
    stop[1]["num_events"]["baseline"] = 2
    rig.feed(stop)
    (curve,) = rig.settle()
    assert curve.run.uid == "run"
    assert curve.run.readings["delta"] == 30.0
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1))
    assert any("2 descriptors of the run were not received" in doubt for doubt in curve.doubts)


def test_a_late_descriptor_names_the_run_of_its_events():
    rig = Rig()
    rig.feed(begin(user_data="run"), *all_events(), *(frame(k) for k in range(N)), descriptor(), run_stop(N))
    (curve,) = rig.settle()
    assert curve.run.uid == "run"
    assert not any("descriptors" in doubt for doubt in curve.doubts)
    assert list(rig.assembler.book.runs) == ["run"]


def test_two_curves_of_a_run_whose_first_documents_were_lost_keep_their_order():
    rig = Rig()
    for series, first in ((5, 0), (6, N)):
        for k in range(N):
            rig.feed(frame(k, series), event(first + k + 1, series=series))
        rig.feed(SeriesEnd(series=series))
        rig.settle(20.0)
    rig.feed(run_stop(2 * N))
    assert [curve.curve_index for curve in rig.settle()] == [0, 1]


def test_events_of_this_service_open_no_run():
    rig = Rig()
    rig.feed(event(1, desc="ours", reconstruction_frames_expected=48), event(1, desc="raw"))
    rig.feed(("stop", {"run_start": "ours", "num_events": {"reconstruction": 1}}))
    assert list(rig.assembler.book.runs) == ["unknown-raw"]
    assert rig.assembler.book.orphans.total() == 0


def test_a_flood_of_unknown_descriptors_pushes_no_run_out():
    rig = Rig()
    rig.feed(run_start(), descriptor())
    rig.feed(*(event(1, desc=f"flood-{k}") for k in range(300)))
    assert "run" in rig.assembler.book.runs
    assert len(rig.assembler.book.runs) == 1 + MAX_UNKNOWN
    assert rig.assembler.book.orphans == {"event": 300 - MAX_UNKNOWN}


def test_a_start_behind_the_first_frames_completes_the_series():
    rig = Rig()
    rig.feed(run_start(), descriptor(), frame(0), frame(1), begin(user_data="run"), *all_events())
    rig.feed(*(frame(k) for k in range(2, N)))
    (curve,) = rig.curves
    assert curve.account.missing == ()
    assert curve.account.received == N
    assert curve.doubts == ()


def test_a_second_start_before_any_frame_replaces_the_first():
    rig = Rig()
    rig.feed(run_start(), descriptor(), begin(n_images=None, beam_row=1.0))
    rig.feed(begin(user_data="run", beam_row=2.0), *all_events(), *(frame(k) for k in range(N)))
    (curve,) = rig.settle()
    assert curve.series.beam_row == 2.0
    assert curve.run.uid == "run"
    assert curve.account.expected == N
    assert curve.doubts == ()


# --- frames of no series -----------------------------------------------------------------------------------------


def unnamed(ids):
    return [frame(k, None) for k in ids]


def unique_events(first, n=N):
    return [event(k + 1, unique_id=first + k) for k in range(n)]


@pytest.mark.parametrize("first", [0, 1, 100])
@pytest.mark.parametrize("has_ids", [True, False])
def test_frames_of_no_series_are_the_open_run_s(first, has_ids):
    rig = Rig()
    events = unique_events(first) if has_ids else [event(k + 1) for k in range(N)]
    rig.feed(run_start(num_points=N), descriptor(), *unnamed(range(first, first + N)), *events, run_stop(N))
    (curve,) = rig.settle()
    assert curve.run.uid == "run"
    assert curve.account.missing == ()
    assert [int(image[0, 0]) for image in curve.counts] == list(range(first + 1, first + N + 1))
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1))


def test_events_that_name_series_are_those_of_frames_that_name_none():
    """As with areaDetector's Eiger, whose events have the SequenceId, behind ADZMQ, whose messages have no series."""
    rig = Rig()
    events = [event(k + 1, series=4711, unique_id=k + 1) for k in range(N)]
    rig.feed(run_start(num_points=N), descriptor(), *unnamed(range(100, 100 + N)), *events, run_stop(N))
    rig.settle()
    rig.clock.now_s += 1000
    (curve,) = rig.settle()
    assert curve.run.uid == "run"
    assert curve.account.missing == ()
    np.testing.assert_allclose(curve.scanned["theta"], 0.1 * np.arange(1, N + 1))


def test_a_curve_without_an_end_message_is_complete_before_its_run_ends():
    """A plan that waits for the crystal inside its run would else wait for itself."""
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), *unnamed(range(N)), *unique_events(0, N - 1))
    assert rig.curves == []
    rig.feed(event(N, unique_id=N - 1))
    (curve,) = rig.settle()
    assert curve.account.missing == ()
    assert curve.doubts == ()


def test_several_frames_a_point_are_not_cut_at_the_number_of_points():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), begin(n_images=None, user_data="run"))
    for k in range(N):
        rig.feed(frame(2 * k), frame(2 * k + 1), event(k + 1))
        assert rig.curves == []
    rig.feed(SeriesEnd(series=1), run_stop(N))
    (curve,) = rig.settle()
    assert curve.account.received == 2 * N


def test_a_missing_frame_of_no_series_is_known_by_its_number():
    rig = Rig()
    ids = [k for k in range(100, 100 + N) if k != 103]
    rig.feed(run_start(num_points=N), descriptor(), *unnamed(ids), *unique_events(100), run_stop(N))
    (curve,) = rig.settle()
    assert curve.account.missing == (3,)
    assert [int(image[0, 0]) for image in curve.counts] == [101, 102, 103, 0, 105, 106, 107]


def test_frames_of_no_series_before_any_run_are_dropped():
    rig = Rig()
    rig.feed(*unnamed(range(3)))
    assert rig.assembler.n_stale == 3
    rig.feed(run_start(num_points=N), descriptor(), *unnamed(range(3, 3 + N)), *unique_events(3), run_stop(N))
    (curve,) = rig.settle()
    assert curve.account.missing == ()
    assert curve.account.expected == N
    assert rig.assembler.n_stale == 3


@pytest.mark.parametrize("second", [N, 0, 50], ids=["count runs on", "count begins anew", "count jumps"])
def test_frames_of_no_series_make_one_curve_for_each_run(second):
    rig = Rig()
    for uid, first in (("one", 0), ("two", second)):
        rig.feed(run_start(uid, num_points=N), descriptor(uid, f"d-{uid}"), *unnamed(range(first, first + N)))
        rig.feed(*(event(k + 1, desc=f"d-{uid}", unique_id=first + k) for k in range(N)), run_stop(N, uid))
        rig.clock.now_s += 5
    curves = rig.settle()
    assert [curve.run.uid for curve in curves] == ["one", "two"]
    for curve, first in zip(curves, (0, second), strict=True):
        assert curve.account.missing == ()
        assert [int(image[0, 0]) for image in curve.counts] == list(range(first + 1, first + N + 1))


def test_frames_of_no_series_may_come_just_behind_their_run_s_end():
    rig = Rig()
    rig.feed(run_start(num_points=N), descriptor(), *unnamed(range(N - 2)), *unique_events(0), run_stop(N))
    rig.feed(*unnamed(range(N - 2, N)))
    (curve,) = rig.settle()
    assert curve.account.missing == ()


# --- what frames tell --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "is_stolen"), [(1, False), (2, True), (3, True)])
def test_every_second_frame_alone_means_another_pull(step, is_stolen):
    rig = Rig()
    n = 20
    rig.feed(run_start(), descriptor(), begin(user_data="run", n_images=n), *(frame(k) for k in range(0, n, step)))
    rig.feed(*(event(k + 1, k) for k in range(n)), SeriesEnd(series=1), run_stop(n))
    (curve,) = rig.settle()
    assert any(f"only one frame in {step} came: another PULL" in doubt for doubt in curve.doubts) == is_stolen


def test_frames_lost_here_and_there_are_not_stolen():
    rig = Rig()
    there = [k for k in range(20) if k not in (3, 4, 9, 15)]
    rig.feed(run_start(), descriptor(), begin(user_data="run", n_images=20), *(frame(k) for k in there))
    rig.feed(*(event(k + 1, k) for k in range(20)), SeriesEnd(series=1), run_stop(20))
    (curve,) = rig.settle()
    assert not any("PULL" in doubt for doubt in curve.doubts)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_values_below_zero_mark_gaps_of_signed_detectors(dtype):
    rig = Rig()
    pixels = np.array([[0, 1, -1], [-2, 100, -1]], dtype)
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *all_events())
    rig.feed(*(DetectorFrame(series=1, image_id=k, pixels=pixels) for k in range(N)))
    (curve,) = rig.curves
    gap = np.iinfo(dtype).max
    assert curve.sentinel == gap
    assert curve.counts.dtype == np.uint32
    for image in curve.counts:
        np.testing.assert_array_equal(image, [[0, 1, gap], [gap, 100, gap]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_the_largest_value_marks_gaps_of_unsigned_detectors(dtype):
    rig = Rig()
    pixels = np.array([[0, np.iinfo(dtype).max]], dtype)
    rig.feed(run_start(), descriptor(), begin(user_data="run"), *all_events())
    rig.feed(*(DetectorFrame(series=1, image_id=k, pixels=pixels) for k in range(N)))
    assert rig.curves[0].sentinel == np.iinfo(dtype).max
    assert (rig.curves[0].counts[0] == rig.curves[0].sentinel).tolist() == [[False, True]]


# --- runs that are forgotten -------------------------------------------------------------------------------------


def test_the_run_of_an_open_curve_is_not_forgotten():
    rig = Rig()
    rig.feed(run_start(sample="gold"), descriptor(), begin(user_data="run"), *all_events(), run_stop(N))
    rig.feed(*(frame(k) for k in range(N - 1)))
    for k in range(MAX_STOPPED + 5):
        rig.feed(run_start(f"later {k}"), run_stop(0, f"later {k}"))
    assert len(rig.assembler.book.runs) <= MAX_STOPPED + 1
    rig.feed(frame(N - 1))
    (curve,) = rig.curves
    assert (curve.run.uid, curve.run.sample, curve.doubts) == ("run", "gold", ())
