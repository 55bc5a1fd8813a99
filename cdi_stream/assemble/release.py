"""Release of a curve: the stage of its series, what a release needs at each stage, and the curve that is released."""

from __future__ import annotations

from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from cdi_stream.assemble.account import account_of, doubt_of_contradiction, doubt_of_second_puller, doubts_of_losses
from cdi_stream.assemble.join import Join
from cdi_stream.assemble.open_curve import OpenCurve
from cdi_stream.assemble.point_count import planned_points
from cdi_stream.assemble.settings import AssembleSettings
from cdi_stream.documents.run_context import context_of, context_without_documents
from cdi_stream.documents.run_record import RunRecord
from cdi_stream.messages import RockingCurve, RunContext, read_only

Track = NDArray[np.float64]
"""Values of one reading, one for each point."""


RECONNECTION_S = 3.0
"""Time [s] after a restart in which detector and bus connect again; a resumed series waits for it."""


class Stage(Enum):
    """Stage of a series, from its first message to its release."""

    MEASURING = auto()
    """Frames are expected; the curve is not released."""

    COMPLETE = auto()
    """All frames that the detector announced or the plan states came, or the stop document; the curve is released when
    frames and documents are complete."""

    ENDED = auto()
    """The series has ended and no late frame is expected; the curve is released when the documents are complete."""

    OVER = auto()
    """A waiting time is over; the curve is released with what there is."""


def stage_of(curve: OpenCurve, run: RunRecord | None, now_s: float, settings: AssembleSettings) -> Stage:
    """Return the stage of a series at ``now_s`` (monotonic) [s]; ``run`` is its run as far as it is known."""
    quiet_s = now_s - curve.series.last_s
    is_waiting = now_s - curve.resumed_s < RECONNECTION_S
    if quiet_s >= settings.idle_timeout_s and not is_waiting:
        return Stage.OVER
    is_ended = curve.series.ended_s is not None and quiet_s >= settings.late_grace_s
    has_stopped = run is not None and run.stop is not None
    has_plan = 0 < curve.series.n_received == planned_points(curve.claim, run)
    if not (is_ended or has_stopped or curve.has_all_frames or has_plan):
        return Stage.MEASURING
    if quiet_s >= settings.reading_timeout_s and not is_waiting:
        return Stage.OVER
    return Stage.ENDED if is_ended else Stage.COMPLETE


def is_ready(stage: Stage, joined: Join, *, has_frames: bool) -> bool:
    """Whether a curve can be released; ``has_frames``: every point has its frame."""
    match stage:
        case Stage.MEASURING:
            return False
        case Stage.COMPLETE:
            return joined.is_settled and has_frames
        case Stage.ENDED:
            return joined.is_settled
        case Stage.OVER:
            return True


def run_context(curve: OpenCurve, run: RunRecord | None, copied_keys: tuple[str, ...]) -> RunContext:
    """Return the context of a curve's run; without documents only its uid is known."""
    if run is None:
        return context_without_documents(curve.uid_of(None), is_claimed=curve.claim.run_uid is not None)
    return context_of(run, copied_keys)


def rocking_curve(
    curve: OpenCurve,
    run: RunRecord | None,
    joined: Join,
    settings: AssembleSettings,
    *,
    doubts: tuple[str, ...],
    n_orphans: int,
) -> RockingCurve:
    """Return the curve that is released, with all doubts about it.

    Parameters
    ----------
    curve, run, joined
        Series, its run, and the points with their frames and readings.
    settings
        Names of the monitor and of the copied keys.
    doubts
        Doubts about the series and about the choice of the run.
    n_orphans
        Number of documents since the series began whose run has no start document.
    """
    series = curve.series
    counts, has_frame = series.take(joined.slots)
    n_unreadable = 0 if has_frame.all() else curve.n_unreadable
    monitor, doubts_of_monitor = _monitor(joined, settings.monitor)
    losses = doubts_of_losses(run, n_orphans, n_unreadable) + doubt_of_second_puller(series)
    losses += doubt_of_contradiction(series)
    return RockingCurve(
        key=curve.key,
        series=series.start,
        run=run_context(curve, run, settings.copied_keys),
        curve_index=curve.curve_index or 0,
        counts=read_only(counts),
        sentinel=series.sentinel,
        has_frame=read_only(has_frame),
        scanned=joined.scanned,
        monitor=monitor,
        exposure_s=series.exposures_s(joined.slots),
        account=account_of(series, joined.slots),
        doubts=doubts + losses + doubts_of_monitor + joined.doubts,
        notes=joined.notes,
        complete_s=series.last_frame_s,
        image_ids=read_only(joined.slots),
    )


def _monitor(joined: Join, name: str | None) -> tuple[Track | None, tuple[str, ...]]:
    """Return the values of the monitor, None if they cannot be used, and the doubt about them."""
    if not name:
        return None, ()
    monitor = joined.scanned.get(name)
    if monitor is None or not np.all(monitor > 0):
        return None, (f"monitor {name!r} is missing or not above zero: it is not used",)
    return monitor, ()
