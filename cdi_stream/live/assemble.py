"""Assemble: a state machine for each series that ends in a rocking curve, complete or saying what it lacks.

Frames and documents arrive in any order on separate sockets.  A curve is released when every point of the
scan has its reading and its frame; else, after the stated times, with what there is.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cdi_stream.live.join import Claim, Join, find_run, join, read_claim
from cdi_stream.live.runs import RunBook, RunRecord
from cdi_stream.live.series import Series, SeriesLimits
from cdi_stream.messages import (
    Box,
    BrokenCurve,
    CurveProgress,
    DetectorFrame,
    FrameAccount,
    RockingCurve,
    RunContext,
    SeriesEnd,
    SeriesId,
    SeriesStart,
    WireMessage,
    read_only,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembleSettings:
    """How long to wait for what [s].

    ``late_grace_s`` for frames after a series' end, ``reading_timeout_s`` for documents after the last
    frame, ``idle_timeout_s`` without any message before a series counts as abandoned.  ``roi`` is where frames are
    cut, for series whose header never came.
    """

    late_grace_s: float = 0.5
    reading_timeout_s: float = 10.0
    idle_timeout_s: float = 120.0
    limits: SeriesLimits = field(default_factory=SeriesLimits)
    monitor: str | None = None
    roi: Box | None = None


@dataclass(slots=True, kw_only=True)
class _OpenCurve:
    """``is_headless``: no start message was seen; ``run_uid``: the run that was open then, for frames of no series."""

    series: Series
    claim: Claim
    n_announced: int
    is_headless: bool = False
    run_uid: str | None = None
    is_superseded: bool = False
    curve_index: int | None = None
    doubts: tuple[str, ...] = ()


class Assembler:
    """Feeds on wire messages and documents; `poll` releases the curves that are ready.

    ``clock`` gives monotonic seconds, ``wall_clock`` seconds since the epoch.
    """

    def __init__(self, settings: AssembleSettings, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self.book = RunBook()
        self.n_stale = 0
        self._settings = settings
        self._clock = clock
        self._wall_clock = wall_clock
        self._open: dict[SeriesId, _OpenCurve] = {}
        self._closed: deque[SeriesId] = deque(maxlen=1000)
        self._told: deque[SeriesId | None] = deque(maxlen=1000)
        self._n_curves: dict[str, int] = {}
        self._n_aborted = 0

    def on_document(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one Bluesky document."""
        self.book.on_document(name, doc)

    def on_message(self, message: WireMessage) -> None:
        """Take one message of the detector.

        A series without a start message is taken while a run is open that may name it; otherwise, or when it is
        over, its messages are counted as stale and dropped.  Raises `WireError` if a frame does not fit its series.
        """
        now = self._clock()
        if isinstance(message, SeriesStart):
            self._begin(message, now)
        elif isinstance(message, SeriesEnd):
            if (curve := self._open.get(message.series)) is not None:
                curve.series.end(now)
            elif message.series not in self._closed:  # the end of a complete curve comes after its release
                self._drop_stale(message.series)
        elif (curve := self._curve_of(message, now)) is None:
            self._drop_stale(message.series)
        else:
            curve.series.add(message, now)

    def forget(self, series: SeriesId) -> None:
        """Drop what may still come of a series; its curve has been spoken for."""
        self._closed.append(series)

    def poll(self) -> list[RockingCurve]:
        """Release every curve that is complete, or whose time has run out."""
        ready = [self._release_or_drop(curve) for curve in list(self._open.values())]
        return [curve for curve in ready if curve is not None]

    def _release_or_drop(self, curve: _OpenCurve) -> RockingCurve | None:
        """Release a curve if it is ready; what no code of ours can make a curve of must not hold up the others."""
        try:
            return self._try_release(curve)
        except Exception:
            logger.exception("series %s cannot be assembled and is given up; please report it", curve.series.id)
            self._open = {key: other for key, other in self._open.items() if other is not curve}
            return None

    def open_runs(self) -> dict[SeriesId, str]:
        """Uid of the run of each open series: cheap enough to ask after every message."""
        return {curve.series.id: _run_uid(curve, run) for curve, run in self._wanted()}

    def progress(self) -> list[CurveProgress]:
        """How far each open curve has come."""
        return [self._progress(curve, run) for curve, run in self._wanted()]

    def _wanted(self) -> Iterator[tuple[_OpenCurve, RunRecord | None]]:
        """Open curves with their runs, without the tails of scans that are nobody's so far."""
        for curve in self._open.values():
            run = self._run_of(curve)
            if run is not None or not curve.is_headless:
                yield curve, run

    def _progress(self, curve: _OpenCurve, run: RunRecord | None) -> CurveProgress:
        return CurveProgress(
            series=curve.series.id,
            run=self._context(curve, run),
            curve_index=self._index(curve, run),
            account=_account(curve.series, np.arange(max(curve.n_announced, curve.series.n_slots))),
        )

    def interrupt(self, reason: str) -> list[BrokenCurve]:
        """Close every open curve unfinished."""
        broken = [
            BrokenCurve(series=p.series, run=p.run, curve_index=p.curve_index, account=p.account, reason=reason)
            for p in self.progress()
        ]
        self._closed.extend(self._open)
        self._open.clear()
        return broken

    def _begin(self, start: SeriesStart, now: float) -> None:
        """Open a series; a second start before any frame brings what the first one lacked."""
        known = self._open.get(start.series)
        if known is not None and known.series.n_received and not known.is_headless:
            self._n_aborted += 1
            self._open[f"{start.series} (aborted {self._n_aborted})"] = self._open.pop(start.series)
            known = None
        for curve in self._open.values():
            if curve.series.ended_s is None and curve is not known:
                curve.series.end(now)
                curve.doubts += ("series aborted: the detector began another one",)
        series = Series(start, self._settings.limits, now, self._wall_clock()) if known is None else known.series
        series.start = start
        claim = read_claim(start.user_data)
        n = min(claim.n_points or start.n_images or 0, self._settings.limits.max_images)
        place = None if known is None else known.curve_index
        self._open[start.series] = _OpenCurve(series=series, claim=claim, n_announced=n, curve_index=place)

    def _curve_of(self, frame: DetectorFrame, now: float) -> _OpenCurve | None:
        """Curve that a frame belongs to; one whose start was not seen is opened while a run is."""
        if frame.series is None:
            return self._nameless(frame, now)
        curve = self._open.get(frame.series)
        if curve is None and frame.series not in self._closed and self.book.newest_open() is not None:
            curve = self._headless(frame.series, now, Claim(is_named=True))
            curve.doubts += (f"the start of series {frame.series} was not seen: its header is unknown",)
        return curve

    def _nameless(self, frame: DetectorFrame, now: float) -> _OpenCurve | None:
        """Curve of a stream that knows no series: one for each run, a new one when the count of frames falls."""
        run_uid = self.book.newest_open()
        for curve in self._open.values():
            if curve.run_uid is None or curve.is_superseded:
                continue
            if run_uid in (curve.run_uid, None) and frame.image_id >= curve.series.first_id:
                return curve if self._is_in_time(curve, now) else None
            curve.series.end(now)
            curve.is_superseded = True
        if run_uid is None:
            return None
        curve = self._headless(f"unnamed {self._wall_clock():.3f}", now, Claim(run_uid=run_uid))
        curve.series.first_id, curve.run_uid = frame.image_id, run_uid
        return curve

    def _is_in_time(self, curve: _OpenCurve, now: float) -> bool:
        """Whether a frame may still belong to a run: a camera may run on for ever after it."""
        run = self.book.runs.get(curve.run_uid or "")
        if run is not None and run.stop is None:
            return True
        if curve.series.ended_s is None:
            curve.series.end(now)
        return now - (curve.series.ended_s or now) <= self._settings.late_grace_s

    def _headless(self, series_id: SeriesId, now: float, claim: Claim) -> _OpenCurve:
        start = SeriesStart(series=series_id, roi=self._settings.roi)
        series = Series(start, self._settings.limits, now, self._wall_clock())
        curve = _OpenCurve(series=series, claim=claim, n_announced=0, is_headless=True)
        self._open[series_id] = curve
        return curve

    def _drop_stale(self, series: SeriesId | None) -> None:
        self.n_stale += 1
        if series not in self._told and series not in self._closed:
            self._told.append(series)
            logger.warning("series %s: its start was not seen and no run is open; its messages are dropped", series)

    def _run_of(self, curve: _OpenCurve) -> RunRecord | None:
        return find_run(curve.series, curve.claim, self.book)[0]

    def _try_release(self, curve: _OpenCurve) -> RockingCurve | None:
        series, now = curve.series, self._clock()
        has_all = 0 < curve.n_announced <= series.n_received
        quiet = now - series.last_s
        is_ended = series.ended_s is not None and quiet >= self._settings.late_grace_s
        is_abandoned = quiet >= self._settings.idle_timeout_s
        run, doubts = find_run(series, curve.claim, self.book)
        has_stopped = run is not None and run.stop is not None
        is_over = is_abandoned or ((is_ended or has_all or has_stopped) and quiet >= self._settings.reading_timeout_s)
        if not (has_all or is_ended or has_stopped or is_over):
            return None
        if is_over and run is None and curve.is_headless:
            self._drain(curve)
            return None
        joined = join(series, curve.claim, run, is_over)
        has_frames = bool(np.isin(joined.image_ids, series.image_ids).all()) and len(joined.image_ids) > 0
        if not is_over and not (joined.is_settled and (has_frames or is_ended)):
            return None
        if is_abandoned and not has_frames:
            doubts += (f"no message for {quiet:.0f} s: the end of the series was lost",)
        return self._release(curve, run, joined, curve.doubts + doubts)

    def _drain(self, curve: _OpenCurve) -> None:
        """Let go of frames that were the tail of somebody else's scan."""
        self.n_stale += curve.series.n_received
        del self._open[curve.series.id]
        self._closed.append(curve.series.id)
        logger.warning("series %s: no run names it; %d frames dropped", curve.series.id, curve.series.n_received)

    def _release(self, curve: _OpenCurve, run: RunRecord | None, joined: Join, doubts: tuple[str, ...]) -> RockingCurve:
        series = curve.series
        counts, has_frame = series.take(joined.image_ids)
        key = next(key for key, value in self._open.items() if value is curve)
        del self._open[key]
        self._closed.append(key)
        if run is not None and (lost := run.missing_events()):
            doubts += (f"{lost} documents of the run were lost on the bus",)
        doubts += stolen(series)
        monitor = joined.scanned.get(self._settings.monitor or "")
        if self._settings.monitor and (monitor is None or not np.all(monitor > 0)):
            doubts += (f"monitor {self._settings.monitor!r} is missing or not above zero: it is not used",)
            monitor = None
        return RockingCurve(
            series=series.start,
            run=self._context(curve, run),
            curve_index=self._index(curve, run),
            counts=read_only(counts),
            sentinel=series.sentinel,
            has_frame=read_only(has_frame),
            scanned=joined.scanned,
            monitor=monitor,
            exposure_s=series.exposures_s(joined.image_ids),
            account=_account(series, joined.image_ids),
            doubts=doubts + joined.doubts,
            complete_s=series.last_frame_s,
        )

    def _context(self, curve: _OpenCurve, run: RunRecord | None) -> RunContext:
        if run is None:
            return RunContext(uid=_run_uid(curve, None), is_heard=curve.claim.run_uid is not None)
        return RunContext(
            uid=run.uid,
            scan_id=run.start.get("scan_id"),
            data_groups=tuple(run.start.get("data_groups", ())),
            readings=run.readings,
            units=run.units,
        )

    def _index(self, curve: _OpenCurve, run: RunRecord | None) -> int:
        """Place of the curve in its run: as claimed, else in the order in which series began."""
        if curve.curve_index is None:
            if curve.claim.curve_index is not None:
                curve.curve_index = curve.claim.curve_index
            elif run is not None:
                curve.curve_index = self._n_curves.get(run.uid, 0)
                self._n_curves[run.uid] = curve.curve_index + 1
                self._n_curves = {uid: n for uid, n in self._n_curves.items() if uid in self.book.runs}
        return curve.curve_index or 0


