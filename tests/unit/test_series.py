"""Frames in their slots: order, growth, limits, and the counts of frames that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdi_stream.errors import WireError
from cdi_stream.messages import DetectorFrame, SeriesStart
from cdi_stream.stream.series import Series, SeriesLimits

REPEATABLE = settings(max_examples=150, deadline=None, derandomize=True, database=None)
SHAPE = (3, 5)
BYTES = 4 * 15


def used_memory(shape: tuple[int, int, int]) -> np.ndarray:
    """Memory with the counts of an earlier series."""
    return np.full(shape, 999, np.uint32)


def series(n_images: int | None = None, **limits: int) -> Series:
    start = SeriesStart(series=7, n_images=n_images, image_shape=SHAPE)
    return Series(start, SeriesLimits(**limits), 100.0, 1e9, new_volume=used_memory)


def pixels(image_id: int) -> np.ndarray:
    return np.full(SHAPE, 10 * image_id + 1, np.uint16)


def frame(image_id: int, content: np.ndarray | None = None) -> DetectorFrame:
    return DetectorFrame(series=7, image_id=image_id, pixels=pixels(image_id) if content is None else content)


def filled(ids: Any, n_images: int | None = None, **limits: int) -> Series:
    result = series(n_images, **limits)
    for step, image_id in enumerate(ids):
        result.add(frame(image_id), 101.0 + step)
    return result


def assert_holds(result: Series, asked: Any, there: Any) -> None:
    """Assert that the series returns the frames of ``asked`` that are ``there``, and zeros for the others."""
    asked = np.asarray(asked, dtype=np.intp)
    volume, present = result.take(asked)
    assert volume.dtype == np.uint32
    np.testing.assert_array_equal(present, np.isin(asked, list(there)))
    if not there:
        assert volume.shape == (len(asked), 1, 1), "what was only announced takes no memory"
        assert not volume.any()
        return
    expected = [pixels(i) if i in there else np.zeros(SHAPE) for i in asked.tolist()]
    np.testing.assert_array_equal(volume, np.reshape(expected, (-1, *SHAPE)))


@given(
    st.lists(st.integers(0, 25), max_size=40),
    st.none() | st.integers(0, 30),
    st.lists(st.integers(-1, 40), max_size=30),
)
@REPEATABLE
def test_frames_come_back_in_any_order_asked_whatever_order_they_came_in(ids, n_images, asked):
    result = filled(ids, n_images)
    assert_holds(result, asked, set(ids))
    assert result.n_received == len(set(ids))
    assert result.duplicate == len(ids) - len(set(ids))
    assert result.image_ids.tolist() == sorted(set(ids))


@pytest.mark.parametrize("n_images", [None, 1, 3, 12, 100])
def test_the_series_grows_beyond_what_was_announced(n_images):
    assert_holds(filled(range(12), n_images), range(12), set(range(12)))


def test_frames_in_the_order_of_their_slots_are_handed_over_without_a_copy():
    result = filled(range(6), 6)
    assert np.shares_memory(result.take(np.arange(6))[0], result.take(np.arange(4))[0])


def test_presence_is_a_copy():
    result = filled(range(3), 4)
    _, present = result.take(np.arange(4))
    result.add(frame(3), 110.0)
    assert present.tolist() == [True, True, True, False]


def test_frames_are_copied_from_the_message():
    content = pixels(0)
    result = series(2)
    result.add(frame(0, content), 101.0)
    content[:] = 0
    assert_holds(result, [0], {0})


def test_a_repeat_counts_and_changes_nothing():
    result = filled([0, 1])
    result.add(frame(1, pixels(9)), 110.0)
    assert (result.duplicate, result.bad, result.n_received) == (1, 0, 2)
    assert_holds(result, [0, 1], {0, 1})


def test_a_series_without_frames_gives_zeros():
    assert_holds(series(3), range(3), set())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (np.ones(SHAPE, np.float32), "integers of 32 bits at most, got float32"),
        (np.ones(SHAPE, np.uint64), "integers of 32 bits at most, got uint64"),
        (np.ones(SHAPE, bool), "integers of 32 bits at most, got bool"),
        (np.ones(SHAPE[::-1], np.uint16), r"expected \(3, 5\) pixels as before, got \(5, 3\)"),
        (np.ones((1, *SHAPE), np.uint16), "expected an image"),
        (np.ones(15, np.uint16), "expected an image"),
        (np.ones((0, 5), np.uint16), "expected an image"),
    ],
)
def test_a_misfit_is_refused_and_counted(content, reason):
    result = filled([0])
    with pytest.raises(WireError, match=reason):
        result.add(frame(1, content), 110.0)
    assert (result.bad, result.n_received, result.duplicate) == (1, 1, 0)
    assert_holds(result, [0, 1], {0})


def test_a_misfit_at_first_does_not_decide_the_shape():
    result = series(2)
    with pytest.raises(WireError):
        result.add(frame(0, np.ones((9, 9), np.float32)), 101.0)
    result.add(frame(0), 102.0)
    assert_holds(result, [0], {0})


@pytest.mark.parametrize("limits", [{"max_images": 10}, {"max_bytes": 11 * BYTES - 1}])
@pytest.mark.parametrize("n_images", [None, 4, 6, 10, 1000])
def test_a_frame_beyond_the_limits_is_refused(limits, n_images):
    result = filled(range(10), n_images, **limits)
    for image_id in (10, 2**40, 2**64 - 1):
        with pytest.raises(WireError, match="beyond the limits"):
            result.add(frame(image_id, pixels(0)), 120.0)
    assert (result.bad, result.n_received) == (3, 10)
    assert_holds(result, range(10), set(range(10)))


@pytest.mark.parametrize("limits", [{"max_images": 10}, {"max_bytes": 10 * BYTES}])
@pytest.mark.parametrize("n_images", [None, 6, 1000])
@pytest.mark.parametrize("n_frames", [1, 7, 10])
def test_no_more_memory_is_taken_than_the_limits_allow(limits, n_images, n_frames):
    volume, _ = filled(range(n_frames), n_images, **limits).take(np.arange(1))
    assert volume.base.nbytes <= 10 * BYTES


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2", "i4"])
def test_the_sentinel_is_the_largest_number_of_the_pixels(dtype):
    result = series()
    result.add(frame(0, np.full(SHAPE, np.iinfo(dtype).max, dtype)), 101.0)
    assert result.sentinel == np.iinfo(dtype).max
    assert (result.take(np.array([0]))[0] == result.sentinel).all()


def test_frames_after_the_end_are_late():
    result = filled([0, 2], 3)
    result.end(110.0)
    result.add(frame(1), 111.0)
    result.add(frame(1), 112.0)
    assert (result.late, result.duplicate) == (1, 1)
    assert_holds(result, range(3), {0, 1, 2})


def test_times_follow_the_messages():
    result = series(3)
    assert (result.id, result.last_s, result.last_frame_s, result.ended_s) == (7, 100, 100, None)
    result.add(frame(0), 101.0)
    result.add(frame(0), 102.0)
    assert (result.last_s, result.last_frame_s) == (102, 101)
    result.end(103.0)
    result.end(104.0)
    assert (result.last_s, result.ended_s) == (104, 103)
