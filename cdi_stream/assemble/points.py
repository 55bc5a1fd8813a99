"""Tables of the points of a scan, one for each stream of the run, and the choice of the best table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cdi_stream.documents.claim import Claim
from cdi_stream.documents.run_record import Event, RunRecord

NO_IMAGE = -(2**62)
"""Slot of a point whose event names no image.  Other negative slots lie before the first frame received."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointTable:
    """Points of one stream in the order of their sequence numbers; each array has one entry for each row.

    Parameters
    ----------
    stream
        Name of the stream.
    places
        Place of each row in the curve, from 0; events that were lost leave gaps.
    slots
        Slot of the image that the event names, `NO_IMAGE` where the event names none.
    times_s
        Time of the event by this machine's clock [s since the epoch], NaN where unknown.
    readings
        Values by data key, NaN where an event lacks a number.
    names_series
        Whether the events name the series of the curve.
    is_shared
        Whether the stream has further events, which name other series only.
    is_array
        Whether the readings are arrays, with several points in an event.
    last_seq
        Sequence number of the last event.
    """

    stream: str
    places: NDArray[np.intp]
    slots: NDArray[np.intp]
    times_s: NDArray[np.float64]
    readings: Mapping[str, NDArray[np.float64]]
    names_series: bool = False
    is_shared: bool = False
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
    """Facts about a curve that select its points from the streams of its run.

    Parameters
    ----------
    series
        Texts of the series ids, from `series_key`; empty if the frames name no series.
    slots
        Slot of the only image of each series, by the text of its id, for a curve of such series; else empty.
    claim
        Statement of the detector's ``user_data`` about the run.
    counts
        Numbers of points that the curve may have.
    frame_counts
        Those of ``counts`` that are numbers of frames.
    first_id
        Image id of slot 0.
    offset_s
        Time to add to a document's time to have it by this machine's clock [s].
    since_s
        Time of receipt [s since the epoch] of the earliest event that can belong to the curve.
    used
        By stream, the sequence number of the last point that belongs to an earlier curve of the run.
    """

    series: frozenset[str]
    claim: Claim
    counts: frozenset[int]
    frame_counts: frozenset[int]
    first_id: int = 0
    offset_s: float = 0.0
    since_s: float = 0.0
    used: Mapping[str, int] = field(default_factory=dict)
    slots: Mapping[str, int] = field(default_factory=dict)


def best_table(run: RunRecord, curve: Curve, motors: frozenset[str]) -> PointTable | None:
    """Return the best table of a curve's points; None if no stream of the run has readings.

    The tables are ranked by these properties, the first counts most: the events name the series; a rocking motor
    moves; the number of points is a number of frames; it is a number that the curve may have; a motor is read; the
    stream is ``primary``; each point has an event of its own.

    ``motors`` are the data keys of circles and energy; the motors in the run's start document are added.
    """
    motors = motors | _planned_motors(run)
    ranked: list[tuple[tuple[bool, ...], PointTable]] = []
    for stream, events in run.streams:
        for table in _tables(stream, events, curve):
            moving = [name for name in motors if _moves(table.readings.get(name))]
            fits = (len(table) in curve.frame_counts, len(table) in curve.counts)
            rank = (table.names_series, bool(moving), *fits, bool(motors & table.readings.keys()))
            ranked.append(((*rank, stream == "primary", not table.is_array), table))
    return max(ranked, key=lambda entry: entry[0])[1] if ranked else None


def _planned_motors(run: RunRecord) -> frozenset[str]:
    motors = run.start.get("motors")
    return frozenset(str(name) for name in motors) if isinstance(motors, list | tuple) else frozenset()


def _moves(track: NDArray[np.float64] | None) -> bool:
    known = np.zeros(0) if track is None else track[np.isfinite(track)]
    return len(known) > 1 and float(np.ptp(known)) > 0