def _run_uid(curve: _OpenCurve, run: RunRecord | None) -> str:
    """The run's uid; without a run the claimed one, else a name made of the series."""
    if run is not None:
        return run.uid
    return curve.claim.run_uid or f"series-{curve.series.id}-{int(curve.series.wall_s)}"


def stolen(series: Series) -> tuple[str, ...]:
    """Doubt about a series of which every n-th frame came, and only those: a second PULL takes the others."""
    steps = np.diff(series.image_ids)
    step = int(np.median(steps)) if len(steps) > 3 else 1
    if step < 2 or np.mean(steps == step) < 0.8:
        return ()
    return (
        f"only every {step}. frame came: another PULL socket on the detector takes the others; put 'cdi-stream tee' "
        'between, or use socket = "sub"',
    )


def _account(series: Series, image_ids: np.ndarray) -> FrameAccount:
    """Account by place in the scan; a frame that a later event superseded counts as a duplicate."""
    has = np.isin(image_ids, series.image_ids)
    extra = series.n_received - int(np.isin(series.image_ids, image_ids).sum())
    return FrameAccount(
        expected=len(image_ids),
        received=int(has.sum()),
        missing=tuple(int(i) for i in np.flatnonzero(~has)),
        duplicate=series.duplicate + extra,
        late=series.late,
        bad=series.bad,
    )
