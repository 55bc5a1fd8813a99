"""Join the frames of a series to the readings of its run, with the doubts about it.

Frames are joined to events by the image id in the event, else by their numbers, else by their times (`alignment`).
Readings come from the stream that has most of the points (`points`), else from the goniometer in the detector's header.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from cdi_stream.assemble.alignment import align, is_in_time
from cdi_stream.assemble.point_count import PointCount, count_points
from cdi_stream.assemble.points import Curve, PointTable, best_table
from cdi_stream.assemble.run_match import EVENT_SLACK_S, RunMatch
from cdi_stream.documents.claim import Claim, claim_with_plan
from cdi_stream.documents.readings import series_key, whole
from cdi_stream.documents.run_record import RunRecord
from cdi_stream.inversion.tracks import fill_missing
from cdi_stream.stream.series import UNNAMED, Series

Ids = NDArray[np.intp]
"""Slots or rows, one for each point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Points of a curve in scan order.

    Parameters
    ----------
    slots
        ``(n,)``: slot of each point's frame, -1 where unknown.
    scanned
        Readings by data key, each ``(n,)``.
    is_settled
        Whether no further document can change the result.
    used
        Stream of the points and sequence number of the last one, where the events name no series: a later curve of the
        run begins behind it.
    doubts, notes
        Doubts lower the verdict; notes only inform.
    """

    slots: Ids
    scanned: Mapping[str, NDArray[np.float64]]
    is_settled: bool
    used: tuple[str, int] | None = None
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Documents(Enum):
    """State of the documents of a run when its points are joined."""

    EXPECTED = auto()
    """Further documents may come."""

    STOPPED = auto()
    """The stop document came: further documents of the run are only late."""

    OVER = auto()
    """No further documents are waited for."""


class Source(Enum):
    """Source of the readings of a curve."""

    EVENTS = auto()
    """Events of the run."""

    GONIOMETER = auto()
    """Header of the detector; it may state nothing, and then there are no readings."""

    LATER = auto()
    """Unknown: events are missing that may still come."""


def join(
    series: Series,
    claim: Claim,
    match: RunMatch,
    *,
    is_over: bool,
    motors: frozenset[str] = frozenset(),
    offset_s: float = 0.0,
    used: Mapping[str, int] | None = None,
) -> Join:
    """Return the points of a curve with their frames and readings, as far as the documents have come.

    Parameters
    ----------
    series, claim, match
        Frames, statement of ``user_data``, and run.
    is_over
        Whether no further documents are waited for.
    motors
        Data keys of the circles and of the energy, which place the frames in reciprocal space.
    offset_s
        Time to add to a document's time to have it by this machine's clock [s].
    used
        By stream, the sequence number of the last point that belongs to an earlier curve of the run.
    """
    run = match.run
    claim = claim_with_plan(claim, run)
    documents = _documents(run, is_over=is_over)
    table = None if run is None else best_table(run, _curve(series, claim, run, offset_s, used or {}), motors)
    count = count_points(series, claim, run, table)
    source = _source(series, run, table, count, documents)
    if table is None or source is Source.GONIOMETER:
        return _by_goniometer(series, claim, run, table, count, documents)
    if source is Source.LATER:
        return Join(slots=np.arange(count.n), scanned={}, is_settled=False)
    return _by_table(series, match, table, count, documents)


def _documents(run: RunRecord | None, *, is_over: bool) -> Documents:
    if is_over:
        return Documents.OVER
    return Documents.STOPPED if run is not None and run.stop is not None else Documents.EXPECTED


def _source(
    series: Series, run: RunRecord | None, table: PointTable | None, count: PointCount, documents: Documents
) -> Source:
    """Return the source of the readings of a curve with ``count`` points; ``table`` holds its events."""
    is_last = documents is not Documents.EXPECTED
    if table is None or (is_last and _has_several_frames_a_point(series, table, run)):
        return Source.GONIOMETER
    return Source.EVENTS if is_last or len(table) >= count.n else Source.LATER


def _by_table(series: Series, match: RunMatch, table: PointTable, count: PointCount, documents: Documents) -> Join:
    """Return the points from the events of a run."""
    rows, doubts = _rows_of_places(table, count.n)
    aligned = align(series, table, rows)
    doubts += count.doubts + aligned.doubts
    notes = count.notes + aligned.notes
    if match.by == "time":
        is_certain = not doubts and len(table) == series.n_received and is_in_time(series, table, aligned.slots)
        text = "joined to the run by time, since neither user_data nor the events name the series"
        doubts, notes = (doubts, (*notes, f"{text}: frames and events fit")) if is_certain else ((*doubts, text), notes)
    unclaimed = np.setdiff1d(series.image_ids, aligned.slots)
    is_complete = len(unclaimed) == 0 and len(table) >= count.n
    return Join(
        slots=aligned.slots,
        scanned={key: _on_points(track, rows) for key, track in table.readings.items()},
        is_settled=is_complete or documents is not Documents.EXPECTED,
        used=None if table.names_series else (table.stream, table.last_seq),
        doubts=doubts,
        notes=notes,
    )


def _by_goniometer(
    series: Series,
    claim: Claim,
    run: RunRecord | None,
    table: PointTable | None,
    count: PointCount,
    documents: Documents,
) -> Join:
    """Return the points from the axes in the detector's header; without axes, a doubt why there are no readings.

    In a run only the axes that move count: a detector states 0 for an axis that nobody has set.
    """
    n = count.n if table is None else max(count.n, series.n_slots)
    ids = np.arange(n)
    stated = series.start.goniometer.items()
    axes = {k: (start + step * ids).astype(np.float64) for k, (start, step) in stated if step or run is None}
    reason = "no events" if table is None else f"{series.n_slots} frames for {len(table)} events"
    text = f"readings from the detector's goniometer: {reason}" if axes else _why_no_reading(series, run, table)
    return Join(
        slots=ids,
        scanned=axes,
        is_settled=_is_settled_without_events(series, claim, run, n, documents, has_axes=bool(axes)),
        doubts=(*count.doubts, text),
        notes=count.notes,
    )


def _is_settled_without_events(
    series: Series, claim: Claim, run: RunRecord | None, n: int, documents: Documents, *, has_axes: bool
) -> bool:
    """Whether no further document can change the points that the detector's header places."""
    if run is None and claim.run_uid is None and has_axes:
        return True  # no run is named: the header is all that there is
    match documents:
        case Documents.EXPECTED:
            return False
        case Documents.STOPPED:  # if no count is known, only the end of the series tells the number of points
            return n > series.n_slots or series.ended_s is not None
        case Documents.OVER:
            return True


