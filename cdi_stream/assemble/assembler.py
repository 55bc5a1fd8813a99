"""Assemble: a state machine for each series that ends in a rocking curve, complete or saying what it lacks.

Frames and documents arrive in any order on separate sockets.  A curve is released when every point of the scan has
its reading and its frame; else, after the stated times, with what there is.  With a folder for what is under way, a
series outlives the process: the next one goes on with the frames and documents that were there.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import numpy as np

from cdi_stream.assemble.account import account_of, doubt_of_theft, doubts_of_losses
from cdi_stream.assemble.incoming import Incoming, SavedSeries
from cdi_stream.assemble.join import Join, RunMatch, find_run, join
from cdi_stream.documents.claim import Claim, read_claim
from cdi_stream.documents.readings import ReadingNames
from cdi_stream.documents.run_context import context_of, unheard_context
from cdi_stream.documents.runs import RunBook, RunRecord
from cdi_stream.errors import WireError
from cdi_stream.messages import (
    Box,
    CurveProgress,
    DetectorFrame,
    RockingCurve,
    RunContext,
    SeriesEnd,
    SeriesId,
    SeriesStart,
    WireMessage,
    read_only,
)
from cdi_stream.stream.frame_log import Decode, FrameLog
from cdi_stream.stream.series import Series, SeriesLimits

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembleSettings:
    """How long to wait for what [s].

    ``late_grace_s`` for frames after a series' end, ``reading_timeout_s`` for documents after the last
    frame, ``idle_timeout_s`` without any message before a series counts as abandoned.  ``roi`` is where frames are
    cut, for series whose header never came.  ``motors`` are the data keys of circles and energy, ``max_total_bytes``
    the room for the frames of all open series together.
    """

    late_grace_s: float = 0.5
    reading_timeout_s: float = 10.0
    idle_timeout_s: float = 120.0
    limits: SeriesLimits = field(default_factory=SeriesLimits)
    max_total_bytes: int = 16 << 30
    monitor: str | None = None
    roi: Box | None = None
    motors: frozenset[str] = frozenset()
    names: ReadingNames = field(default_factory=ReadingNames)
    copied_keys: tuple[str, ...] = ()


class Stage(Enum):
    """How far a series has come."""

    MEASURING = auto()
    COMPLETE = auto()
    """As many frames as announced are there, or the series has ended, or its run has: released if all fits."""
    OVER = auto()
    """Nothing more is waited for: released as it is."""


@dataclass(slots=True, kw_only=True)
class _OpenCurve:
    """A series under way.

    ``is_headless``: no start message was seen; ``run_uid``: the run that was open then, for frames of no series;
    ``n_orphans``: documents of unknown runs that had come when it began; ``n_unreadable``: messages that could not be
    decoded since.
    """

    key: str
    series: Series
    claim: Claim
    n_announced: int
    is_headless: bool = False
    run_uid: str | None = None
    is_superseded: bool = False
    curve_index: int | None = None
    doubts: tuple[str, ...] = ()
    n_orphans: int = 0
    n_unreadable: int = 0
    saved: SavedSeries | None = None


class Assembler:
    """Feeds on wire messages and documents; `poll` releases the curves that are ready.

    ``clock`` gives monotonic seconds, ``wall_clock`` seconds since the epoch.  ``incoming`` is the folder of what is
    under way; without it frames lie in memory.
    """

    def __init__(
        self,
        settings: AssembleSettings,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        incoming: Incoming | None = None,
    ) -> None:
        self.book = RunBook(wall_clock, settings.names)
        self.n_stale = 0
        self._settings = settings
        self._clock = clock
        self._wall_clock = wall_clock
        self._incoming = incoming
        self._open: dict[SeriesId, _OpenCurve] = {}
        self._closed: OrderedDict[SeriesId, float] = OrderedDict()
        self._told: deque[SeriesId | None] = deque(maxlen=1000)
        self._n_curves: dict[str, int] = {}
        self._used: dict[str, dict[str, int]] = {}
        self._n_aborted = 0
        self._n_keys = 0
        self._known_runs: set[str] = set()

    # --- what comes in --------------------------------------------------------------------------------------------

    def on_document(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one Bluesky document; raises `WireError` if it cannot be used."""
        heard_s = self._wall_clock()
        self.book.pinned = {run.uid for curve in self._open.values() if (run := self._match(curve).run)}
        run_uid = self.book.on_document(name, doc, heard_s)
        if self._incoming is not None and run_uid is not None:
            self._incoming.keep_document(run_uid, name, doc, heard_s)
            if name == "start" and self.book.runs.keys() != self._known_runs:
                self._known_runs = set(self.book.runs)
                self._incoming.forget_runs(self._known_runs)

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
                self._save(curve)
            elif message.series not in self._closed:  # the end of a complete curve comes after its release
                self._drop_stale(message.series)
        elif (curve := self._curve_of(message, now)) is None:
            self._drop_stale(message.series)
        else:
            curve.series.add(message, now)

    def on_unreadable(self) -> None:
        """Note that a message came which could not be decoded: an open series may lack a frame by it."""
        for curve in self._open.values():
            curve.n_unreadable += 1

    def resume(self, is_published: Callable[[str], bool], decode: Decode) -> int:
        """Go on with the series that an earlier process left; returns their number.

        ``is_published`` tells whether the reconstruction of a curve is out, by its key; ``decode`` reads the parts of a
        message of the detector.
        """
        if self._incoming is None:
            return 0
        for name, doc, heard_s in self._incoming.documents():
            try:
                self.book.on_document(name, doc, heard_s)
            except WireError as error:
                logger.warning("a document that was kept cannot be used: %s", error)
        for saved in self._incoming.left():
            if is_published(saved.key):
                self._incoming.discard(saved.key)
            else:
                self._adopt(saved, self._incoming.frame_log(saved.key), decode)
        return len(self._open)

    # --- what comes out -------------------------------------------------------------------------------------------

    def poll(self) -> list[RockingCurve]:
        """Release every curve that is complete, or whose time has run out."""
        ready = [self._release_or_drop(curve) for curve in list(self._open.values())]
        return [curve for curve in ready if curve is not None]

    def open_runs(self) -> dict[str, str]:
        """Return the uid of the run of each open series, by the series' key; cheap enough for every message."""
        return {curve.key: _run_uid(curve, run) for curve, run in self._wanted()}

    def progress(self) -> list[CurveProgress]:
        """Return how far each open curve has come."""
        return [self._progress(curve, run) for curve, run in self._wanted()]

    def _wanted(self) -> Iterator[tuple[_OpenCurve, RunRecord | None]]:
        """Yield the open curves with their runs, without the tails of scans that are nobody's so far."""
        for curve in self._open.values():
            run = self._match(curve).run
            if run is not None or not curve.is_headless:
                yield curve, run

    def _progress(self, curve: _OpenCurve, run: RunRecord | None) -> CurveProgress:
        return CurveProgress(
            key=curve.key,
            series=curve.series.id,
            run=self._context(curve, run),
            curve_index=self._index(curve, run),
            account=account_of(curve.series, np.arange(max(curve.n_announced, curve.series.n_slots))),
        )

    # --- beginning ------------------------------------------------------------------------------------------------

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
                if not 0 < curve.n_announced <= curve.series.n_received:
                    curve.doubts += ("series aborted: the detector began another one",)
                self._save(curve)
        claim = read_claim(start.user_data)
        n = min(claim.n_points or start.n_images or 0, self._settings.limits.max_images)
        curve = known or self._new_curve(start, now, claim)
        curve.series.start, curve.claim, curve.n_announced, curve.is_headless = start, claim, n, False
        curve.doubts = ()
        self._open[start.series] = curve
        self._save(curve)

    def _new_curve(self, start: SeriesStart, now: float, claim: Claim) -> _OpenCurve:
        wall_s = self._wall_clock()
        self._n_keys += 1
        key = f"{self._n_keys}" if self._incoming is None else self._incoming.new_key(start.series, wall_s)
        log = None if self._incoming is None else self._incoming.frame_log(key)
        series = Series(start, self._settings.limits, now, wall_s, log, self._has_room)
        return _OpenCurve(key=key, series=series, claim=claim, n_announced=0, n_orphans=self.book.orphans.total())

    def _has_room(self, n_bytes: int) -> bool:
        """Whether the open series together may grow by so much."""
        held = sum(curve.series.n_bytes for curve in self._open.values())
        return held + n_bytes <= self._settings.max_total_bytes

    def _adopt(self, saved: SavedSeries, log: FrameLog | None, decode: Decode) -> None:
        """Go on with a series of an earlier process."""
        now = self._clock()
        series = Series(saved.start, self._settings.limits, now, self._wall_clock(), has_room=self._has_room)
        series.wall_s, series.first_id = saved.wall_s, saved.first_id
        if log is not None:
            series.restore(log, decode)
        series.duplicate, series.late, series.bad = saved.duplicate, saved.late, saved.bad
        if saved.is_ended:
            series.end(now)
        curve = _OpenCurve(
            key=saved.key,
            series=series,
            claim=Claim(run_uid=saved.run_uid, is_firm=True) if saved.run_uid else read_claim(saved.start.user_data),
            n_announced=saved.n_announced,
            is_headless=saved.is_headless,
            run_uid=saved.run_uid,
            curve_index=saved.curve_index,
            doubts=saved.doubts,
        )
        name = saved.start.series if saved.start.series not in self._open else f"{saved.start.series} ({saved.key})"
        self._open[name] = curve
        logger.info("series %s: going on with the %d frames that were there", saved.start.series, series.n_received)

    def _curve_of(self, frame: DetectorFrame, now: float) -> _OpenCurve | None:
        """Return the curve that a frame belongs to; one whose start was not seen is opened while a run is."""
        if frame.series is None:
            return self._nameless(frame, now)
        curve = self._open.get(frame.series)
        newest = self.book.runs.get(self.book.newest_open() or "")
        is_new = newest is not None and self._closed.get(frame.series, -np.inf) < newest.heard_s
        if curve is None and is_new:  # a run that began after the series of that name was over has another one
            curve = self._headless(frame.series, now, Claim(is_named=True))
            curve.doubts += (f"the start of series {frame.series} was not seen: its header is unknown",)
            self._save(curve)
        return curve

    def _nameless(self, frame: DetectorFrame, now: float) -> _OpenCurve | None:
        """Return the curve of a stream that knows no series: one a run, a new one when the count of frames falls."""
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
        curve = self._headless(f"unnamed {self._wall_clock():.3f}", now, Claim(run_uid=run_uid, is_firm=True))
        curve.series.first_id, curve.run_uid = frame.image_id, run_uid
        self._save(curve)
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
        curve = self._new_curve(SeriesStart(series=series_id, roi=self._settings.roi), now, claim)
        curve.is_headless = True
        self._open[series_id] = curve
        return curve

    def _drop_stale(self, series: SeriesId | None) -> None:
        self.n_stale += 1
        if series not in self._told and series not in self._closed:
            self._told.append(series)
            if self.n_stale <= 20 or self.n_stale % 1000 == 0:  # a flood of them must not drown the log
                text = "series %s: its start was not seen and no run is open; its messages are dropped (%d so far)"
                logger.warning(text, series, self.n_stale)

    def _match(self, curve: _OpenCurve, *, is_over: bool = False) -> RunMatch:
        return find_run(curve.series, curve.claim, self.book, is_over=is_over)

    # --- release --------------------------------------------------------------------------------------------------

    def _release_or_drop(self, curve: _OpenCurve) -> RockingCurve | None:
        """Release a curve if it is ready; a curve that no code of ours can assemble must not hold up the others."""
        try:
            return self._try_release(curve)
        except Exception:  # border of a curve: the other curves go on
            logger.exception("series %s cannot be assembled and is given up; please report it", curve.series.id)
            self._close(curve)
            if self._incoming is not None:
                self._incoming.give_up(curve.key)
            return None

    def _stage(self, curve: _OpenCurve, run: RunRecord | None) -> Stage:
        series, settings = curve.series, self._settings
        quiet_s = self._clock() - series.last_s
        has_all = 0 < curve.n_announced <= series.n_received
        has_stopped = run is not None and run.stop is not None
        is_ended = self._is_ended(series)
        if quiet_s >= settings.idle_timeout_s:
            return Stage.OVER
        if not (has_all or is_ended or has_stopped):
            return Stage.MEASURING
        return Stage.OVER if quiet_s >= settings.reading_timeout_s else Stage.COMPLETE

    def _is_ended(self, series: Series) -> bool:
        return series.ended_s is not None and self._clock() - series.last_s >= self._settings.late_grace_s

    def _try_release(self, curve: _OpenCurve) -> RockingCurve | None:
        series = curve.series
        match = self._match(curve)
        stage = self._stage(curve, match.run)
        if stage is Stage.MEASURING:
            return None
        is_over = stage is Stage.OVER
        match = self._match(curve, is_over=True) if is_over else match
        if is_over and match.run is None and curve.is_headless:
            self._drain(curve)
            return None
        joined = join(
            series,
            curve.claim,
            match,
            is_over=is_over,
            motors=self._settings.motors,
            offset_s=self.book.clock_offset_s,
            used=self._used.get(match.run.uid) if match.run is not None else None,
        )
        has_frames = bool(np.isin(joined.slots, series.image_ids).all()) and len(joined.slots) > 0
        if not is_over and not (joined.is_settled and (has_frames or self._is_ended(series))):
            return None
        doubts = curve.doubts + match.doubts
        quiet_s = self._clock() - series.last_s
        if quiet_s >= self._settings.idle_timeout_s and not has_frames:
            doubts += (f"no message for {quiet_s:.0f} s: the end of the series was lost",)
        return self._release(curve, match.run, joined, doubts)

    def _drain(self, curve: _OpenCurve) -> None:
        """Let go of frames that were the tail of somebody else's scan."""
        self.n_stale += curve.series.n_received
        self._close(curve)
        if self._incoming is not None:
            self._incoming.discard(curve.key)
        logger.warning("series %s: no run names it; %d frames dropped", curve.series.id, curve.series.n_received)

    def _close(self, curve: _OpenCurve) -> None:
        key = next(key for key, value in self._open.items() if value is curve)
        del self._open[key]
        curve.series.close()
        self._closed[key] = self._wall_clock()
        while len(self._closed) > 1000:
            self._closed.popitem(last=False)

    def _release(self, curve: _OpenCurve, run: RunRecord | None, joined: Join, doubts: tuple[str, ...]) -> RockingCurve:
        series = curve.series
        counts, has_frame = series.take(joined.slots)
        if run is not None and joined.used is not None:
            self._used = {uid: used for uid, used in self._used.items() if uid in self.book.runs}
            self._used.setdefault(run.uid, {})[joined.used[0]] = joined.used[1]
        curve_index = self._index(curve, run)
        self._save(curve)
        self._close(curve)
        n_orphans = self.book.orphans.total() - curve.n_orphans
        n_unreadable = 0 if has_frame.all() else curve.n_unreadable
        doubts += doubts_of_losses(run, n_orphans, n_unreadable) + doubt_of_theft(series)
        monitor = joined.scanned.get(self._settings.monitor or "")
        if self._settings.monitor and (monitor is None or not np.all(monitor > 0)):
            doubts += (f"monitor {self._settings.monitor!r} is missing or not above zero: it is not used",)
            monitor = None
        return RockingCurve(
            key=curve.key,
            series=series.start,
            run=self._context(curve, run),
            curve_index=curve_index,
            counts=read_only(counts),
            sentinel=series.sentinel,
            has_frame=read_only(has_frame),
            scanned=joined.scanned,
            monitor=monitor,
            exposure_s=series.exposures_s(joined.slots),
            account=account_of(series, joined.slots),
            doubts=doubts + joined.doubts,
            notes=joined.notes,
            complete_s=series.last_frame_s,
        )

    def _context(self, curve: _OpenCurve, run: RunRecord | None) -> RunContext:
        if run is None:
            return unheard_context(_run_uid(curve, None), is_claimed=curve.claim.run_uid is not None)
        return context_of(run, self._settings.copied_keys)

    def _index(self, curve: _OpenCurve, run: RunRecord | None) -> int:
        """Return the place of the curve in its run: as claimed, else in the order in which series began."""
        if curve.curve_index is None:
            if curve.claim.curve_index is not None:
                curve.curve_index = curve.claim.curve_index
            elif run is not None:
                taken = {other.curve_index for other in self._open.values() if self._match(other).run is run}
                curve.curve_index = max(
                    self._n_curves.get(run.uid, 0), max((n + 1 for n in taken if n is not None), default=0)
                )
                self._n_curves[run.uid] = curve.curve_index + 1
                self._n_curves = {uid: n for uid, n in self._n_curves.items() if uid in self.book.runs}
                self._save(curve)
        return curve.curve_index or 0

    def _save(self, curve: _OpenCurve) -> None:
        """Describe a series beside its frames, so that another process could go on with it."""
        if self._incoming is None:
            return
        series = curve.series
        self._incoming.save(
            SavedSeries(
                key=curve.key,
                start=series.start,
                wall_s=series.wall_s,
                first_id=series.first_id,
                n_announced=curve.n_announced,
                is_headless=curve.is_headless,
                run_uid=curve.run_uid,
                curve_index=curve.curve_index,
                is_ended=series.ended_s is not None,
                duplicate=series.duplicate,
                late=series.late,
                bad=series.bad,
                doubts=curve.doubts,
            )
        )


def _run_uid(curve: _OpenCurve, run: RunRecord | None) -> str:
    """Return the run's uid; without a run the claimed one, else a name made of the series."""
    if run is not None:
        return run.uid
    return curve.claim.run_uid or f"series-{curve.series.id}-{int(curve.series.wall_s)}"
