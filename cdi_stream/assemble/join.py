"""Join a series to its run and its frames to their readings: by id, with the doubts stated.

A run is found by the uid that the plan wrote into the detector's ``user_data``, else by the series id in the run's
events, else by time.  Frames are joined to events by the image id in the event, else by their numbers, else by their
times (`alignment`).  Readings come from the stream that tells most of the points (`points`), else from the goniometer
of the wire.

How many points a curve has is told by several: the claim, the run's ``num_points``, its stop document, the detector's
header, the events and the frames.  Where they differ, none is believed in silence: the largest that is possible
counts, so that the curve lacks the rest and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cdi_stream.assemble.alignment import align, is_in_time
from cdi_stream.assemble.points import Curve, PointTable, best_table
from cdi_stream.documents.claim import Claim
from cdi_stream.documents.readings import finite, series_key, whole
from cdi_stream.documents.runs import RunBook, RunRecord
from cdi_stream.inversion.tracks import fill_missing
from cdi_stream.stream.series import Series

Ids = NDArray[np.intp]

OPEN_SLACK_S = 2.0
"""A run may seem to begin so much after its first frame, or to end before it: clocks are compared by documents."""

EVENT_SLACK_S = 5.0
"""Events that were heard so long before the first message of a series are those of another one."""

REUSE_S = 60.0
"""Detectors begin to count anew when they restart: a series id in the events of a run that has been over for so long
when the series begins is the id of another series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMatch:
    """The run of a series, and by what it was found; ``doubts`` say what speaks against it."""

    run: RunRecord | None
    by: Literal["uid", "series", "time", "nothing"]
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Points of a curve in scan order: slot of each frame (-1 unknown) and readings of each.

    ``is_settled`` is true when no further document can change the answer.  ``used`` is the stream whose points were
    taken and the number of the last, where the events do not name their series: they are no other curve's.
    """

    slots: Ids
    scanned: Mapping[str, NDArray[np.float64]]
    is_settled: bool
    used: tuple[str, int] | None = None
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Count:
    """Number of points of a curve, what speaks against it, and what is only told."""

    n: int
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


# --- which run ----------------------------------------------------------------------------------------------------


def find_run(series: Series, claim: Claim, book: RunBook, *, is_over: bool = False) -> RunMatch:
    """Find the run of a series; ``is_over``: no further documents are waited for."""
    claimed = None if claim.run_uid is None else book.runs.get(claim.run_uid)
    if claimed is not None and (claimed.stop_heard_s or np.inf) >= series.wall_s - OPEN_SLACK_S:
        return RunMatch(run=claimed, by="uid")
    if claim.run_uid is not None and claimed is None and claim.is_firm and not is_over:
        return RunMatch(run=None, by="nothing")
    match = _by_series(series, book, is_over=is_over) or (None if claim.is_named else _by_time(series, book))
    match = match or RunMatch(run=None, by="nothing")
    if claimed is not None:  # what a detector was told for an earlier scan stays there until it is told anew
        text = f"user_data names run {claimed.uid:.60}, which was over before the series began"
        run, by = (claimed, "uid") if match.run is None and is_over else (match.run, match.by)
        return RunMatch(run=run, by=by, doubts=(text, *match.doubts))
    if claim.run_uid is None or not claim.is_firm:
        return match
    instead = "no other run fits" if match.run is None else f"joined by {match.by} instead"
    doubt = f"user_data names run {claim.run_uid:.60}, whose documents were not heard: {instead}"
    return replace(match, doubts=(doubt, *match.doubts))


def _by_series(series: Series, book: RunBook, *, is_over: bool) -> RunMatch | None:
    """Find the run whose events name the series, whatever its clock says; two that do are told apart by receipt.

    Events that were heard before the series' first message are those of another series of that id, unless nothing more
    is waited for.
    """
    key = series_key(series.id)
    named = book.that_name(key)
    live = [run for run in named if run.named_s(key) >= series.wall_s - EVENT_SLACK_S]
    doubts: tuple[str, ...] = ()
    if not live and is_over:
        live = [run for run in named if (run.stop_heard_s or np.inf) + REUSE_S >= series.wall_s][-1:]
        doubts = (f"the events that name series {series.id} came before its first message",) if live else ()
    if not live:
        return None
    if len(live) > 1:
        doubts = (f"{len(live)} runs name series {series.id}: the newest is taken",)
    return RunMatch(run=live[-1], by="series", doubts=doubts)


def _by_time(series: Series, book: RunBook) -> RunMatch:
    """Find the one run that was open when the series began, times of documents brought to this machine's clock."""
    during = [run for run in book.runs.values() if _was_open(run, series.wall_s, book.clock_offset_s)]
    since_s = series.wall_s - EVENT_SLACK_S
    telling = [run for run in during if any(run.n_heard(stream, since_s) > 1 for stream, _ in run.streams)]
    if len(during) > 1 and len(telling) == 1:
        text = f"{len(during)} runs were open at the time of the series: the only one with several events is taken"
        return RunMatch(run=telling[0], by="time", doubts=(text,))
    if len(during) == 1:
        return RunMatch(run=during[0], by="time")
    text = f"{len(during)} runs were open at the time of the series, and none names it: none is taken"
    return RunMatch(run=None, by="nothing", doubts=(text,) if during else ())


