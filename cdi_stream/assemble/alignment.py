"""Alignment of frames to the points of a scan: by image id, else by number, else by time; never by order of arrival.

A detector numbers its images one after the other.  If there are as many images as points, the number of an image is
its point.  If there are not, for example because a point was measured twice after a pause, the numbers do not tell
which frame is the additional one.  Then the times of receipt of the frames are compared with the times of the events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdi_stream.assemble.points import NO_IMAGE, PointTable
from cdi_stream.stream.series import Series

Ids = NDArray[np.intp]
"""Slots or rows, one for each point."""

Times = NDArray[np.float64]
"""Times [s since the epoch]."""

MATCH_TOLERANCE = 0.3
"""Largest distance between a frame and its event in a match by time, in spacings of the frames.

At 0.3 the next frame is at least 0.7 spacings away and cannot be meant."""

MIN_SPACING_S = 0.1
"""Spacing of points [s] above which times of receipt can tell a point from the next point."""

EVENT_LATENCY_S = 0.05
"""Delay [s] of a frame behind its event that is normal for detector and network."""

MAX_LATE = 0.5
"""Largest delay of the frames behind their events, in spacings of the points."""

MAX_EARLY = 0.9
"""Largest lead of the frames before their events, in spacings of the points.

A slow counter of the same point delays the event, but not beyond the next point."""

MIN_POINTS = 5
"""Number of points below which times are not compared with numbers."""

MAX_APART_S = 1.0
"""Largest distance [s] between frame and event of a point in a fast scan that is joined by time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Slot of each point's frame, -1 for none, with the doubts and notes about it."""

    slots: Ids
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def align(series: Series, table: PointTable, rows: Ids) -> Alignment:
    """Return the frame of each point.

    Parameters
    ----------
    series
        Frames that were received.
    table
        Points of the scan, one in each row; points whose events were lost are missing.
    rows
        ``(n,)`` for the n points of the curve: row of the table, -1 where the event was lost.
    """
    if table.has_ids:
        return _by_id(series, table, rows)
    return _by_number(series, table, rows)


def is_in_time(series: Series, table: PointTable, slots: Ids) -> bool:
    """Whether every frame was received near the time of its event: within `MAX_LATE` and `MAX_EARLY` spacings."""
    received = series.received_s(slots)
    if len(table) != len(slots) or not np.isfinite(received - table.times_s).all():
        return False
    apart = received - table.times_s
    spacing = float(np.median(np.diff(table.times_s))) if len(slots) > 1 else 0.0
    if spacing < MIN_SPACING_S:
        return bool(np.abs(apart).max() <= MAX_APART_S)
    return bool(apart.max() <= MAX_LATE * spacing + EVENT_LATENCY_S and apart.min() >= -MAX_EARLY * spacing)


def _by_id(series: Series, table: PointTable, rows: Ids) -> Alignment:
    """Return the alignment by the image ids in the events.

    A point whose event names no image gets its slot by interpolation between its neighbours.
    """
    is_named = table.slots > NO_IMAGE
    points = np.arange(len(rows))
    known = (rows >= 0) & is_named[rows]
    none_known = np.zeros(0, dtype=np.intp)  # without all events no shift can be told from events that were lost
    shift, doubts, notes = _image_shift(table.slots[rows[known]] if known.all() else none_known, series.image_ids)
    slots = np.full(len(rows), -1, dtype=np.intp)
    slots[known] = table.slots[rows[known]] + shift
    if not known.all() and known.any():
        guess = np.rint(np.interp(points, points[known], slots[known]))
        beyond = np.maximum(points - points[known][-1], 0) - np.maximum(points[known][0] - points, 0)
        guess = np.asarray(guess, dtype=np.intp) + beyond
        slots = np.where(known, slots, np.where(np.isin(guess, slots[known]), -1, guess))
    slots, doubts_of_repeats = _each_once(slots.astype(np.intp))
    return Alignment(slots=slots, doubts=doubts + doubts_of_repeats, notes=notes)


def _each_once(slots: Ids) -> tuple[Ids, tuple[str, ...]]:
    """Return slots with each frame in one point only: the last point that names it keeps it; and the doubt."""
    last = {int(slot): place for place, slot in enumerate(slots) if slot >= 0}
    is_last = np.array([slot < 0 or last[int(slot)] == place for place, slot in enumerate(slots)], dtype=bool)
    if is_last.all():
        return slots, ()
    named = ", ".join(sorted({str(slot) for slot in slots[~is_last]})[:5])
    return np.where(is_last, slots, -1), (f"several events name image {named}: the last of them has it",)


def _image_shift(asked: Ids, received: Ids) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
    """Return the shift from the image ids in the events to the slots, doubts and notes; 0 unless it gives all frames a
    point, where the ids themselves do not.

    Where frames at an end are missing several shifts do so.  Then the first event belongs to slot 0, or the smallest
    shift counts.

    Parameters
    ----------
    asked
        Slots that the events name, one for each point of the curve.
    received
        Slots of the frames, ascending.
    """
    asked = np.unique(asked)
    if not 0 < len(received) <= len(asked):
        return 0, (), ()
    to_first = -int(asked[0])
    tried = range(int(received[-1] - asked[-1]), int(received[0] - asked[0]) + 1)
    fitting_shifts = [shift for shift in tried if np.isin(received, asked + shift).all()]
    fits_as_named = 0 in fitting_shifts
    if not fitting_shifts or (fits_as_named and (to_first == 0 or to_first not in fitting_shifts)):
        return 0, (), ()
    best = to_first if to_first in fitting_shifts else min(fitting_shifts, key=abs)
    shift = 0 if fits_as_named else best
    text = f"the events count images from another number than the detector: shifted by {shift}"
    if len(fitting_shifts) == 1:
        return shift, (), (text,)
    return shift, (f"{text}, which is not sure because of the frames that are missing",), ()