def _why_no_reading(series: Series, run: RunRecord | None, table: PointTable | None) -> str:
    if table is not None:
        return (
            f"{series.n_slots} frames for {len(table)} events: several frames a point need an angle each, as an array "
            "in the event or as the detector's goniometer"
        )
    if run is not None and run.n_external:
        return (
            f"no readings for any frame: the run's {run.n_external} StreamDatum or Datum documents name images only; "
            "record the rocking motor in events or in a position dataset with one number a frame"
        )
    return "no readings for any frame"


def _has_several_frames_a_point(series: Series, table: PointTable, run: RunRecord | None) -> bool:
    """Whether the detector took more than one frame for each event; false if events were lost."""
    n_events = None if run is None else run.n_events_counted(table.stream)
    is_whole = n_events is None or n_events == len(table)
    return not table.is_array and not table.has_ids and is_whole and series.n_slots >= 2 * max(len(table), 1)


def _rows_of_places(table: PointTable, n: int) -> tuple[Ids, tuple[str, ...]]:
    """Return the table's row of each of ``n`` points, -1 where its event is missing, and the doubts about it."""
    inside = (table.places >= 0) & (table.places < n)
    rows = np.full(n, -1, dtype=np.intp)
    rows[table.places[inside]] = np.flatnonzero(inside)
    doubts: tuple[str, ...] = ()
    if not inside.all():
        odd = int(table.places[~inside][0])
        doubts += (
            f"{int((~inside).sum())} events are numbered beyond the {n} points of the scan (place {odd}): left out",
        )
    n_lost = int((rows < 0).sum())
    if n_lost:
        doubts += (f"{n_lost} of {n} events are missing: readings of their frames are interpolated",)
    return rows, doubts


def _on_points(track: NDArray[np.float64], rows: Ids) -> NDArray[np.float64]:
    """Return a reading for each point; for points without an event it is interpolated between their neighbours."""
    values = np.full(len(rows), np.nan)
    has_row = rows >= 0
    values[has_row] = track[rows[has_row]]
    return np.where(has_row, values, fill_missing(values))


def _curve(series: Series, claim: Claim, run: RunRecord, offset_s: float, used: Mapping[str, int]) -> Curve:
    """Return the facts that select the points of a curve from the streams of its run."""
    frames = (claim.n_points, series.start.n_images, series.n_slots)
    points = (*frames, whole(run.start.get("num_points")))
    return Curve(
        series=frozenset(
            name for name in map(series_key, series.parts or (series.id,)) if not name.startswith(UNNAMED)
        ),
        slots={series_key(part): slot for part, slot in series.parts.items()},
        claim=claim,
        frame_counts=frozenset(n for n in frames if n is not None and 0 < n <= series.capacity),
        counts=frozenset(n for n in points if n is not None and 0 < n <= series.capacity),
        first_id=series.first_id,
        offset_s=offset_s,
        since_s=series.wall_s - EVENT_SLACK_S,
        used=used,
    )
