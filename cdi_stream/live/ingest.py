"""Ingest: the loop that reads detector and document bus, and passes on curves, previews and ends of runs.

One thread runs it, so that frames and documents need no lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import zmq

from cdi_stream import bus
from cdi_stream.errors import WireError
from cdi_stream.feed import frame_message, progress_message
from cdi_stream.live.announce import Announcer
from cdi_stream.live.assemble import Assembler
from cdi_stream.live.journal import Journal
from cdi_stream.live.receive import Receiver
from cdi_stream.messages import BrokenCurve, CurveProgress, DetectorFrame, RockingCurve

logger = logging.getLogger(__name__)

RUN_END_S = 1.0
"""A run's stop document may overtake its last frames by this much."""

_POLL_MS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopped:
    """A raw run is over and all its curves are in the queue before this."""

    uid: str


Work = RockingCurve | BrokenCurve | CurveProgress | RunStopped


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSettings:
    """How the documents are written, and how often [s] previews and frames are shown."""

    prefix: str
    serializer: str
    preview_every_s: float
    frame_every_s: float


class Ingest:
    """Feeds the assembler; ``put`` takes what comes of it, ``has_room`` tells whether previews are welcome.

    ``open_runs`` names the raw runs that documents of ours are open for.
    """

    def __init__(
        self,
        settings: IngestSettings,
        receiver: Receiver,
        documents: zmq.Socket[bytes],
        assembler: Assembler,
        journal: Journal,
        announcer: Announcer,
    ) -> None:
        self.newest_frame_s: float | None = None
        self._settings = settings
        self._receiver = receiver
        self._documents = documents
        self._assembler = assembler
        self._journal = journal
        self._announcer = announcer
        self._read = bus.reader(settings.serializer)
        self._shown: dict[str, int] = {}
        self._ended_runs: set[str] = set()
        self._stop_heard_s: dict[str, float] = {}
        self._preview_s = 0.0
        self._frame_s = 0.0
        self._unshown: DetectorFrame | None = None

    def run(
        self,
        is_stopped: Callable[[], bool],
        put: Callable[[Work], None],
        has_room: Callable[[], bool],
        open_runs: Callable[[], Iterable[str]],
    ) -> None:
        """Read until stopped; open curves are then passed on as interrupted."""
        poller = zmq.Poller()
        poller.register(self._receiver.socket, zmq.POLLIN)
        poller.register(self._documents, zmq.POLLIN)
        while not is_stopped():
            events = dict(poller.poll(_POLL_MS))
            if self._documents in events:
                self._take_documents()
            if self._receiver.socket in events:
                self._take_frames()
            self._show_newest()
            self._receiver.revive(time.monotonic())
            for curve in self._assembler.poll():
                self._pass_on(curve, put)
            self._end_runs(open_runs(), put)
            self._report(put, has_room)
        for broken in self._assembler.interrupt("interrupted: the service was stopped"):
            put(broken)

    def counters(self) -> dict[str, int]:
        """Messages since the start: all, malformed, and those of nobody's series."""
        receiver = self._receiver
        return {"messages": receiver.n_messages, "malformed": receiver.n_malformed, "stale": self._assembler.n_stale}

    def _take_frames(self) -> None:
        for message in self._receiver.messages():
            try:
                self._assembler.on_message(message)
            except WireError as error:
                self._receiver.refuse(error)
            if isinstance(message, DetectorFrame):
                self._show(message)

    def _show(self, frame: DetectorFrame) -> None:
        self.newest_frame_s = time.monotonic()
        self._unshown = frame if self._announcer.is_on else None
        self._show_newest()

    def _show_newest(self) -> None:
        """Show the newest frame as soon as the rate allows it: the last frame of a series too, which none follows."""
        frame, now = self._unshown, time.monotonic()
        if frame is not None and now >= self._frame_s:
            self._unshown = None
            self._announcer.tell(frame_message(frame.series or "unnamed", frame.image_id, frame.pixels))
            spent_s = time.monotonic() - now  # of large frames fewer are shown: no more than a twentieth of the time
            self._frame_s = now + max(self._settings.frame_every_s, 20 * spent_s)

    def _take_documents(self) -> None:
        for name, doc in bus.received(self._documents, self._settings.prefix, self._read):
            try:
                self._assembler.on_document(name, doc)
            except WireError as error:
                logger.warning("document dropped: %s", error)

    def _pass_on(self, curve: RockingCurve, put: Callable[[Work], None]) -> None:
        put(curve)
        progress = CurveProgress(
            series=curve.series.series, run=curve.run, curve_index=curve.curve_index, account=curve.account
        )
        self._announcer.tell(progress_message(progress, is_over=True))
        self._shown.pop(str(curve.series.series), None)
        if curve.run.uid in self._ended_runs or not curve.run.is_heard:
            put(RunStopped(uid=curve.run.uid))

    def _report(self, put: Callable[[Work], None], has_room: Callable[[], bool]) -> None:
        """Note new curves in the journal at once, and pass previews on when they are due."""
        is_due = time.monotonic() - self._preview_s >= self._settings.preview_every_s
        if not is_due and all(str(series) in self._shown for series in self._assembler.open_runs()):
            return
        self._preview_s = time.monotonic() if is_due else self._preview_s
        for one in self._assembler.progress():
            n_shown = self._shown.get(str(one.series))
            if n_shown is None:
                self._shown[str(one.series)] = 0
                self._journal.curve_began(one)
            if is_due and (n_shown or 0) < one.account.received:
                self._shown[str(one.series)] = one.account.received
                self._announcer.tell(progress_message(one))
                if one.run.is_heard and has_room():
                    put(one)

    def _end_runs(self, open_runs: Iterable[str], put: Callable[[Work], None]) -> None:
        """Pass on that a raw run is over, once its stop has had time to be overtaken by its frames."""
        now, runs = time.monotonic(), self._assembler.book.runs
        measured = set(self._assembler.open_runs().values())
        over = []
        for uid, record in runs.items():
            if record.stop is not None and uid not in self._ended_runs:
                heard_s = self._stop_heard_s.setdefault(uid, now)
                if now - heard_s >= RUN_END_S and uid not in measured:
                    over.append(uid)
        for uid in [uid for uid in self._stop_heard_s if uid not in runs]:
            del self._stop_heard_s[uid]
            self._ended_runs.discard(uid)
        over += [uid for uid in open_runs if not {uid} & (runs.keys() | measured | self._ended_runs)]
        for uid in over:
            self._ended_runs.add(uid)
            put(RunStopped(uid=uid))