def _by_number(series: Series, table: PointTable, rows: Ids) -> Alignment:
    """Align by the number of each image; where the counts differ, by time."""
    n, received = len(rows), series.image_ids
    is_from_1 = len(received) > 0 and received[-1] == n and received[0] == 1 and series.start.n_images != n + 1
    base = 1 if is_from_1 else 0
    slots = base + np.arange(n)
    if not len(received) or received[-1] == slots[-1]:  # the last frame is there: its number fixes the others
        return _check_against_times(series, table, rows, slots)
    if received[-1] < slots[-1] and len(received) == received[-1] + 1 and series.ended_s is None:
        return Alignment(slots=slots)  # the rest may still come
    slots_by_time = _by_time(series, table, rows, slots)
    if slots_by_time is not None:
        text = f"{len(received)} frames for {n} points: joined by their times, which fit in one way only"
        return Alignment(slots=slots_by_time, notes=(text,))
    return Alignment(
        slots=slots,
        doubts=(
            f"{len(received)} frames came for {n} points, and the events name no images: frames may lie at wrong "
            "angles; record the detector's image_id in the events",
        ),
    )


def _check_against_times(series: Series, table: PointTable, rows: Ids, slots: Ids) -> Alignment:
    """Return the alignment by number, with a doubt if the times contradict it.

    The counts are equal also if one point was measured twice and another point not at all.
    """
    has_row = rows >= 0
    apart = _contradiction(series, table.times_s[rows[has_row]], slots[has_row])
    if apart is None:
        return Alignment(slots=slots)
    text = (
        f"there are as many frames as events, but their times differ by up to {apart:.1f} steps: frames may lie at "
        "wrong angles"
    )
    return Alignment(slots=slots, doubts=(text,))


def _contradiction(series: Series, times_s: Times, slots: Ids) -> float | None:
    """Return the largest distance of a frame from its event, in spacings; None if times do not contradict the numbers.

    A frame may be late, when a queue was full, but never early.  A frame that comes half a spacing earlier than the
    median frame, each relative to its event, belongs to an earlier point.  `MAX_LATE` and `MAX_EARLY` limit the median.
    """
    apart = series.received_s(slots) - times_s
    known = np.isfinite(apart)
    spacing = float(np.median(np.diff(times_s[known]))) if known.sum() >= MIN_POINTS else 0.0
    if spacing < MIN_SPACING_S:
        return None
    apart = apart[known] / spacing
    early = float(np.median(apart) - apart.min())
    constant = float(np.median(apart))
    is_shifted = constant > MAX_LATE + EVENT_LATENCY_S / spacing or constant < -MAX_EARLY
    return max(early, abs(constant)) if early > MAX_LATE or is_shifted else None


def _by_time(series: Series, table: PointTable, rows: Ids, slots: Ids) -> Ids | None:
    """Return the slot of each point by the times of frames and events; None if more than one match is possible."""
    received = series.image_ids
    known = np.flatnonzero(rows >= 0)
    frames, events = series.received_s(received), table.times_s[rows[known]]
    if len(known) < 3 or len(received) < 3 or not np.isfinite(np.concatenate((frames, events))).all():
        return None
    if len(frames) >= len(events):
        pairs = unique_match(events, frames)
        if pairs is None:
            return None
        result = slots.copy()
        result[:] = -1
        result[known] = received[pairs]
        return result
    pairs = unique_match(frames, events)
    if pairs is None:
        return None
    result = np.full(len(slots), -1, dtype=np.intp)
    result[known[pairs]] = received
    return result


def unique_match(few: Times, many: Times) -> Ids | None:
    """Return for each time of ``few`` the index of its partner in ``many``, in order; None unless one match fits.

    The times of a match differ by one constant, up to `MATCH_TOLERANCE` spacings of ``many``.  The constant itself is
    less than half a spacing, because the offset between the two clocks has been removed before.
    """
    spacing = float(np.min(np.diff(np.sort(many)))) if len(many) > 1 else 0.0
    if spacing <= 0 or np.any(np.diff(few) <= 0) or np.any(np.diff(many) <= 0):
        return None
    matches: dict[tuple[int, ...], Ids] = {}
    for shift in range(len(many) - len(few) + 1):
        constant = float(np.median(many[shift : shift + len(few)] - few))
        for offset in {constant, constant - spacing, constant + spacing} if len(few) else ():
            right = np.clip(np.searchsorted(many, few + offset), 1, len(many) - 1)
            nearest = np.where(
                np.abs(many[right - 1] - few - offset) < np.abs(many[right] - few - offset), right - 1, right
            )
            apart = np.abs(many[nearest] - few - offset)
            if np.all(np.diff(nearest) > 0) and apart.max() < MATCH_TOLERANCE * spacing and abs(offset) < 0.5 * spacing:
                matches[tuple(nearest)] = nearest.astype(np.intp)
    return next(iter(matches.values())) if len(matches) == 1 else None