def _tables(stream: str, events: dict[int, Event], curve: Curve) -> list[PointTable]:
    """Return the tables of a stream: one of its single readings, one of its arrays joined end to end."""
    has_names = bool(curve.series) and any(event.series for event in events.values())
    since = {seq: event for seq, event in events.items() if event.received_s >= curve.since_s}
    chosen = {seq: event for seq, event in since.items() if not has_names or curve.series & set(event.series)}
    if not has_names:
        chosen = _share(stream, chosen, curve)
    if not chosen:
        return []
    is_own = has_names and len(chosen) < sum(bool(event.series) for event in events.values())
    arrays = _of_arrays(stream, chosen, curve) if any(event.arrays for event in chosen.values()) else None
    tables = (arrays, _of_numbers(stream, min(events), chosen, curve, own=is_own))
    return [
        replace(table, names_series=has_names, is_shared=is_own, last_seq=max(chosen))
        for table in tables
        if table is not None and table.readings
    ]


def _of_numbers(stream: str, lowest: int, chosen: dict[int, Event], curve: Curve, *, own: bool) -> PointTable:
    """Return the table of the single readings of a stream, one row for each of the events ``chosen``."""
    seqs = np.array(sorted(chosen), dtype=np.int64)
    rows = [chosen[int(seq)] for seq in seqs]
    slots = [_slot_of(event, curve) for event in rows]
    times = [np.nan if event.time_s is None else event.time_s + curve.offset_s for event in rows]
    table = PointTable(
        stream=stream,
        places=np.arange(len(rows)),
        slots=np.array(slots, dtype=np.intp),
        times_s=np.array(times),
        readings=_columns([event.readings for event in rows]),
        is_shared=own,
    )
    return replace(table, places=(seqs - _first(seqs, lowest, table, curve)).astype(np.intp))


def _slot_of(event: Event, curve: Curve) -> int:
    """Return the slot of the image that an event names, `NO_IMAGE` if it names none."""
    if curve.slots:
        return next((curve.slots[name] for name in event.series if name in curve.slots), NO_IMAGE)
    return NO_IMAGE if event.image_id is None else event.image_id - curve.first_id


def _of_arrays(stream: str, chosen: dict[int, Event], curve: Curve) -> PointTable | None:
    """Return the table of the arrays of all events, joined end to end; of each event, arrays of its commonest length.

    None if the number of points is none that the curve may have: then the arrays are no positions, but spectra, say.
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
    """Return the readings by data key, each ``(n_rows,)``; NaN where a row lacks the reading."""
    keys = sorted({key for row in rows for key in row})
    tracks = {key: np.array([row.get(key, np.nan) for row in rows], dtype=np.float64) for key in keys}
    return {key: track for key, track in tracks.items() if np.isfinite(track).any()}


def _share(stream: str, events: dict[int, Event], curve: Curve) -> dict[int, Event]:
    """Return the events of one curve in a run of several curves whose events name no series.

    The place of the curve in the run selects them if it is known; else the events that no earlier curve has.
    """
    n, place = _points_of(curve), curve.claim.curve_index
    if place is None or not n:
        return {seq: event for seq, event in events.items() if seq > curve.used.get(stream, -1)}
    first = place * n + min(1, min(events, default=1))
    return {seq: event for seq, event in events.items() if first <= seq < first + n}


def _points_of(curve: Curve) -> int:
    """Return the number of points of one curve in a run of several curves; 0 if unknown."""
    return curve.claim.n_points or max(curve.frame_counts, default=0)


def _first(seqs: NDArray[np.int64], lowest: int, table: PointTable, curve: Curve) -> int:
    """Return the sequence number of the curve's first point, which may itself be lost.

    Most senders count sequence numbers from 1, some from 0.  Where the events name their images, the image ids show
    where the curve begins in a run of several curves; a difference of one only means that images count from 1.
    """
    place = curve.claim.curve_index
    by_place = max(min(1, lowest) + (place or 0) * _points_of(curve), curve.used.get(table.stream, -1) + 1)
    named = table.slots > NO_IMAGE
    if place is None and named.any():
        by_image = int(np.median(seqs[named] - table.slots[named]))
        return by_image if abs(by_image - by_place) > 1 and 0 <= by_image <= seqs[0] else by_place
    return int(seqs[0]) if table.is_shared and place is None else by_place