def _was_open(run: RunRecord, wall_s: float, offset_s: float) -> bool:
    began_s = _in_our_clock(run.start, run.heard_s, offset_s)
    ended_s = np.inf if run.stop is None else _in_our_clock(run.stop, run.stop_heard_s or np.inf, offset_s)
    return began_s - OPEN_SLACK_S <= wall_s <= ended_s + OPEN_SLACK_S


def _in_our_clock(doc: Mapping[str, object], heard_s: float, offset_s: float) -> float:
    sent_s = finite(doc.get("time"))
    return heard_s if sent_s is None else min(heard_s, sent_s + offset_s)


# --- which points -------------------------------------------------------------------------------------------------


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
    """Join frames and readings as far as the documents have come.

    Parameters
    ----------
    series, claim, match
        Frames, what ``user_data`` says, and the run.
    is_over
        Whether no further documents are waited for.
    motors
        Data keys of the circles and of the energy: the readings that place frames.
    offset_s
        Time to add to the documents' times to have them by this machine's clock.
    used
        Number of the last point of each stream that an earlier curve of the run has.
    """
    run = match.run
    is_last = is_over or (run is not None and run.stop is not None)
    table = None if run is None else best_table(run, _curve(series, claim, run, offset_s, used or {}), motors)
    count = _count(series, claim, run, table)
    if table is None or (_has_several_frames_a_point(series, table, run) and is_last):
        return _by_goniometer(series, claim, match, table, count, is_last=is_last, is_over=is_over)
    if len(table) < count.n and not is_last:
        return Join(slots=np.arange(count.n), scanned={}, is_settled=False)
    return _by_table(series, match, table, count, is_last)


def _by_table(series: Series, match: RunMatch, table: PointTable, count: _Count, is_last: bool) -> Join:
    rows, doubts = _rows_of_places(table, count.n)
    aligned = align(series, table, rows)
    doubts += count.doubts + aligned.doubts
    notes = count.notes + aligned.notes
    if match.by == "time":
        is_certain = not doubts and len(table) == series.n_received and is_in_time(series, table, aligned.slots)
        text = "joined to the run by time, since neither user_data nor the events name the series"
        doubts, notes = (doubts, (*notes, f"{text}: frames and events fit")) if is_certain else ((*doubts, text), notes)
    unclaimed = np.setdiff1d(series.image_ids, aligned.slots)
    return Join(
        slots=aligned.slots,
        scanned={key: _on_points(track, rows) for key, track in table.readings.items()},
        is_settled=is_last or (len(unclaimed) == 0 and len(table) >= count.n),
        used=None if table.names_series else (table.stream, table.last_seq),
        doubts=doubts,
        notes=notes,
    )


def _by_goniometer(
    series: Series,
    claim: Claim,
    match: RunMatch,
    table: PointTable | None,
    count: _Count,
    *,
    is_last: bool,
    is_over: bool,
) -> Join:
    """Place frames by the axes of the wire's header; without them, say why there are no readings."""
    run, n = match.run, count.n if table is None else max(count.n, series.n_slots)
    ids = np.arange(n)
    axes = {k: (start + step * ids).astype(np.float64) for k, (start, step) in series.start.goniometer.items()}
    reason = "no events" if table is None else f"{series.n_slots} frames for {len(table)} events"
    text = f"readings from the detector's goniometer: {reason}" if axes else _why_no_reading(series, run, table)
    is_alone = run is None and claim.run_uid is None and bool(axes)
    is_complete = n > series.n_slots or series.ended_s is not None or is_over  # without a count the end alone tells
    return Join(
        slots=ids,
        scanned=axes,
        is_settled=is_alone or (is_last and is_complete),
        doubts=(*count.doubts, text),
        notes=count.notes,
    )


def _why_no_reading(series: Series, run: RunRecord | None, table: PointTable | None) -> str:
    if table is not None:
        return (
            f"{series.n_slots} frames for {len(table)} events: several frames a point need an angle each, as an array "
            "in the event or as the detector's goniometer"
        )
    if run is not None and run.n_external:
        return (
            f"no readings for any frame: the run's {run.n_external} StreamDatum or Datum documents name data "
            "elsewhere, which is not read; record the rocking motor in events"
        )
    return "no readings for any frame"


