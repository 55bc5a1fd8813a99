"""Which frame belongs to which point of the scan: by id, else by number, else by time; never by order of arrival.

A detector numbers its images one after the other.  As long as there are as many images as points, the number is the
point.  Where there are not, as after a pause in which a point was measured twice, numbers alone leave open where the
additional frame lies; then the times of receipt of frames and the times of events decide, if they can.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdi_stream.assemble.points import NO_IMAGE, PointTable
from cdi_stream.stream.series import Series

Ids = NDArray[np.intp]
Times = NDArray[np.float64]

FITS = 0.3
"""Largest distance of a frame from its event, in spacings of the frames, at which the next frame is ruled out."""

RESOLVED_S = 0.1
"""Spacing of points above which times of receipt tell one from the next."""

LATENCY_S = 0.05
"""Delay of a frame behind its event that tells nothing."""

LATE, EARLY = 0.5, 0.9
"""Largest distance of all frames behind and before their events, in spacings: a slow counter of the same point holds
the event up, but not beyond the next point."""

LEAST_POINTS = 5
"""Points below which times are not held against numbers."""

IN_TIME_S = 1.0
"""Frames and events of one point of a fast scan that is joined by time lie no further apart than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Slot of each point's frame, and how sure that is."""

    slots: Ids
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def align(series: Series, table: PointTable, slots_by_place: Ids) -> Alignment:
    """Find the frame of each point.

    Parameters
    ----------
    series
        Frames that came.
    table
        Points, one a row; those whose events were lost are missing.
    slots_by_place
        For each point of the curve the row of the table, -1 where its event was lost; its length is the number of
        points.
    """
    if table.has_ids:
        return _by_id(series, table, slots_by_place)
    return _by_number(series, table, slots_by_place)


def is_in_time(series: Series, table: PointTable, slots: Ids) -> bool:
    """Whether every frame was received about the time of its event, but for a constant."""
    received = series.received_s(slots)
    if len(table) != len(slots) or not np.isfinite(received - table.times_s).all():
        return False
    apart = received - table.times_s
    spacing = float(np.median(np.diff(table.times_s))) if len(slots) > 1 else 0.0
    if spacing < RESOLVED_S:
        return bool(np.abs(apart).max() <= IN_TIME_S)
    return bool(apart.max() <= LATE * spacing + LATENCY_S and apart.min() >= -EARLY * spacing)


def _by_id(series: Series, table: PointTable, rows: Ids) -> Alignment:
    """Take the images that the events name; points without a name lie on the line through the others."""
    is_named = table.slots > NO_IMAGE
    shift, notes = _shift_of(table.slots[is_named], series.image_ids)
    points = np.arange(len(rows))
    known = (rows >= 0) & is_named[rows]
    slots = np.full(len(rows), -1, dtype=np.intp)
    slots[known] = table.slots[rows[known]] + shift
    if not known.all() and known.any():
        guess = np.rint(np.interp(points, points[known], slots[known]))
        beyond = np.maximum(points - points[known][-1], 0) - np.maximum(points[known][0] - points, 0)
        guess = np.asarray(guess, dtype=np.intp) + beyond
        slots = np.where(known, slots, np.where(np.isin(guess, slots[known]), -1, guess))
    slots, doubts = _each_once(slots.astype(np.intp))
    return Alignment(slots=slots, doubts=doubts, notes=notes)


def _each_once(slots: Ids) -> tuple[Ids, tuple[str, ...]]:
    """Let each frame be that of one point, the last that names it."""
    last = {int(slot): place for place, slot in enumerate(slots) if slot >= 0}
    is_last = np.array([slot < 0 or last[int(slot)] == place for place, slot in enumerate(slots)], dtype=bool)
    if is_last.all():
        return slots, ()
    named = ", ".join(sorted({str(slot) for slot in slots[~is_last]})[:5])
    return np.where(is_last, slots, -1), (f"several events name image {named}: the last of them has it",)


def _shift_of(asked: Ids, there: Ids) -> tuple[int, tuple[str, ...]]:
    """Return how far the events count images differently, if a shift fits every frame and none does not."""
    most = min(len(asked), len(there))
    if not most or len(asked) != len(there) or len(np.intersect1d(asked, there)) == most:
        return 0, ()
    shift = int(there[0] - asked.min())
    if np.array_equal(np.sort(asked) + shift, there):
        return shift, (f"the events count images from another number than the detector: shifted by {shift}",)
    return 0, ()


