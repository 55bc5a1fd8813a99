"""Assembler: combines the frames and documents of each series into a rocking curve, complete or with its doubts.

Frames and documents arrive in any order on separate sockets.  A curve is released when every point of the scan has its
reading and its frame; else, after the waiting times, with what there is.  With a folder for open series, a series
outlives the process: the next process goes on with its frames and documents.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import numpy as np

from cdi_stream.assemble.account import account_of
from cdi_stream.assemble.incoming import Incoming
from cdi_stream.assemble.join import Join, join
from cdi_stream.assemble.open_curve import OpenCurve
from cdi_stream.assemble.open_curves import OpenCurves
from cdi_stream.assemble.partial import due_fraction, partial_curve, points_ahead
from cdi_stream.assemble.release import Stage, is_ready, rocking_curve, run_context, stage_of
from cdi_stream.assemble.run_match import RunMatch, find_run
from cdi_stream.assemble.settings import AssembleSettings
from cdi_stream.assemble.unseen import unseen_series
from cdi_stream.documents.readings import series_key
from cdi_stream.documents.run_record import RunRecord
from cdi_stream.documents.runs import NEW_RUN_KINDS, RunBook
from cdi_stream.errors import WireError
from cdi_stream.messages import CurveProgress, Document, PartialCurve, RockingCurve, WireMessage
from cdi_stream.stream.frame_log import Decode

logger = logging.getLogger(__name__)

T = TypeVar("T")

READ_EVERY_S = 0.2
"""Shortest time [s] between two readings of a file that grows."""


class Assembler:
    """Takes wire messages and documents; `poll` returns the curves that are ready.

    Parameters
    ----------
    settings
        Waiting times, limits and names.
    clock, wall_clock
        Monotonic time [s], and seconds since the epoch.
    incoming
        Folder of the open series; None keeps them in memory only.
    """

    def __init__(
        self,
        settings: AssembleSettings,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        incoming: Incoming | None = None,
    ) -> None:
        self.book = RunBook(wall_clock, settings.names)
        self._settings = settings
        self._clock = clock
        self._wall_clock = wall_clock
        self._incoming = incoming
        self._curves = OpenCurves(settings, self.book, clock, wall_clock, incoming)
        self._n_curves: dict[str, int] = {}
        self._used: dict[str, dict[str, int]] = {}
        self._known_runs: set[str] = set()
        self._resumed_runs: set[str] = set()
        self._heard_s: dict[str, float] = {}
        self._seen: dict[str, set[str]] = {}
        self._readings: dict[str, tuple[float, str | None]] = {}

    @property
    def n_stale(self) -> int:
        """Number of messages of the detector that belong to no series."""
        return self._curves.n_stale

    def on_document(self, name: str, doc: Document) -> None:
        """Take one Bluesky document; raises `WireError` if it cannot be used."""
        received_s = self._wall_clock()
        if name in NEW_RUN_KINDS:  # a new run may push an old one out of the book, but none of an open curve
            self.book.pinned = {run.uid for curve in self._curves if (run := self._match(curve).run)}
        run_uid = self.book.on_document(name, doc, received_s)
        if name != "event":  # no event renames or ends a run
            self._follow_uids()
        if run_uid is not None and run_uid not in self._resumed_runs:
            self._heard_s[run_uid] = self._clock()
        if self._incoming is not None and run_uid is not None:
            self._incoming.keep_document(run_uid, name, doc, received_s)
            if name == "start" and self.book.uids != self._known_runs:
                self._known_runs = self.book.uids
                self._incoming.forget_runs(self._known_runs)

    def on_message(self, message: WireMessage) -> None:
        """Take one message of the detector.

        A series without a start message is opened while a run is open that may name it.  Without such a run, and
        after the end of the series, its messages are counted as stale and dropped.

        Raises
        ------
        WireError
            If a frame does not fit its series.
        """
        self._curves.on_message(message)

    def on_unreadable(self) -> None:
        """Note that a message could not be decoded: each open series may lack a frame because of it."""
        for curve in self._curves:
            curve.n_unreadable += 1

    def resume(self, is_published: Callable[[str], bool], decode: Decode) -> int:
        """Go on with the series that an earlier process left; return their number.

        ``is_published`` tells whether the reconstruction of a curve is published, by the curve's key; ``decode`` reads
        messages of the detector.
        """
        if self._incoming is None:
            return 0
        for name, doc, received_s in self._incoming.documents():
            try:
                self.book.on_document(name, doc, received_s)
            except WireError as error:
                logger.warning("a document on disk cannot be used and is left out: %s", error)
        self._resumed_runs = self.book.uids  # whose series may have come to the earlier process
        for saved in self._incoming.saved_series():
            if is_published(saved.key):
                self._incoming.discard(saved.key)
            else:
                self._curves.restore(saved, decode)
        return len(self._curves)

    def poll(self) -> list[RockingCurve]:
        """Return the curves that are released now: complete, or after their waiting time."""
        self._open_unseen()
        curves = list(self._curves)
        ready = [self._attempt(curve, partial(self._try_release, curve), self._curves.give_up) for curve in curves]
        return [curve for curve in ready if curve is not None]

    def _open_unseen(self) -> None:
        """Open a curve for each series that a run names, of which no frame came while its documents could come."""
        silent = [uid for uid, s in self._heard_s.items() if self._clock() - s >= self._settings.idle_timeout_s]
        for uid in silent:
            del self._heard_s[uid]
            run = self.book.runs.get(uid)
            if run is None or not run.names_series:
                continue
            curves = [curve for curve in self._curves if self._match(curve).run is run]
            seen = self._seen.get(uid, set()).union(*(_names(curve) for curve in curves))
            for names in unseen_series(run, seen):
                self._curves.open_unseen(names, run)

    def open_runs(self) -> dict[str, str]:
        """Return the uid of the run of each open series, by the key of the series."""
        return {curve.key: curve.uid_of(run) for curve, run in self._curves_with_runs()}

    def progress(self) -> list[CurveProgress]:
        """Return the progress of each open curve."""
        return [self._progress(curve, run) for curve, run in self._curves_with_runs()]

    def partial_curves(self) -> list[PartialCurve]:
        """Return the frames so far of each open curve that has reached its next fraction, of a preview or of work."""
        partial_curves = [self._attempt(curve, partial(self._due, curve), lambda _: None) for curve in self._curves]
        return [curve for curve in partial_curves if curve is not None]

    def _due(self, curve: OpenCurve) -> PartialCurve | None:
        """Return the frames of a curve so far if they reached a fraction, each of them once; a preview goes first."""
        match = self._match(curve)
        n_points = points_ahead(curve, match.run)
        if not n_points:
            return None
        so_far = curve.series.n_received / n_points
        preview = due_fraction(so_far, self._settings.preview_fractions, curve.preview_fraction)
        ahead = due_fraction(so_far, self._settings.ahead_fractions, curve.ahead_fraction)
        curve.preview_fraction, curve.ahead_fraction = preview or curve.preview_fraction, ahead or curve.ahead_fraction
        fraction = ahead if preview is None else preview
        if fraction is None:
            return None
        self._positions_problem(match.run)  # reads the positions so far
        if self._assign_index(curve, match.run):
            self._curves.save(curve)
        joined = self._join(curve, match, Stage.OVER)
        is_preview = preview is not None
        return partial_curve(curve, match.run, joined, self._settings, fraction, n_points, is_preview=is_preview)

    def _curves_with_runs(self) -> Iterator[tuple[OpenCurve, RunRecord | None]]:
        """Yield the open curves with their runs, except headless curves that no run names so far."""
        for curve in self._curves:
            run = self._match(curve).run
            if run is not None or not curve.is_headless:
                yield curve, run

    def _progress(self, curve: OpenCurve, run: RunRecord | None) -> CurveProgress:
        if self._assign_index(curve, run):
            self._curves.save(curve)
        return CurveProgress(
            key=curve.key,
            series=curve.series.id,
            run=run_context(curve, run, self._settings.copied_keys),
            curve_index=curve.curve_index or 0,
            account=account_of(curve.series, np.arange(max(curve.n_announced, curve.series.n_slots))),
        )

    def _match(self, curve: OpenCurve, *, is_over: bool = False) -> RunMatch:
        return find_run(curve.series, curve.claim, self.book, is_over=is_over)

    def _last_match(self, curve: OpenCurve) -> RunMatch:
        """Return the run of a curve whose waiting time is over; a run without a uid gets the one that is claimed."""
        match, claim = self._match(curve, is_over=True), curve.claim
        is_nameless = match.by == "series" and match.run is not None and not match.run.is_uid_known
        if match.run is None or not is_nameless or not claim.is_firm or claim.run_uid is None:
            return match
        if claim.run_uid in self.book.uids:
            return match
        self.book.name_unknown(match.run, claim.run_uid)
        self._follow_uids()
        return self._match(curve, is_over=True)

    def _follow_uids(self) -> None:
        """Keep what is known of runs under their present uids, and forget it with the run."""
        self._n_curves, self._used = self._by_uid_now(self._n_curves), self._by_uid_now(self._used)
        self._heard_s, self._seen = self._by_uid_now(self._heard_s), self._by_uid_now(self._seen)

    def _attempt(
        self, curve: OpenCurve, compute: Callable[[], T | None], on_error: Callable[[OpenCurve], None]
    ) -> T | None:
        """Return what ``compute`` makes of a curve; after an error call ``on_error`` and return None."""
        try:
            return compute()
        except Exception:  # border of a curve: the other curves go on
            logger.exception("series %s cannot be assembled; please report it", curve.series.id)
            on_error(curve)
            return None

    def _try_release(self, curve: OpenCurve) -> RockingCurve | None:
        """Return the curve if its stage and its documents allow a release; drop frames that belong to no run."""
        series, now_s = curve.series, self._clock()
        match = self._match(curve)
        stage = stage_of(curve, match.run, now_s, self._settings)
        if stage is Stage.OVER or self._is_forsaken(curve, match):
            stage, match = Stage.OVER, self._last_match(curve)
        if curve.is_headless and self._is_foreign(curve, match, stage):
            self._curves.drop(curve)
            return None
        is_named_later = stage is not Stage.OVER and match.run is not None and not match.run.is_uid_known
        if stage is Stage.MEASURING or is_named_later:  # the stop document will name the run
            return None
        problem = self._positions_problem(match.run, is_over=stage is Stage.OVER)
        if problem is not None and stage is not Stage.OVER:
            return None
        joined = self._join(curve, match, stage)
        has_frames = bool(np.isin(joined.slots, series.image_ids).all()) and len(joined.slots) > 0
        if not is_ready(stage, joined, has_frames=has_frames):
            return None
        doubts = curve.doubts + match.doubts
        if problem is not None:
            doubts += (f"positions of the run cannot be read: {problem}",)
        quiet_s = now_s - series.last_s
        if quiet_s >= self._settings.idle_timeout_s and not has_frames:
            doubts += (f"no message for {quiet_s:.0f} s: the end of the series was lost",)
        return self._release(curve, match.run, joined, doubts)

    def _positions_problem(self, run: RunRecord | None, *, is_over: bool = False) -> str | None:
        """Read positions that a run's documents name in files; return why some are not read so far, None if all are.

        Files are read at most every `READ_EVERY_S`, and once more when the waiting time ``is_over``.
        """
        if run is None or not run.positions:
            return None
        read_s, problem = self._readings.get(run.uid, (-READ_EVERY_S, None))
        if self._clock() - read_s < READ_EVERY_S and not is_over:
            return problem or "they are read in a moment"
        problem = self.book.read_positions(run)
        self._readings = self._by_uid_now(self._readings | {run.uid: (self._clock(), problem)})
        return problem

    def _is_forsaken(self, curve: OpenCurve, match: RunMatch) -> bool:
        """Whether a curve without a start message waits in vain: no run names its series, and none is open."""
        if not curve.is_headless or match.run is not None or self.book.newest_open() is not None:
            return False
        age_s, quiet_s = self._wall_clock() - curve.series.wall_s, self._clock() - curve.series.last_s
        is_old = age_s >= self._settings.reading_timeout_s and quiet_s >= self._settings.late_grace_s
        return is_old or age_s >= self._settings.idle_timeout_s

    def _is_foreign(self, curve: OpenCurve, match: RunMatch, stage: Stage) -> bool:
        """Whether a curve without a start message is the end of an earlier series: no run, or one with a curve."""
        if stage is not Stage.OVER or match.run is None:
            return stage is Stage.OVER
        others = (self._match(other).run for other in self._curves if other is not curve)
        has_curve = match.run.uid in self._n_curves or any(run is match.run for run in others)
        return match.by == "time" and has_curve

    def _by_uid_now(self, by_uid: dict[str, T]) -> dict[str, T]:
        """Return values by the present uid of their run, without those of forgotten runs."""
        now = {self.book.uid_now(uid): value for uid, value in by_uid.items()}
        return {uid: value for uid, value in now.items() if uid in self.book.runs}

    def _join(self, curve: OpenCurve, match: RunMatch, stage: Stage) -> Join:
        return join(
            curve.series,
            curve.claim,
            match,
            is_over=stage is Stage.OVER,
            motors=self._settings.motors,
            offset_s=self.book.clock_offset_s,
            used=self._used.get(match.run.uid) if match.run is not None else None,
        )

    def _release(self, curve: OpenCurve, run: RunRecord | None, joined: Join, doubts: tuple[str, ...]) -> RockingCurve:
        if run is not None and joined.used is not None:
            stream, last_seq = joined.used
            self._used.setdefault(run.uid, {})[stream] = last_seq
        if run is not None:
            self._seen.setdefault(run.uid, set()).update(_names(curve))
        self._assign_index(curve, run)
        n_orphans = self.book.orphans.total() - curve.n_orphans
        released = rocking_curve(curve, run, joined, self._settings, doubts=doubts, n_orphans=n_orphans)
        self._curves.save(curve)
        self._curves.close(curve)
        return released

    def _assign_index(self, curve: OpenCurve, run: RunRecord | None) -> bool:
        """Set the place of a curve in its run: as claimed, else by the order of the series; false if already set."""
        if curve.curve_index is not None:
            return False
        if curve.claim.curve_index is not None:
            curve.curve_index = curve.claim.curve_index
            return False  # read from the claim again after a restart
        if run is None:
            return False
        indices = {other.curve_index for other in self._curves if self._match(other).run is run}
        next_index = max((index + 1 for index in indices if index is not None), default=0)
        curve.curve_index = max(self._n_curves.get(run.uid, 0), next_index)
        self._n_curves[run.uid] = curve.curve_index + 1
        return True


def _names(curve: OpenCurve) -> set[str]:
    """Return the texts of the ids of a curve's series."""
    return set(map(series_key, curve.series.parts or (curve.series.id,)))