def _has_several_frames_a_point(series: Series, table: PointTable, run: RunRecord | None) -> bool:
    """Whether the detector took more than one frame for each event, no event being lost."""
    n_events = None if run is None else run.counted(table.stream)
    is_whole = n_events is None or n_events == len(table)
    return not table.is_array and not table.has_ids and is_whole and series.n_slots >= 2 * max(len(table), 1)


def _rows_of_places(table: PointTable, n: int) -> tuple[Ids, tuple[str, ...]]:
    """Return the table's row of each point, -1 where its event is missing, and the doubts that this leaves."""
    inside = (table.places >= 0) & (table.places < n)
    rows = np.full(n, -1, dtype=np.intp)
    rows[table.places[inside]] = np.flatnonzero(inside)
    doubts: tuple[str, ...] = ()
    if not inside.all():
        odd = int(table.places[~inside][0])
        doubts += (
            f"{int((~inside).sum())} events are numbered beyond the {n} points of the scan (place {odd}): left out",
        )
    lost = int((rows < 0).sum())
    if lost:
        doubts += (f"{lost} of {n} events are missing: readings of their frames are interpolated",)
    return rows, doubts


def _on_points(track: NDArray[np.float64], rows: Ids) -> NDArray[np.float64]:
    """Bring a reading to the points; those without an event lie on the line through their neighbours."""
    values = np.full(len(rows), np.nan)
    has_row = rows >= 0
    values[has_row] = track[rows[has_row]]
    return np.where(has_row, values, fill_missing(values))


# --- how many points ----------------------------------------------------------------------------------------------


def _curve(series: Series, claim: Claim, run: RunRecord, offset_s: float, used: Mapping[str, int]) -> Curve:
    frames = (claim.n_points, series.start.n_images, series.n_slots)
    points = (*frames, whole(run.start.get("num_points")))
    return Curve(
        series=series_key(series.id),
        claim=claim,
        frame_counts=frozenset(n for n in frames if n is not None and 0 < n <= series.capacity),
        counts=frozenset(n for n in points if n is not None and 0 < n <= series.capacity),
        first_id=series.first_id,
        offset_s=offset_s,
        since_s=series.wall_s - EVENT_SLACK_S,
        used=used,
    )


def _count(series: Series, claim: Claim, run: RunRecord | None, table: PointTable | None) -> _Count:
    """Return the number of points that make the curve.

    As claimed; else the largest of plan, stop document, header, events and frames, as far as no further points of
    the run can be meant.
    """
    n_rows = 0 if table is None else len(table)
    announced = _possible(series, series.start.n_images)
    if claim.n_points:
        return _Count(n=_within(series, claim.n_points), doubts=_aborted(run, claim.n_points, n_rows))
    if claim.curve_index is not None or (table is not None and table.has_points_of_its_own):
        n = _within(series, max(announced, n_rows, series.n_slots if n_rows else 0) or series.n_slots)
        return _Count(n=n, doubts=_aborted(run, n, n_rows))
    planned = _possible(series, None if run is None else whole(run.start.get("num_points")))
    counted = _possible(series, None if run is None or table is None else run.counted(table.stream))
    if table is not None and table.is_array:
        counted = n_rows
    told = max(planned, counted, n_rows)
    is_whole = run is not None and run.stop is not None and not run.is_aborted and 0 < told == counted == n_rows
    if is_whole and series.n_received > told:  # each point has its event: the other frames are of points taken again
        return _Count(n=told)
    if is_whole and announced > told == series.n_received:
        text = f"the detector announced {announced} images, the run had {told} points and as many frames came"
        if planned == told:
            return _Count(n=told, notes=(text,))
        return _Count(n=_within(series, announced), doubts=(text,))
    n = _within(series, max(told, announced)) or series.n_slots
    return _Count(n=n, doubts=_aborted(run, n, n_rows))


def _possible(series: Series, n: int | None) -> int:
    """Return a number of points that was told, 0 where no detector of this size could have meant it."""
    return n if n is not None and 0 < n <= series.capacity else 0


def _within(series: Series, n: int) -> int:
    """Return what was announced, unless no detector of this size could have meant it: then what was seen."""
    return n if n <= series.capacity else series.n_slots


def _aborted(run: RunRecord | None, n: int, n_rows: int) -> tuple[str, ...]:
    if run is None or not run.is_aborted:
        return ()
    status = str((run.stop or {}).get("exit_status"))[:20]
    return (f"the run ended with exit_status {status!r} after {n_rows} of {n} points",)
