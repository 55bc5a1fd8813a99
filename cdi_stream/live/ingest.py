"""Ingest: the loop that reads detector and document bus, and passes on curves, previews and ends of runs.

One thread runs it, so that frames and documents need no lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import zmq

from cdi_stream.alarms import Alarms, Complaints
from cdi_stream.assemble.assembler import Assembler
from cdi_stream.documents import bus
from cdi_stream.errors import WireError
from cdi_stream.messages import CurveProgress, DetectorFrame, RockingCurve
from cdi_stream.operators.announce import Announcer
from cdi_stream.operators.feed import frame_message, progress_message
from cdi_stream.stream.receive import Receiver

logger = logging.getLogger(__name__)

STOP_DELAY_S = 1.0
"""A run's stop document may overtake its last frames by this much."""

ALARM_HOLD_S = 600.0
"""An alarm about messages that cannot be read stands for so long after the last of them."""

MAX_DOCUMENTS = 500
"""Documents that are taken before the detector is looked at again."""

_POLL_MS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopped:
    """A raw run is over and all its curves are in the queue before this."""

    uid: str


Work = RockingCurve | CurveProgress | RunStopped


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
        announcer: Announcer,
        alarms: Alarms | None = None,
    ) -> None:
        self.newest_frame_s: float | None = None
        self.n_documents = 0
        self._settings = settings
        self._receiver = receiver
        self._documents = documents
        self._assembler = assembler
        self._announcer = announcer
        self._alarms = alarms or Alarms()
        self._unusable = Complaints(logger, "document")
        self._unusable_s = self._malformed_s = -ALARM_HOLD_S
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
        """Read until stopped; what is open then is left for the next start."""
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
            self._receiver.reconnect_if_cut(time.monotonic())
            for curve in self._assembler.poll():
                self._pass_on(curve, put)
            self._end_runs(open_runs(), put)
            self._report(put, has_room)
            self._alarm()

    def counters(self) -> dict[str, int]:
        """Return counts since the start, of messages of the detector and of documents."""
        receiver = self._receiver
        return {
            "messages": receiver.n_messages,
            "malformed": receiver.n_malformed,
            "stale": self._assembler.n_stale,
            "documents": self.n_documents,
            "documents_unusable": self._unusable.n,
        }

    def _take_frames(self) -> None:
        n_malformed = self._receiver.n_malformed
        for message in self._receiver.messages():
            try:
                self._assembler.on_message(message)
            except WireError as error:
                self._receiver.refuse(error)
            if isinstance(message, DetectorFrame):
                self._show(message)
        for _ in range(self._receiver.n_malformed - n_malformed):
            self._assembler.on_unreadable()
            self._malformed_s = time.monotonic()

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
        received = bus.receive(self._documents, self._settings.prefix, self._read, on_unusable=self._refuse)
        for _, (name, doc) in zip(range(MAX_DOCUMENTS), received, strict=False):
            self.n_documents += 1
            try:
                self._assembler.on_document(name, doc)
            except WireError as error:
                self._refuse(error)

    def _refuse(self, error: WireError) -> None:
        self._unusable.add(str(error))
        self._unusable_s = time.monotonic()

    def _alarm(self) -> None:
        """Tell operators of documents and messages that cannot be used, as long as such have come of late."""
        now = time.monotonic()
        if now - self._unusable_s < ALARM_HOLD_S:
            text = f"{self._unusable.n} documents could not be used; the first: {self._unusable.first}"
            self._alarms.set("documents", text[:400])
        else:
            self._alarms.clear("documents")
        if now - self._malformed_s < ALARM_HOLD_S:
            self._alarms.set("messages", f"{self._receiver.n_malformed} messages of the detector could not be used")
        else:
            self._alarms.clear("messages")

    def _pass_on(self, curve: RockingCurve, put: Callable[[Work], None]) -> None:
        put(curve)
        progress = CurveProgress(
            key=curve.key,
            series=curve.series.series,
            run=curve.run,
            curve_index=curve.curve_index,
            account=curve.account,
        )
        self._announcer.tell(progress_message(progress, is_over=True))
        self._shown.pop(curve.key, None)
        if curve.run.uid in self._ended_runs or not curve.run.is_heard:
            put(RunStopped(uid=curve.run.uid))

    def _report(self, put: Callable[[Work], None], has_room: Callable[[], bool]) -> None:
        """Pass previews on when they are due, or a curve is new."""
        is_due = time.monotonic() - self._preview_s >= self._settings.preview_every_s
        if not is_due:
            return
        self._preview_s = time.monotonic()
        for one in self._assembler.progress():
            if self._shown.get(one.key, 0) < one.account.received:
                self._shown[one.key] = one.account.received
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
                if now - heard_s >= STOP_DELAY_S and uid not in measured:
                    over.append(uid)
        for uid in [uid for uid in self._stop_heard_s if uid not in runs]:
            del self._stop_heard_s[uid]
            self._ended_runs.discard(uid)
        over += [uid for uid in open_runs if not {uid} & (runs.keys() | measured | self._ended_runs)]
        for uid in over:
            self._ended_runs.add(uid)
            put(RunStopped(uid=uid))
