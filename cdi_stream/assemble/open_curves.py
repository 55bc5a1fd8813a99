"""The open curves of the assembler: opened by messages of the detector, kept on disk, closed after their release."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from cdi_stream.assemble.headers import Headers
from cdi_stream.assemble.incoming import Incoming, SavedSeries
from cdi_stream.assemble.open_curve import OpenCurve, restore_curve
from cdi_stream.assemble.run_match import find_run
from cdi_stream.assemble.settings import AssembleSettings
from cdi_stream.documents.claim import Claim, read_claim
from cdi_stream.documents.run_record import RunRecord
from cdi_stream.documents.runs import RunBook
from cdi_stream.messages import DetectorFrame, SeriesEnd, SeriesId, SeriesStart, WireMessage
from cdi_stream.stream.frame_log import Decode, FrameLog
from cdi_stream.stream.series import UNNAMED, Series
from cdi_stream.stream.volumes import VolumePool

logger = logging.getLogger(__name__)

MAX_CLOSED = 1000
"""Number of closed series that are remembered, so that their late messages are recognised."""


IDLE_SHARE = 8
"""Part of the memory of all open series that is kept for the next series: one eighth."""


class OpenCurves:
    """Collection of the open curves; iterates over them in the order in which they were opened.

    ``n_stale`` counts messages that belong to no series.

    Parameters
    ----------
    settings
        Limits and waiting times.
    book
        Runs whose documents were received.
    clock, wall_clock
        Monotonic time [s], and seconds since the epoch.
    incoming
        Folder of the open series; None keeps them in memory only.
    """

    def __init__(
        self,
        settings: AssembleSettings,
        book: RunBook,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        incoming: Incoming | None,
    ) -> None:
        self.n_stale = 0
        self._settings = settings
        self._book = book
        self._clock = clock
        self._wall_clock = wall_clock
        self._incoming = incoming
        self._open: dict[SeriesId, OpenCurve] = {}
        self._parts: dict[SeriesId, OpenCurve] = {}
        self._closed: OrderedDict[SeriesId, float] = OrderedDict()
        self._stale_series: deque[SeriesId | None] = deque(maxlen=1000)
        self._headers = Headers(settings.roi, incoming)
        self._volumes = VolumePool(settings.max_total_bytes // IDLE_SHARE)
        self._n_aborted = 0
        self._n_keys = 0

    def __iter__(self) -> Iterator[OpenCurve]:
        """Yield the open curves."""
        return iter(self._open.values())

    def __len__(self) -> int:
        """Return the number of open curves."""
        return len(self._open)

    def on_message(self, message: WireMessage) -> None:
        """Take one message of the detector; raises `WireError` if a frame does not fit its series."""
        now_s = self._clock()
        if isinstance(message, SeriesStart):
            self._begin(message, now_s)
        elif isinstance(message, SeriesEnd):
            if (curve := self._parts.get(message.series) or self._open.get(message.series)) is not None:
                if not self._may_gather(curve):
                    curve.series.end(now_s)
                    self.save(curve)
            elif message.series not in self._closed:  # the end of a complete curve comes after its release
                self._drop_stale(message.series)
        elif (curve := self._curve_of(message, now_s)) is None:
            self._drop_stale(message.series)
        else:
            curve.series.add(message, now_s)

    def restore(self, saved: SavedSeries, decode: Decode) -> None:
        """Open a series of an earlier process again; ``decode`` reads the messages in its frame log."""
        now_s = self._clock()
        series = self._new_series(saved.start, now_s, self._wall_clock(), None)
        series.wall_s, series.first_id = saved.wall_s, saved.first_id
        series.parts = {part: slot for slot, part in enumerate(saved.parts)}
        log = None if self._incoming is None else self._incoming.frame_log(saved.key)
        if log is not None:
            series.restore(log, decode)
        series.duplicate, series.late, series.bad = saved.duplicate, saved.late, saved.bad
        series.contradictory = saved.contradictory
        if saved.is_ended:
            series.end(series.last_s)
        name = saved.start.series if saved.start.series not in self._open else f"{saved.start.series} ({saved.key})"
        self._open[name] = restore_curve(saved, series, now_s)
        self._parts |= dict.fromkeys(saved.parts[1:], self._open[name])
        logger.info("series %s: resumed with the %d frames on disk", saved.start.series, series.n_received)

    def save(self, curve: OpenCurve) -> None:
        """Write the description of a curve next to its frames, so that another process can go on with it."""
        if self._incoming is not None:
            self._incoming.save(curve.description())

    def close(self, curve: OpenCurve) -> None:
        """Remove a curve; its files stay until its reconstruction is published."""
        name = next(name for name, value in self._open.items() if value is curve)
        del self._open[name]
        self._parts = {part: value for part, value in self._parts.items() if value is not curve}
        curve.series.close()
        self._closed |= dict.fromkeys([name, *curve.series.parts], self._wall_clock())
        while len(self._closed) > MAX_CLOSED:
            self._closed.popitem(last=False)

    def drop(self, curve: OpenCurve) -> None:
        """Remove a curve and its files: its frames are the last ones of a scan that no run names."""
        self.n_stale += curve.series.n_received
        self.close(curve)
        if self._incoming is not None:
            self._incoming.discard(curve.key)
        logger.warning("series %s: no run names it; %d frames dropped", curve.series.id, curve.series.n_received)

    def give_up(self, curve: OpenCurve) -> None:
        """Remove a curve that cannot be assembled, and put its files aside."""
        self.close(curve)
        if self._incoming is not None:
            self._incoming.give_up(curve.key)

    def open_unseen(self, names: tuple[str, ...], run: RunRecord) -> None:
        """Open a curve without frames for series that only the events of ``run`` name; its waiting times are over."""
        now_s = self._clock()
        start = SeriesStart(series=names[0], roi=self._settings.roi)
        curve = self._new_headless_curve(start, now_s, Claim(run_uid=run.uid, is_firm=True))
        for name in names[1:]:
            curve.series.add_part(name)
        curve.series.wall_s = run.received_s
        curve.series.end(now_s - self._settings.reading_timeout_s)
        curve.doubts += (
            f"the events name series {names[0]:.60}, of which no frame came: is the detector's stream on, and does it "
            "reach the service?",
        )
        self.save(curve)

    def _begin(self, start: SeriesStart, now_s: float) -> None:
        """Open a series; a second start message before the first frame replaces the first one."""
        claim = read_claim(start.user_data)
        if start.series in self._parts or self._gather(start, claim):
            return
        known = self._open.get(start.series)
        if known is not None and known.series.n_received and not known.is_headless:
            self._n_aborted += 1
            self._open[f"{start.series} (aborted {self._n_aborted})"] = self._open.pop(start.series)
            known = None
        for curve in self._open.values():
            if curve.series.ended_s is None and curve is not known:
                curve.series.end(now_s)
                if not curve.has_all_frames:
                    curve.doubts += ("series aborted: the detector began another series",)
                self.save(curve)
        n_images = 0 if start.n_images == 1 else start.n_images or 0  # one image for each trigger, not for the curve
        n = min(claim.n_points or n_images, self._settings.limits.max_images)
        curve = known or self._new_curve(start, now_s, claim)
        curve.series.start, curve.claim, curve.n_announced, curve.is_headless = start, claim, n, False
        curve.doubts = ()
        self._headers.note(start)
        self._open[start.series] = curve
        self.save(curve)

    def _gather(self, start: SeriesStart, claim: Claim) -> bool:
        """Add a series of one image to the curve of its run, which has one such series for each point."""
        curves = (c for c in self._open.values() if c.claim == claim and c.series.start.series != start.series)
        curve = next((c for c in curves if self._may_gather(c)), None)
        if start.n_images != 1 or curve is None:
            return False
        curve.series.add_part(start.series)
        self._parts[start.series] = curve
        self.save(curve)
        return True

    def _may_gather(self, curve: OpenCurve) -> bool:
        """Whether further series of one image may belong to a curve: while its run goes on."""
        if curve.is_headless or not curve.series.has_single_images:
            return False
        run = find_run(curve.series, curve.claim, self._book).run
        return run is not None and run.stop is None

    def _new_curve(self, start: SeriesStart, now_s: float, claim: Claim) -> OpenCurve:
        wall_s = self._wall_clock()
        self._n_keys += 1
        key = f"{self._n_keys}" if self._incoming is None else self._incoming.new_key(start.series, wall_s)
        log = None if self._incoming is None else self._incoming.frame_log(key)
        series = self._new_series(start, now_s, wall_s, log)
        return OpenCurve(key=key, series=series, claim=claim, n_announced=0, n_orphans=self._book.orphans.total())

    def _new_series(self, start: SeriesStart, now_s: float, wall_s: float, log: FrameLog | None) -> Series:
        return Series(start, self._settings.limits, now_s, wall_s, log, self._has_room, self._volumes.volume)

    def _has_room(self, n_bytes: int) -> bool:
        """Whether the memory of all open series together may grow by ``n_bytes``."""
        n_held = sum(curve.series.n_bytes for curve in self._open.values())
        return n_held + n_bytes <= self._settings.max_total_bytes

    def _curve_of(self, frame: DetectorFrame, now_s: float) -> OpenCurve | None:
        """Return the curve of a frame; if its start message was lost, a curve is opened.

        Frames of a closed series open a curve only if a run is open that began after the end of that series: then they
        belong to another series of the same id.
        """
        if frame.series is None:
            return self._curve_of_run(frame, now_s)
        curve = self._parts.get(frame.series) or self._open.get(frame.series)
        newest = self._book.runs.get(self._book.newest_open() or "")
        closed_s = self._closed.get(frame.series)
        if curve is None and (closed_s is None or (newest is not None and closed_s < newest.received_s)):
            start = self._headers.header_for(frame)
            curve = self._new_headless_curve(start, now_s, Claim(is_named=True))
            curve.doubts += (self._headers.doubt(frame),)
            self.save(curve)
        return curve

    def _curve_of_run(self, frame: DetectorFrame, now_s: float) -> OpenCurve | None:
        """Return the curve of a frame that names no series: one for each run, another one if the image ids restart."""
        run_uid = self._book.newest_open()
        for curve in self._open.values():
            if curve.run_uid is None or curve.is_superseded:
                continue
            if run_uid in (self._book.uid_now(curve.run_uid), None) and frame.image_id >= curve.series.first_id:
                return curve if self._is_in_time(curve, now_s) else None
            curve.series.end(now_s)
            curve.is_superseded = True
        if run_uid is None:
            return None
        claim = Claim(run_uid=run_uid, is_firm=True)
        start = SeriesStart(series=f"{UNNAMED}{self._wall_clock():.3f}", roi=self._settings.roi)
        curve = self._new_headless_curve(start, now_s, claim)
        curve.series.first_id, curve.run_uid = frame.image_id, run_uid
        self.save(curve)
        return curve

    def _is_in_time(self, curve: OpenCurve, now_s: float) -> bool:
        """Whether a frame may still belong to the run of a curve: some cameras go on after the end of the run."""
        run = self._book.runs.get(self._book.uid_now(curve.run_uid or ""))
        if run is not None and run.stop is None:
            return True
        if curve.series.ended_s is None:
            curve.series.end(now_s)
        return now_s - (curve.series.ended_s or now_s) <= self._settings.late_grace_s

    def _new_headless_curve(self, start: SeriesStart, now_s: float, claim: Claim) -> OpenCurve:
        curve = self._new_curve(start, now_s, claim)
        curve.is_headless = True
        self._open[start.series] = curve
        return curve

    def _drop_stale(self, series: SeriesId | None) -> None:
        """Count a message that belongs to no series, and log the first of each series."""
        self.n_stale += 1
        if series not in self._stale_series and series not in self._closed:
            self._stale_series.append(series)
            if self.n_stale <= 20 or self.n_stale % 1000 == 0:  # a flood of them must not fill the log
                text = "series %s: no run is open that began after it; its messages are dropped (%d so far)"
                logger.warning(text, series, self.n_stale)
