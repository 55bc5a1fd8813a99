"""Number of points of a curve, from statements that may contradict one another.

The claim in ``user_data``, the plan's ``num_points``, the stop document, the detector's header, the events and the
frames each state a number.  If they differ, the largest possible number counts, so that the curve lacks the other
points and says so; exceptions are the rules in `CountRule`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from cdi_stream.assemble.points import PointTable
from cdi_stream.documents.claim import Claim, claim_with_plan
from cdi_stream.documents.readings import whole
from cdi_stream.documents.run_record import RunRecord
from cdi_stream.stream.series import Series


@dataclass(frozen=True, slots=True, kw_only=True)
class PointCount:
    """Number of points of a curve, with the doubts and notes about it."""

    n: int
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class CountRule(Enum):
    """Rule by which the number of points of a curve follows from the statements."""

    CLAIMED = auto()
    """``user_data`` states the number: it counts."""

    PART_OF_RUN = auto()
    """The run has several curves: numbers of the whole run do not count."""

    EVENTS = auto()
    """The run is complete and has more frames than events: the additional frames belong to points measured again."""

    FRAMES_AND_EVENTS = auto()
    """The run is complete with as many frames as events, but the detector announced more images."""

    LARGEST = auto()
    """All other cases: the largest possible number counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statements:
    """Numbers of points that header, plan, stop document and events state; 0 for none or an impossible number."""

    announced: int
    planned: int
    counted: int
    n_events: int

    @property
    def n_of_run(self) -> int:
        """Largest number that the documents state."""
        return max(self.planned, self.counted, self.n_events)


def count_points(series: Series, claim: Claim, run: RunRecord | None, table: PointTable | None) -> PointCount:
    """Return the number of points of the curve; ``table`` holds its events, None without readings."""
    said = _statements(series, run, table)
    n_run = said.n_of_run
    match _rule(series, claim, run, table, said):
        case CountRule.CLAIMED:
            n_claimed = claim.n_points or 0
            return PointCount(n=_within(series, n_claimed), doubts=_doubt_of_abort(run, n_claimed, said.n_events))
        case CountRule.PART_OF_RUN:
            n_seen = series.n_slots if said.n_events else 0
            n = _within(series, max(said.announced, said.n_events, n_seen) or series.n_slots)
        case CountRule.EVENTS:
            return PointCount(n=n_run)
        case CountRule.FRAMES_AND_EVENTS:
            text = f"the detector announced {said.announced} images, the run had {n_run} points and as many frames came"
            if said.planned == n_run:
                return PointCount(n=n_run, notes=(text,))
            return PointCount(n=_within(series, said.announced), doubts=(text,))
        case CountRule.LARGEST:
            n = _within(series, max(n_run, said.announced)) or series.n_slots
    return PointCount(n=n, doubts=_doubt_of_abort(run, n, said.n_events))


def planned_points(claim: Claim, run: RunRecord | None) -> int:
    """Return the number of points of a curve that ``user_data`` or the plan states; 0 if neither states one."""
    if run is None:
        return claim.n_points or 0
    claim = claim_with_plan(claim, run)
    planned = whole(run.start.get("num_points")) if claim.curve_index is None else None
    return claim.n_points or planned or 0


def _statements(series: Series, run: RunRecord | None, table: PointTable | None) -> _Statements:
    n_events = 0 if table is None else len(table)
    counted = _possible(series, None if run is None or table is None else run.n_events_counted(table.stream))
    return _Statements(
        announced=_possible(series, series.start.n_images),
        planned=_possible(series, None if run is None else whole(run.start.get("num_points"))),
        counted=n_events if table is not None and table.is_array else counted,
        n_events=n_events,
    )


def _rule(
    series: Series, claim: Claim, run: RunRecord | None, table: PointTable | None, said: _Statements
) -> CountRule:
    """Return the rule that fits the statements; ``said`` are those of header and documents."""
    if claim.n_points:
        return CountRule.CLAIMED
    if claim.curve_index is not None or (table is not None and table.is_shared):
        return CountRule.PART_OF_RUN
    is_regular = run is not None and run.stop is not None and not run.is_aborted
    if not is_regular or not 0 < said.n_of_run == said.counted == said.n_events:
        return CountRule.LARGEST
    if series.n_received > said.n_of_run:
        return CountRule.EVENTS
    if said.announced > said.n_of_run == series.n_received:
        return CountRule.FRAMES_AND_EVENTS
    return CountRule.LARGEST


def _possible(series: Series, n: int | None) -> int:
    """Return a stated number of points; 0 if there is none, or more than images of this size can be."""
    return n if n is not None and 0 < n <= series.capacity else 0


def _within(series: Series, n: int) -> int:
    """Return a stated number of points, or the number of slots if more than images of this size can be."""
    return n if n <= series.capacity else series.n_slots


def _doubt_of_abort(run: RunRecord | None, n: int, n_events: int) -> tuple[str, ...]:
    if run is None or not run.is_aborted:
        return ()
    status = str((run.stop or {}).get("exit_status"))[:20]
    return (f"the run ended with exit_status {status!r} after {n_events} of {n} points",)
