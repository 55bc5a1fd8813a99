"""Delivery of documents from the spool to each sink, in order; a sink that was down gets all documents later.

A 0MQ publisher does not learn whether a message arrives.  A document therefore counts as delivered to the bus when it
was received on the other side of the proxy.  It counts as delivered to an archive when the archive took it.  An archive
that fails is opened again; runs that it has only in part are written again from their start document.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from cdi_stream.alarms import Alarms
from cdi_stream.documents.spool import BUS, Entry, Spool
from cdi_stream.errors import CdiStreamError, ServiceError
from cdi_stream.protocols import Sink

logger = logging.getLogger(__name__)

RESEND_AFTER_S = 2.0
"""Time [s] after which a document that was not received behind the proxy is sent again; doubles up to the maximum."""

MAX_RESEND_S = 30.0
"""Longest time [s] between two attempts to send a document to the bus."""

RETRY_S = 1.0
"""Time [s] before the first retry after an archive failed; doubles with each further failure."""

MAX_RETRY_S = 30.0
"""Longest time [s] between two retries of an archive."""

MAX_FAILURES = 5
"""Number of times that an archive may refuse a run although it can be reached; then the run is left out there."""

GIVE_WAY_S = 10.0
"""Longest time [s] that an archive waits for more urgent work."""

_WAIT_S = 0.2
_URGENT_CHECK_S = 0.1

ReceivedUids = Callable[[int], Iterator[str]]
"""Function that yields the uids of the documents that come on the bus within a time [ms]."""


class BusDelivery:
    """Sends documents to the bus, and sends them again until they are received behind the proxy.

    `push` sends new documents at once, from the thread that put them into the spool.  `run` is the body of a thread
    that receives.  After a failure only the first document is sent until one has been received: a proxy that was just
    started may not have its subscribers yet.  After a new connection to the proxy, the documents that were sent before
    and not received are sent again before all later ones, so that they keep their order.

    While documents are received, sent documents are noted in the spool at once.  A service that is killed before it
    receives them does not send them again at its next start: a proxy that is there passes them on in milliseconds.

    Parameters
    ----------
    spool
        Documents to deliver.
    sink
        Sink that publishes to the bus.  If it offers ``settle()``, it is called before documents are sent, and is true
        after a new connection to the proxy.
    received_uids
        Yields the uids of documents that come on the bus.
    alarms
        Alarms of the service.
    clock
        Monotonic time [s].
    """

    def __init__(
        self,
        spool: Spool,
        sink: Sink,
        received_uids: ReceivedUids,
        alarms: Alarms | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._sink = sink
        self._received_uids = received_uids
        self._alarms = alarms or Alarms()
        self._clock = clock
        self._lock = threading.Lock()
        self._sent_s: dict[int, float] = {}
        self._settle: Callable[[], bool] = getattr(sink, "settle", lambda: False)
        self._has_listener = True
        self._has_losses = False
        self._is_heard = False
        self._resend_s = RESEND_AFTER_S

    def push(self) -> None:
        """Send the documents that were not sent yet."""
        with self._lock:
            new = [entry for entry in self._spool.waiting(BUS) if entry.id not in self._sent_s]
            sent = []
            for entry in new:
                if not self._may_send():
                    break
                self._send(entry)
                sent.append(entry)
            if self._is_heard:
                self._spool.mark_sent(BUS, sent)

    def run(self, is_stopped: Callable[[], bool]) -> None:
        """Receive documents, and send again those that do not arrive, until stopped."""
        while not is_stopped():
            self.step(int(1000 * _WAIT_S))
        self._spool.mark_unsent(BUS, self._spool.waiting(BUS))

    def step(self, timeout_ms: int) -> None:
        """Note the documents received within ``timeout_ms`` [ms]; send the first other one again if it is overdue."""
        uids = set(self._received_uids(timeout_ms))
        with self._lock:
            waiting = self._spool.waiting(BUS)
            arrived = [entry for entry in waiting if entry.doc.get("uid") in uids]
            for entry in arrived:
                self._sent_s.pop(entry.id, None)
                self._spool.mark_delivered(BUS, entry)
            if arrived:
                self._has_listener, self._is_heard, self._resend_s = True, True, RESEND_AFTER_S
                self._alarms.clear("bus")
            left = [entry for entry in waiting if entry not in arrived]
            self._note_connection()
            if left and self._has_losses:
                self._begin_again(left)
            elif left and self._clock() - self._sent_s.get(left[0].id, self._clock()) > self._resend_s:
                self._send_again(left)
            self._has_losses = False
        self.push()

    def close(self) -> None:
        """Close the sink."""
        self._sink.close()

    def _may_send(self) -> bool:
        """Whether another document may be sent now; before one has been received, a single one."""
        self._note_connection()
        return not self._has_losses and (self._has_listener or not self._sent_s)

    def _send(self, entry: Entry) -> None:
        self._sent_s[entry.id] = self._clock()
        try:
            self._sink(entry.name, entry.doc)
        except Exception:  # a sink is foreign code; the document stays in the spool and is sent again
            logger.exception("a %s document cannot be sent to the bus", entry.name)

    def _send_again(self, left: list[Entry]) -> None:
        """Send the first document of ``left``, the documents that did not arrive, again."""
        text = f"{len(left)} documents of this service do not arrive on the bus: is the document proxy running?"
        self._alarms.set("bus", text)
        logger.warning(text)
        self._resend_s = min(2 * self._resend_s, MAX_RESEND_S)
        self._begin_again(left)

    def _begin_again(self, left: list[Entry]) -> None:
        """Send the first document of ``left`` again, and the rest of them after one document has been received."""
        self._has_listener = self._is_heard = False
        self._sent_s.clear()
        self._spool.mark_unsent(BUS, left)
        self._send(left[0])

    def _note_connection(self) -> None:
        """Wait after a new connection; documents that were sent before it and not received count as lost."""
        if self._settle():
            self._has_listener = self._is_heard = False
            self._resend_s = RESEND_AFTER_S
            self._has_losses = self._has_losses or bool(self._sent_s)


class ArchiveDelivery:
    """Writes documents to one archive, a sink that may be slow, from one thread.

    Parameters
    ----------
    name
        Name of the archive in the spool, the alarms and the log.
    spool
        Documents to deliver.
    make
        Opens the sink; called again after each failure.
    alarms
        Alarms of the service.
    sleep
        Waits for a time [s]; true if the delivery is to end.
    """

    def __init__(
        self,
        name: str,
        spool: Spool,
        make: Callable[[], Sink],
        alarms: Alarms | None = None,
        sleep: Callable[[float], bool] | None = None,
    ) -> None:
        self.name = name
        self._spool = spool
        self._make = make
        self._alarms = alarms or Alarms()
        self._stopping = threading.Event()
        self._sleep = sleep or self._stopping.wait
        self._sink: Sink | None = None
        self._partial: dict[str, list[Entry]] = {}
        self._skipped: set[str] = set()
        self._n_failures: dict[str, int] = {}
        self._pause_s = RETRY_S
        self._urgent_s = 0.0

    def run(self, is_stopped: Callable[[], bool], is_urgent: Callable[[], bool] = lambda: False) -> None:
        """Write until stopped and no document waits, or until `leave` is called.

        While ``is_urgent``, nothing is written, since a sink on this machine takes the time of curves that wait.  After
        `GIVE_WAY_S` the documents are written all the same.
        """
        while not self._stopping.is_set():
            waiting = self._spool.waiting(self.name)
            if not waiting:
                if is_stopped():
                    break
                with self._spool.changed:
                    self._spool.changed.wait(_WAIT_S)
                continue
            for entry in waiting:
                self._give_way(is_urgent)
                if self._stopping.is_set() or not self._deliver(entry, is_stopped):
                    break
            if is_stopped() and self._sink is None:
                break
        self._close()

    def _give_way(self, is_urgent: Callable[[], bool]) -> None:
        """Wait while there is urgent work, `GIVE_WAY_S` at most from its beginning."""
        while is_urgent() and self._urgent_s < GIVE_WAY_S and not self._sleep(_URGENT_CHECK_S):
            self._urgent_s += _URGENT_CHECK_S
        if not is_urgent():
            self._urgent_s = 0.0

    def leave(self) -> None:
        """End now; documents that still wait stay in the spool."""
        self._stopping.set()

    def _deliver(self, entry: Entry, is_stopped: Callable[[], bool]) -> bool:
        """Write one document; false if the sink failed, or the run has to be written again from its beginning."""
        try:
            self._sink = self._sink or self._open_sink()
            if self._lacks_beginning(entry):
                beginning = self._spool.earlier_documents(entry)
                if not beginning:
                    raise CdiStreamError(f"expected the beginning of run {entry.run} in the spool, got none of it")
                self._spool.rewind(self.name, beginning)
                return False
            self._write(self._sink, entry)
        except Exception as error:  # noqa: BLE001 - any error of a sink is logged and tried again
            self._on_failure(entry, error)
            if not is_stopped():
                self._sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, MAX_RETRY_S)
            return False
        self._pause_s = RETRY_S
        self._alarms.clear(self.name)
        self._spool.mark_delivered(self.name, entry)
        return True

    def _open_sink(self) -> Sink:
        """Return an open sink; any error becomes a `ServiceError`, because it does not come from a document."""
        try:
            return self._make()
        except Exception as error:  # a sink is foreign code and raises errors of many kinds
            raise ServiceError(f"{type(error).__name__}: {error!s:.200}") from error

    @property
    def _has_run(self) -> Callable[[str], bool] | None:
        """Function of a sink that stores whole runs: whether it has the run up to its stop document; else None."""
        return getattr(self._sink, "has_run", None)

    def _lacks_beginning(self, entry: Entry) -> bool:
        """Whether a sink of whole runs gets the middle of a run whose beginning an earlier service or sink wrote."""
        is_known = entry.run in self._partial or entry.run in self._skipped
        return self._has_run is not None and entry.name != "start" and not is_known

    def _write(self, sink: Sink, entry: Entry) -> None:
        if entry.name == "start" and self._has_run is not None and self._has_run(entry.run):
            self._skipped.add(entry.run)
        if entry.run not in self._skipped:
            sink(entry.name, entry.doc)
            self._partial.setdefault(entry.run, []).append(entry)
        if entry.name == "stop":
            self._partial.pop(entry.run, None)
            self._skipped.discard(entry.run)
            self._n_failures.pop(entry.run, None)

    def _on_failure(self, entry: Entry, error: Exception) -> None:
        """Close the sink, so that it is opened again, and put its incomplete runs back into the spool."""
        keeps_runs = self._has_run is not None
        self._close()
        again = sorted((e for part in self._partial.values() for e in part if keeps_runs), key=lambda e: e.id)
        self._partial.clear()
        self._spool.rewind(self.name, again)
        self._alarms.set(self.name, f"{self.name} takes no documents: {error!s:.200}; they are kept and tried again")
        logger.warning("%s takes no documents: %s: %s", self.name, type(error).__name__, str(error)[:300])
        if isinstance(error, CdiStreamError | OSError):
            return  # the sink cannot be reached: the document is not the cause
        n = self._n_failures[entry.run] = self._n_failures.get(entry.run, 0) + 1
        if n >= MAX_FAILURES:
            logger.error("%s refuses run %s: the run is left out there; its files are kept", self.name, entry.run)
            self._skipped.add(entry.run)

    def _close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            try:
                sink.close()
            except Exception as error:  # noqa: BLE001 - a sink in trouble may not close either
                logger.warning("%s does not close: %s", self.name, str(error)[:200])