def _by_number(series: Series, table: PointTable, rows: Ids) -> Alignment:
    n, there = len(rows), series.image_ids
    is_from_1 = len(there) > 0 and there[-1] == n and there[0] == 1 and series.start.n_images != n + 1
    base = 1 if is_from_1 else 0
    slots = base + np.arange(n)
    if not len(there) or there[-1] == slots[-1]:  # the last frame is there: the others are known by their numbers
        return _held_against_times(series, table, rows, slots)
    if there[-1] < slots[-1] and len(there) == there[-1] + 1 and series.ended_s is None:
        return Alignment(slots=slots)  # the rest may still come
    found = _by_time(series, table, rows, slots)
    if found is not None:
        text = f"{len(there)} frames for {n} points: joined by their times, which leave no other way"
        return Alignment(slots=found, notes=(text,))
    return Alignment(
        slots=slots,
        doubts=(
            f"{len(there)} frames came for {n} points, and the events name no images: frames may lie at wrong angles; "
            "record the detector's image_id in the events",
        ),
    )


def _held_against_times(series: Series, table: PointTable, rows: Ids, slots: Ids) -> Alignment:
    """Doubt numbers that times contradict: a point taken again and another missed leave the counts equal."""
    has_row = rows >= 0
    apart = _apart(series, table.times_s[rows[has_row]], slots[has_row])
    if apart is None:
        return Alignment(slots=slots)
    text = (
        f"frames and events are as many, but lie up to {apart:.1f} steps of time apart: frames may lie at wrong angles"
    )
    return Alignment(slots=slots, doubts=(text,))


def _apart(series: Series, times_s: Times, slots: Ids) -> float | None:
    """Return how many spacings a frame lies from its event at most; None if times do not contradict the numbers.

    A frame may come late, when a queue was full, but not early: one that is received half a spacing before its event,
    against the others, is that of an earlier point.  For all together see `LATE` and `EARLY`.
    """
    apart = series.received_s(slots) - times_s
    known = np.isfinite(apart)
    spacing = float(np.median(np.diff(times_s[known]))) if known.sum() >= LEAST_POINTS else 0.0
    if spacing < RESOLVED_S:
        return None
    apart = apart[known] / spacing
    early = float(np.median(apart) - apart.min())
    constant = float(np.median(apart))
    is_shifted = constant > LATE + LATENCY_S / spacing or constant < -EARLY
    return max(early, abs(constant)) if early > LATE or is_shifted else None


def _by_time(series: Series, table: PointTable, rows: Ids, slots: Ids) -> Ids | None:
    """Return the slot of each point by the times of frames and events; None where these leave it open."""
    there = series.image_ids
    known = np.flatnonzero(rows >= 0)
    frames, events = series.received_s(there), table.times_s[rows[known]]
    if len(known) < 3 or len(there) < 3 or not np.isfinite(np.concatenate((frames, events))).all():
        return None
    if len(frames) >= len(events):
        pairs = unique_match(events, frames)
        if pairs is None:
            return None
        result = slots.copy()
        result[:] = -1
        result[known] = there[pairs]
        return result
    pairs = unique_match(frames, events)
    if pairs is None:
        return None
    result = np.full(len(slots), -1, dtype=np.intp)
    result[known[pairs]] = there
    return result


def unique_match(few: Times, many: Times) -> Ids | None:
    """Match each of a few times to one of many, in order; None unless exactly one constant between them fits.

    A constant fits if every time of ``few`` has a partner within `FITS` spacings, and if it is itself less than half a
    spacing: the two clocks have been set against each other before.
    """
    spacing = float(np.min(np.diff(np.sort(many)))) if len(many) > 1 else 0.0
    if spacing <= 0 or np.any(np.diff(few) <= 0) or np.any(np.diff(many) <= 0):
        return None
    found: dict[tuple[int, ...], Ids] = {}
    for shift in range(len(many) - len(few) + 1):
        constant = float(np.median(many[shift : shift + len(few)] - few))
        for offset in {constant, constant - spacing, constant + spacing} if len(few) else ():
            right = np.clip(np.searchsorted(many, few + offset), 1, len(many) - 1)
            nearest = np.where(
                np.abs(many[right - 1] - few - offset) < np.abs(many[right] - few - offset), right - 1, right
            )
            apart = np.abs(many[nearest] - few - offset)
            if np.all(np.diff(nearest) > 0) and apart.max() < FITS * spacing and abs(offset) < 0.5 * spacing:
                found[tuple(nearest)] = nearest.astype(np.intp)
    return next(iter(found.values())) if len(found) == 1 else None
