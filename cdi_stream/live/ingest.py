"""Ingest: the loop that reads detector and document bus, and passes on curves, their progress and ends of runs.

The loop runs in one thread, so that frames and documents need no lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import zmq

from cdi_stream.alarms import Alarms, Complaints
from cdi_stream.assemble.assembler import Assembler
from cdi_stream.documents.source import DocumentSource
from cdi_stream.errors import WireError
from cdi_stream.messages import CurveProgress, DetectorFrame, PartialCurve, RockingCurve
from cdi_stream.operators.announce import Announcer
from cdi_stream.operators.feed import frame_message, progress_message
from cdi_stream.stream.receive import Receiver

logger = logging.getLogger(__name__)

STOP_DELAY_S = 1.0
"""Time [s] from a stop document to the end of its run; the last frames may come after the stop document."""

ALARM_HOLD_S = 600.0
"""Time [s] that an alarm about unusable messages stays active after the last one."""

MAX_DOCUMENTS = 500
"""Number of documents that are taken before the detector is read again."""

_POLL_MS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopped:
    """Entry of the queue: a raw run is over, and all its curves are in the queue before this entry."""

    uid: str


Work = RockingCurve | PartialCurve | CurveProgress | RunStopped
"""Entry of the queue behind ingest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSettings:
    """Shortest times [s] between two events of progress, and between two frames on the operators' page."""

    progress_every_s: float
    frame_every_s: float


class Ingest:
    """Feeds the assembler with frames and documents, and passes on the curves that the assembler releases.

    ``newest_frame_s`` is the monotonic time of the newest frame [s], ``n_documents`` the number of documents received.

    Parameters
    ----------
    settings
        Rates of progress and frames.
    receiver, documents
        Receiver of the detector's messages, and source of the documents.
    assembler
        Takes the messages and the documents.
    announcer
        Sends progress and frames to the operators' pages.
    alarms
        Alarms of the service.
    """

    def __init__(
        self,
        settings: IngestSettings,
        receiver: Receiver,
        documents: DocumentSource,
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
        self._n_shown: dict[str, int] = {}
        self._ended_runs: set[str] = set()
        self._begin_s = time.time()
        self._report_s = 0.0
        self._frame_s = 0.0
        self._next_frame: DetectorFrame | None = None

    def run(
        self,
        is_stopped: Callable[[], bool],
        put: Callable[[Work], None],
        has_room: Callable[[], bool],
        open_runs: Callable[[], Iterable[str]],
    ) -> None:
        """Read until stopped; open series are left for the next start.

        Parameters
        ----------
        is_stopped
            Tells whether to end.
        put
            Takes curves, complete or partial, their progress, and ends of runs.
        has_room
            Tells whether progress may be put into the queue.
        open_runs
            Returns the uids of the raw runs for which a run of this service is open.
        """
        poller = zmq.Poller()
        poller.register(self._receiver.socket, zmq.POLLIN)
        poller.register(self._documents.socket, zmq.POLLIN)
        while not is_stopped():
            events = dict(poller.poll(_POLL_MS))
            if self._documents.socket in events:
                self._take_documents()
            if self._receiver.socket in events:
                self._take_frames()
            self._show_newest()
            self._receiver.reconnect_if_cut(time.monotonic())
            for curve in self._assembler.poll():
                self._pass_on(curve, put)
            for partial_curve in self._assembler.partial_curves():
                put(partial_curve)
            self._end_runs(open_runs(), put)
            self._report(put, has_room)
            self._alarm()

    def counters(self) -> dict[str, int]:
        """Return the numbers of messages of the detector, and of documents, since the start of the service."""
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
        self._next_frame = frame if self._announcer.is_on else None
        self._show_newest()

    def _show_newest(self) -> None:
        """Send the newest frame, also the last of a series, to the operators' pages when the rate allows it."""
        frame, now = self._next_frame, time.monotonic()
        if frame is not None and now >= self._frame_s:
            self._next_frame = None
            self._announcer.tell(frame_message(frame.series or "unnamed", frame.image_id, frame.pixels))
            spent_s = time.monotonic() - now
            self._frame_s = now + max(self._settings.frame_every_s, 20 * spent_s)  # at most 1/20 of the time

    def _take_documents(self) -> None:
        documents = self._documents.documents(self._refuse)
        for _, (name, doc) in zip(range(MAX_DOCUMENTS), documents, strict=False):
            self.n_documents += 1
            try:
                self._assembler.on_document(name, doc)
            except WireError as error:
                self._refuse(error)

    def _refuse(self, error: WireError) -> None:
        self._unusable.add(str(error))
        self._unusable_s = time.monotonic()

    def _alarm(self) -> None:
        """Set the alarms about unusable documents and messages, or clear them `ALARM_HOLD_S` after the last one."""
        now = time.monotonic()
        if now - self._unusable_s < ALARM_HOLD_S:
            text = f"{self._unusable.n} documents could not be used, the first of them: {self._unusable.first}"
            self._alarms.set("documents", text[:400])
        else:
            self._alarms.clear("documents")
        if now - self._malformed_s < ALARM_HOLD_S:
            self._alarms.set("messages", f"{self._receiver.n_malformed} messages of the detector could not be used")
        else:
            self._alarms.clear("messages")

    def _pass_on(self, curve: RockingCurve, put: Callable[[Work], None]) -> None:
        """Put a released curve into the queue, and send its final progress to the operators' pages."""
        put(curve)
        progress = CurveProgress(
            key=curve.key,
            series=curve.series.series,
            run=curve.run,
            curve_index=curve.curve_index,
            account=curve.account,
        )
        self._announcer.tell(progress_message(progress, is_over=True))
        self._n_shown.pop(curve.key, None)
        if curve.run.uid in self._ended_runs or not curve.run.is_heard:
            put(RunStopped(uid=curve.run.uid))

    def _report(self, put: Callable[[Work], None], has_room: Callable[[], bool]) -> None:
        """Pass on the progress of each curve that has new frames, when a report is due."""
        if time.monotonic() - self._report_s < self._settings.progress_every_s:
            return
        self._report_s = time.monotonic()
        for progress in self._assembler.progress():
            if self._n_shown.get(progress.key, 0) < progress.account.received:
                self._n_shown[progress.key] = progress.account.received
                self._announcer.tell(progress_message(progress))
                if progress.run.is_heard and has_room():
                    put(progress)

    def _end_runs(self, open_runs: Iterable[str], put: Callable[[Work], None]) -> None:
        """Pass on the ends of raw runs: with a stop document `STOP_DELAY_S` ago, or unknown, and without open curves.

        ``open_runs`` are the raw runs for which a run of this service is open.
        """
        now_s, runs, open_uids = time.time(), self._assembler.book.runs, set(open_runs)
        measuring_uids = set(self._assembler.open_runs().values())
        self._ended_runs &= runs.keys() | open_uids
        stop_times_s = {
            uid: record.stop_received_s for uid, record in runs.items() if record.stop_received_s is not None
        }
        ended_uids = [uid for uid, stop_s in stop_times_s.items() if now_s - max(stop_s, self._begin_s) >= STOP_DELAY_S]
        ended_uids += open_uids - runs.keys()
        for uid in ended_uids:
            if uid not in measuring_uids and uid not in self._ended_runs:
                self._ended_runs.add(uid)
                put(RunStopped(uid=uid))
