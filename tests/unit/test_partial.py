"""Frames of a curve that is still measured: handed over at each fraction, and right although later frames follow."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from tests.assembling import (
    N,
    Rig,
    all_events,
    begin,
    descriptor,
    event,
    frame,
    picture,
    run_start,
    scan_begin,
    scan_points,
)

FRACTIONS = (0.5, 0.75)


@pytest.fixture
def rig():
    return Rig(preview_fractions=FRACTIONS)


def partials_after(rig, items):
    """Feed items one by one; return the partial curves, each with the number of items before it."""
    found = []
    for k, item in enumerate(items):
        rig.feed(item)
        found += [(k, partial) for partial in rig.assembler.partial_curves()]
    return found


def points(order):
    return chain.from_iterable([frame(k), event(k + 1, image_id=k)] for k in order)


def test_each_fraction_is_handed_over_once(rig):
    rig.feed(run_start(), descriptor(), begin())
    found = partials_after(rig, points(range(N)))
    assert [(k, p.fraction, p.curve.account.received) for k, p in found] == [(6, 0.5, 4), (10, 0.75, 6)]
    (curve,) = rig.curves
    assert curve.awaited == ()


def test_of_several_fractions_that_are_reached_at_once_only_the_largest_is_handed_over(rig):
    rig.feed(run_start(), descriptor(), begin(), *points(range(6)))
    assert [partial.fraction for partial in rig.assembler.partial_curves()] == [0.75]
    assert rig.assembler.partial_curves() == []


def test_without_a_known_number_of_points_nothing_is_handed_over(rig):
    rig.feed(run_start(), descriptor(), begin(n_images=None))
    assert partials_after(rig, points(range(N))) == []


def test_the_plan_may_state_the_number_of_points(rig):
    rig.feed(run_start(num_points=N), descriptor(), begin(n_images=None))
    assert [partial.fraction for _, partial in partials_after(rig, points(range(N)))] == [0.5, 0.75]


def test_a_detector_may_be_armed_for_more_images_than_the_plan_has_points(rig):
    rig.feed(run_start(num_points=N), descriptor(), begin(n_images=100 * N))
    found = partials_after(rig, points(range(N)))
    assert [(k, p.fraction) for k, p in found] == [(6, 0.5), (10, 0.75)]
    assert [len(p.curve.has_frame) for _, p in found] == [N, N]
    assert [p.curve.account.expected for _, p in found] == [N, N]


def test_a_series_that_has_ended_gives_no_preview(rig):
    from cdi_stream.messages import SeriesEnd

    rig.feed(run_start(), descriptor(), begin(), *(frame(k) for k in range(3)), SeriesEnd(series=1), frame(3))
    assert rig.assembler.partial_curves() == []


@pytest.mark.parametrize("order", [(3, 0, 2, 1), (0, 1, 3, 4), (5, 0, 1, 2)], ids=["mixed", "one missing", "early"])
def test_frames_lie_at_their_points_whatever_their_order(rig, order):
    rig.feed(run_start(), descriptor(), begin())
    ((_, partial),) = partials_after(rig, points(order))
    curve = partial.with_counts()
    assert np.flatnonzero(curve.has_frame).tolist() == sorted(order)
    assert curve.awaited == tuple(range(max(order) + 1, N))
    assert curve.account.missing == tuple(sorted(set(range(N)) - set(order)))
    for k, pixels in enumerate(curve.counts):
        np.testing.assert_array_equal(pixels, picture(k) if k in order else np.zeros((3, 5)))


def test_later_frames_and_later_series_change_nothing(rig):
    rig.feed(run_start(), descriptor(), begin())
    ((_, partial),) = partials_after(rig, points(range(4)))
    at_once = partial.with_counts()
    rig.feed(*points(range(4, N)))
    assert len(rig.curves) == 1
    rig.curves.clear()
    rig.feed(begin(2), *(frame(k, series=2) for k in reversed(range(N))))
    later = partial.with_counts()
    np.testing.assert_array_equal(later.counts, at_once.counts)
    np.testing.assert_array_equal(later.has_frame, [True] * 4 + [False] * 3)


def test_readings_follow_evenly_beyond_the_measured_points(rig):
    rig.feed(run_start(), descriptor(), begin())
    ((_, partial),) = partials_after(rig, points(range(4)))
    np.testing.assert_allclose(partial.curve.scanned["theta"], 0.1 * np.arange(1, N + 1))


def test_the_end_of_the_curve_is_expected_at_the_pace_of_its_frames(rig):
    rig.feed(run_start(), descriptor(), begin())
    for k in range(4):
        rig.clock.now_s += 2.0
        rig.feed(frame(k), event(k + 1, image_id=k))
    (partial,) = rig.assembler.partial_curves()
    assert partial.ends_s == pytest.approx(partial.curve.complete_s + 3 * 2.002)


def test_a_monitor_counts_at_measured_points_only():
    rig = Rig(preview_fractions=FRACTIONS, monitor="ion")
    rig.feed(run_start(), descriptor(), begin())
    items = chain.from_iterable([frame(k), event(k + 1, image_id=k, ion=100.0 - 20 * k)] for k in range(4))
    ((_, partial),) = partials_after(rig, items)
    np.testing.assert_array_equal(partial.curve.monitor, [100, 80, 60, 40, np.nan, np.nan, np.nan])


@pytest.mark.parametrize("fractions", [FRACTIONS, ()])
def test_the_complete_curve_is_the_same_with_and_without_previews(fractions):
    rig = Rig(preview_fractions=fractions)
    rig.feed(run_start(), descriptor(), begin(1, {"run_uid": "run"}))
    found = partials_after(rig, (frame(k) for k in range(N)))
    assert len(found) == len(fractions)
    rig.feed(*all_events())
    (curve,) = rig.curves
    np.testing.assert_array_equal(curve.counts, [picture(k) for k in range(N)])
    assert curve.has_frame.all()
    assert curve.doubts == ()


def test_a_curve_that_breaks_gives_no_preview_and_goes_on(rig, monkeypatch, caplog):
    from cdi_stream.assemble import assembler

    def breaks(*_):
        raise ValueError("broken")

    monkeypatch.setattr(assembler, "partial_curve", breaks)
    rig.feed(run_start(), descriptor(), begin())
    assert partials_after(rig, points(range(N))) == []
    assert "please report it" in caplog.text
    assert len(rig.curves) == 1


def test_a_real_scan_has_its_baseline_and_its_header():
    from sim_beamline.scan import recorded_scan

    scan = recorded_scan("plain")
    rig = Rig(motors=frozenset(scan.scanned), preview_fractions=FRACTIONS)
    rig.feed(*scan_begin(scan))
    first, _ = partials_after(rig, chain.from_iterable(scan_points(scan)))
    curve = first[1].with_counts()
    assert curve.run.readings == dict(scan.baseline)
    np.testing.assert_array_equal(curve.counts[:24], scan.frames[:24])
    assert not curve.counts[24:].any()
