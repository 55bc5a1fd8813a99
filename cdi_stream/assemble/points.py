"""Points of a scan as the streams of its run tell them, one table a stream; the best of them is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cdi_stream.documents.claim import Claim
from cdi_stream.documents.runs import Event, RunRecord

NO_IMAGE = -(2**62)
"""Stands for the slot of an image that an event does not name; other slots below 0 lie before the first frame seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointTable:
    """Points of one stream in the order of their numbers; all arrays have one entry a row.

    Parameters
    ----------
    stream
        Name of the stream.
    places
        Place of each row in the curve, from 0; events that were lost leave gaps.
    slots
        Slot of the image that the event names, `NO_IMAGE` where it names none.
    times_s
        Time of the event by this machine's clock [s since the epoch], NaN where unknown.
    readings
        Values by data key, NaN where an event lacks a number.
    names_series
        Whether the events name the series asked for.
    has_points_of_its_own
        Whether other events of the stream name other series alone.
    is_array
        Whether the readings came as arrays, several points an event.
    last_seq
        Number of the last event.
    """

    stream: str
    places: NDArray[np.intp]
    slots: NDArray[np.intp]
    times_s: NDArray[np.float64]
    readings: Mapping[str, NDArray[np.float64]]
    names_series: bool = False
    has_points_of_its_own: bool = False
    is_array: bool = False
    last_seq: int = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.places)

    @property
    def has_ids(self) -> bool:
        """Whether most of the rows name their image."""
        return len(self) > 0 and bool(np.mean(self.slots > NO_IMAGE) > 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What is known of a curve before its points: its series, the claim, and numbers of points that it may have.

    ``frame_counts`` are those of ``counts`` that count frames.
    ``first_id`` is the image id of slot 0, ``offset_s`` the time to add to the documents' times to have them by this
    machine's clock, ``since_s`` the time of receipt from which on events can be the curve's, ``used`` the number of the
    last point of each stream that an earlier curve has.
    """

    series: str
    claim: Claim
    counts: frozenset[int]
    frame_counts: frozenset[int]
    first_id: int = 0
    offset_s: float = 0.0
    since_s: float = 0.0
    used: Mapping[str, int] = field(default_factory=dict)


def best_table(run: RunRecord, curve: Curve, motors: frozenset[str]) -> PointTable | None:
    """Return the stream that tells most of a curve's points; None if none has readings.

    Preferred is, in this order: a stream whose events name the series, one in which a rocking motor moves, one with
    as many points as there are frames, or as the curve may have, one with a reading of a motor, the primary stream,
    one event a point.  ``motors`` are the data keys of circles and energy; those that the plan names are added.
    """
    motors = motors | _planned_motors(run)
    found: list[tuple[tuple[bool, ...], PointTable]] = []
    for stream, events in run.streams:
        for table in _tables(stream, events, curve):
            moving = [name for name in motors if _moves(table.readings.get(name))]
            fits = (len(table) in curve.frame_counts, len(table) in curve.counts)
            rank = (table.names_series, bool(moving), *fits, bool(motors & table.readings.keys()))
            found.append(((*rank, stream == "primary", not table.is_array), table))
    return max(found, key=lambda entry: entry[0])[1] if found else None


def _planned_motors(run: RunRecord) -> frozenset[str]:
    motors = run.start.get("motors")
    return frozenset(str(name) for name in motors) if isinstance(motors, list | tuple) else frozenset()


def _moves(track: NDArray[np.float64] | None) -> bool:
    known = np.zeros(0) if track is None else track[np.isfinite(track)]
    return len(known) > 1 and float(np.ptp(known)) > 0


def _tables(stream: str, events: dict[int, Event], curve: Curve) -> list[PointTable]:
    """Return the tables of a stream: of its single readings, and of its arrays put one behind the other."""
    has_names = any(event.series for event in events.values())
    since = {seq: event for seq, event in events.items() if event.heard_s >= curve.since_s}
    chosen = {seq: event for seq, event in since.items() if not has_names or curve.series in event.series}
    if not has_names:
        chosen = _share(stream, chosen, curve)
    if not chosen:
        return []
    is_own = has_names and len(chosen) < sum(bool(event.series) for event in events.values())
    arrays = _of_arrays(stream, chosen, curve) if any(event.arrays for event in chosen.values()) else None
    tables = (arrays, _of_numbers(stream, min(events), chosen, curve, own=is_own))
    found = [table for table in tables if table is not None and table.readings]
    return [
        replace(table, names_series=has_names, has_points_of_its_own=is_own, last_seq=max(chosen)) for table in found
    ]


def _of_numbers(stream: str, lowest: int, chosen: dict[int, Event], curve: Curve, *, own: bool) -> PointTable:
    seqs = np.array(sorted(chosen), dtype=np.int64)
    rows = [chosen[int(seq)] for seq in seqs]
    slots = [NO_IMAGE if event.image_id is None else event.image_id - curve.first_id for event in rows]
    times = [np.nan if event.time_s is None else event.time_s + curve.offset_s for event in rows]
    table = PointTable(
        stream=stream,
        places=np.arange(len(rows)),
        slots=np.array(slots, dtype=np.intp),
        times_s=np.array(times),
        readings=_columns([event.readings for event in rows]),
        has_points_of_its_own=own,
    )
    return replace(table, places=(seqs - _first(seqs, lowest, table, curve)).astype(np.intp))


def _of_arrays(stream: str, chosen: dict[int, Event], curve: Curve) -> PointTable | None:
    """Join the arrays of each event, those of the most common length, one event behind the other.

    Arrays that make no number of points that the curve may have are no positions: spectra are read with points, too.
    """
    lengths = {seq: _length(event) for seq, event in chosen.items() if event.arrays}
    if sum(lengths.values()) not in curve.counts:
        return None
    rows: list[Mapping[str, float]] = []
    for seq, length in sorted(lengths.items()):
        event = chosen[seq]
        arrays = {key: values for key, values in event.arrays.items() if len(values) == length}
        rows += [{**event.readings, **{key: values[k] for key, values in arrays.items()}} for k in range(length)]
    n = len(rows)
    return PointTable(
        stream=stream,
        places=np.arange(n),
        slots=np.full(n, NO_IMAGE),
        times_s=np.full(n, np.nan),
        readings=_columns(rows),
        is_array=True,
    )


def _length(event: Event) -> int:
    """Return the most common length of an event's arrays."""
    return Counter(len(values) for values in event.arrays.values()).most_common(1)[0][0]


def _columns(rows: list[Mapping[str, float]]) -> dict[str, NDArray[np.float64]]:
    """Return one track a reading; a row that lacks it has NaN."""
    keys = sorted({key for row in rows for key in row})
    tracks = {key: np.array([row.get(key, np.nan) for row in rows], dtype=np.float64) for key in keys}
    return {key: track for key, track in tracks.items() if np.isfinite(track).any()}


def _share(stream: str, events: dict[int, Event], curve: Curve) -> dict[int, Event]:
    """Return the events of one curve out of several that do not name their series.

    By the curve's place in the run if it is known, else those that no earlier curve has.
    """
    n, place = _points_of(curve), curve.claim.curve_index
    if place is None or not n:
        return {seq: event for seq, event in events.items() if seq > curve.used.get(stream, -1)}
    first = place * n + min(1, min(events, default=1))
    return {seq: event for seq, event in events.items() if first <= seq < first + n}


def _points_of(curve: Curve) -> int:
    """Return the number of points of one curve of several; a plan counts those of all."""
    return curve.claim.n_points or max(curve.frame_counts, default=0)


def _first(seqs: NDArray[np.int64], lowest: int, table: PointTable, curve: Curve) -> int:
    """Return the sequence number of the curve's first point, which may itself be lost.

    Sequences are counted from 1, by some senders from 0.  Where the events name their images, these tell where the
    curve begins in a run of several; a difference of one is only another way to count images.
    """
    place = curve.claim.curve_index
    by_place = max(min(1, lowest) + (place or 0) * _points_of(curve), curve.used.get(table.stream, -1) + 1)
    named = table.slots > NO_IMAGE
    if place is None and named.any():
        by_image = int(np.median(seqs[named] - table.slots[named]))
        return by_image if abs(by_image - by_place) > 1 and 0 <= by_image <= seqs[0] else by_place
    return int(seqs[0]) if table.has_points_of_its_own and place is None else by_place
