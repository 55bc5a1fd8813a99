"""The run of a series: found by the uid in the detector's ``user_data``, by the series id in events, or by time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cdi_stream.documents.claim import Claim
from cdi_stream.documents.readings import finite, series_key
from cdi_stream.documents.run_record import RunRecord
from cdi_stream.documents.runs import RunBook
from cdi_stream.stream.series import Series

OPEN_SLACK_S = 2.0
"""Tolerance [s] when the beginning and end of a run are compared with the first frame of a series.

The clocks of detector and plan are compared through the documents only, so that a run may seem to begin a little after
its first frame, or to end a little before it."""

EVENT_SLACK_S = 5.0
"""Time [s] before the first message of a series; events that were received earlier belong to another series."""

REUSE_S = 60.0
"""Time [s] after the end of a run from which on a series of the same id is another series.

Detectors count their series from 1 again when they are restarted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMatch:
    """Run of a series, None if unknown; the property by which it was found; the doubts about it."""

    run: RunRecord | None
    by: Literal["uid", "series", "time", "nothing"]
    doubts: tuple[str, ...] = ()


def find_run(series: Series, claim: Claim, book: RunBook, *, is_over: bool = False) -> RunMatch:
    """Return the run of a series; ``is_over``: no further documents are waited for."""
    claimed = None if claim.run_uid is None else book.runs.get(book.uid_now(claim.run_uid))
    if claimed is not None and (claimed.stop_received_s or np.inf) >= series.wall_s - OPEN_SLACK_S:
        return RunMatch(run=claimed, by="uid")
    if claim.run_uid is not None and claimed is None and claim.is_firm and not is_over:
        return RunMatch(run=None, by="nothing")
    is_unheard = claim.is_firm and claimed is None  # then no earlier run is its run, only one that was wrongly named
    match = _by_series(series, book, is_over=is_over and not is_unheard) or RunMatch(run=None, by="nothing")
    if match.run is None and (is_over or not claim.is_named):
        has_no_other = claim.is_named or is_unheard
        runs = _runs_naming_no_series(series, book) if has_no_other else list(book.runs.values())
        match = _by_time(series, runs, book.clock_offset_s)
    if claimed is not None:  # a detector keeps its user_data until the next plan sets it
        text = f"user_data names run {claimed.uid:.60}, which was over before the series began"
        run, by = (claimed, "uid") if match.run is None and is_over else (match.run, match.by)
        return RunMatch(run=run, by=by, doubts=(text, *match.doubts))
    if claim.run_uid is None or not claim.is_firm:
        return match
    instead = "no other run fits" if match.run is None else f"joined by {match.by} instead"
    doubt = f"user_data names run {claim.run_uid:.60}, whose documents were not received: {instead}"
    return replace(match, doubts=(doubt, *match.doubts))


def _by_series(series: Series, book: RunBook, *, is_over: bool) -> RunMatch | None:
    """Return the run whose events name the series; of several such runs the newest, with a doubt.

    Events that were received before the first message of the series belong to an earlier series of the same id.  They
    are used only if no further documents are waited for.
    """
    key = series_key(series.id)
    runs = book.runs_naming(key)
    live = [run for run in runs if run.last_named_s(key) >= series.wall_s - EVENT_SLACK_S]
    doubts: tuple[str, ...] = ()
    if not live and is_over:
        live = [run for run in runs if (run.stop_received_s or np.inf) + REUSE_S >= series.wall_s][-1:]
        doubts = (f"the events that name series {series.id} came before its first message",) if live else ()
    if not live:
        return None
    if len(live) > 1:
        doubts = (f"{len(live)} runs name series {series.id}: the newest is taken",)
    return RunMatch(run=live[-1], by="series", doubts=doubts)


def _runs_naming_no_series(series: Series, book: RunBook) -> list[RunRecord]:
    """Return the runs with events since a series began of which none names a series."""
    since_s = series.wall_s - EVENT_SLACK_S
    since = [run for run in book.runs.values() if any(run.n_received(stream, since_s) for stream, _ in run.streams)]
    return [run for run in since if not run.names_series]


def _by_time(series: Series, runs: list[RunRecord], offset_s: float) -> RunMatch:
    """Return the only one of ``runs`` that was open when the series began, or the only one with several events."""
    during = [run for run in runs if _was_open(run, series.wall_s, offset_s)]
    since_s = series.wall_s - EVENT_SLACK_S
    measuring = [run for run in during if any(run.n_received(stream, since_s) > 1 for stream, _ in run.streams)]
    if len(during) > 1 and len(measuring) == 1:
        text = f"{len(during)} runs were open at the time of the series: the only one with several events is taken"
        return RunMatch(run=measuring[0], by="time", doubts=(text,))
    if len(during) == 1:
        return RunMatch(run=during[0], by="time")
    text = f"{len(during)} runs were open at the time of the series, and no run names it: none is taken"
    return RunMatch(run=None, by="nothing", doubts=(text,) if during else ())


def _was_open(run: RunRecord, wall_s: float, offset_s: float) -> bool:
    """Whether a run was open at ``wall_s`` [s since the epoch]; ``offset_s`` is added to the times of documents."""
    began_s = _in_our_clock(run.start, run.received_s, offset_s)
    ended_s = np.inf if run.stop is None else _in_our_clock(run.stop, run.stop_received_s or np.inf, offset_s)
    return began_s - OPEN_SLACK_S <= wall_s <= ended_s + OPEN_SLACK_S


def _in_our_clock(doc: Mapping[str, object], received_s: float, offset_s: float) -> float:
    """Return the time of a document by this machine's clock [s since the epoch], at most its time of receipt."""
    sent_s = finite(doc.get("time"))
    return received_s if sent_s is None else min(received_s, sent_s + offset_s)
