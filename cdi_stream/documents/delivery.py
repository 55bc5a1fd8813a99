"""Delivery: from the spool to each sink, in order; a sink that is down gets everything when it is back.

The bus is told nothing of what becomes of a message, so a document counts as delivered there when it was heard on the
other side of the proxy.  An archive counts when it took the document; one that fails is opened anew, and gets the runs
that it has only in part once more from their beginning.
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

HEARD_WITHIN_S = 2.0
"""A document that was not heard for so long is sent again."""

MAX_AGAIN_S = 30.0
RETRY_S, MAX_RETRY_S = 1.0, 30.0
MAX_FAILURES = 5
"""A run that an archive refused so often, though it can be reached, is left out there."""

_WAIT_S = 0.2

Heard = Callable[[int], Iterator[str]]
"""Uids of documents that come on the bus within so many milliseconds."""


class BusDelivery:
    """Sends documents to the bus, and again until they are heard there.

    ``push`` sends what is new at once, from the thread that has put it into the spool; ``run`` is the body of a thread
    that listens.  As long as nothing has been heard since the last failure, only the first document is sent: a proxy
    that has just come up may not have its listeners yet.

    While documents are heard, those that were sent are noted at once: a service that is killed in the few milliseconds
    before it hears them does not send them once more at its next start.
    """

    def __init__(
        self,
        spool: Spool,
        sink: Sink,
        heard: Heard,
        alarms: Alarms | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._sink = sink
        self._heard = heard
        self._alarms = alarms or Alarms()
        self._clock = clock
        self._lock = threading.Lock()
        self._sent_s: dict[int, float] = {}
        self._is_sure = True
        self._is_heard = False
        self._again_s = HEARD_WITHIN_S

    def push(self) -> None:
        """Send what has not been sent yet."""
        with self._lock:
            new = [entry for entry in self._spool.waiting(BUS) if entry.id not in self._sent_s]
            if not self._is_sure:
                new = [] if self._sent_s else new[:1]
            for entry in new:
                self._send(entry)
            if self._is_heard:
                self._spool.sent(BUS, new)

    def run(self, is_stopped: Callable[[], bool]) -> None:
        """Listen, and send again what is not heard, until stopped."""
        while not is_stopped():
            self.step(int(1000 * _WAIT_S))

    def step(self, timeout_ms: int) -> None:
        """Note what is heard within the time; send the first unheard document again if it is overdue."""
        uids = set(self._heard(timeout_ms))
        with self._lock:
            waiting = self._spool.waiting(BUS)
            arrived = [entry for entry in waiting if entry.doc.get("uid") in uids]
            for entry in arrived:
                self._sent_s.pop(entry.id, None)
                self._spool.heard(BUS, entry)
            if arrived:
                self._is_sure, self._is_heard, self._again_s = True, True, HEARD_WITHIN_S
                self._alarms.clear("bus")
            left = [entry for entry in waiting if entry not in arrived]
            if left and self._clock() - self._sent_s.get(left[0].id, self._clock()) > self._again_s:
                self._send_again(left)
        self.push()

    def close(self) -> None:
        """Close the sink."""
        self._sink.close()

    def _send(self, entry: Entry) -> None:
        self._sent_s[entry.id] = self._clock()
        try:
            self._sink(entry.name, entry.doc)
        except Exception:  # a sink is foreign code; the document stays in the spool and is sent again
            logger.exception("a %s document cannot be sent to the bus", entry.name)

    def _send_again(self, left: list[Entry]) -> None:
        """Begin anew with the first document that was not heard."""
        self._alarms.set("bus", f"{len(left)} documents of ours are not heard on the bus: is the document proxy up?")
        logger.warning("%d documents of ours are not heard on the bus: is the document proxy up?", len(left))
        self._is_sure = self._is_heard = False
        self._sent_s.clear()
        self._again_s = min(2 * self._again_s, MAX_AGAIN_S)
        self._send(left[0])


class ArchiveDelivery:
    """Writes documents to one slow sink, from one thread; ``make`` opens the sink, again after each failure."""

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

    def run(self, is_stopped: Callable[[], bool]) -> None:
        """Write until stopped and nothing waits, or until told to leave."""
        while not self._stopping.is_set():
            waiting = self._spool.waiting(self.name)
            if not waiting:
                if is_stopped():
                    break
                with self._spool.changed:
                    self._spool.changed.wait(_WAIT_S)
                continue
            for entry in waiting:
                if self._stopping.is_set() or not self._deliver(entry, is_stopped):
                    break
            if is_stopped() and self._sink is None:
                break
        self._close()

    def leave(self) -> None:
        """End without writing what still waits: it stays in the spool."""
        self._stopping.set()

    def _deliver(self, entry: Entry, is_stopped: Callable[[], bool]) -> bool:
        """Write one document; False if the sink failed and the order begins anew."""
        try:
            self._sink = self._sink or self._opened()
            if self._lacks_beginning(entry):
                beginning = self._spool.before(entry)
                if not beginning:
                    raise CdiStreamError(f"the beginning of run {entry.run} is not in the spool")
                self._spool.rewind(self.name, beginning)
                return False
            self._write(self._sink, entry)
        except Exception as error:  # noqa: BLE001 - whatever a sink raises, it is logged and tried again
            self._failed(entry, error)
            if not is_stopped():
                self._sleep(self._pause_s)
            self._pause_s = min(2 * self._pause_s, MAX_RETRY_S)
            return False
        self._pause_s = RETRY_S
        self._alarms.clear(self.name)
        self._spool.heard(self.name, entry)
        return True

    def _opened(self) -> Sink:
        """Open the sink; what is wrong then says nothing of the documents."""
        try:
            return self._make()
        except Exception as error:  # a sink is foreign code and raises errors of many kinds
            raise ServiceError(f"{type(error).__name__}: {error!s:.200}") from error

    @property
    def _has_run(self) -> Callable[[str], bool] | None:
        """Question to a sink that keeps whole runs: whether it has one to its end."""
        return getattr(self._sink, "has_run", None)

    def _lacks_beginning(self, entry: Entry) -> bool:
        """Whether a sink of whole runs is to go on with a run that an earlier service or sink has begun."""
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

    def _failed(self, entry: Entry, error: Exception) -> None:
        """Open the sink anew, and write the runs that it has in part once more."""
        keeps_runs = self._has_run is not None
        self._close()
        again = sorted((e for part in self._partial.values() for e in part if keeps_runs), key=lambda e: e.id)
        self._partial.clear()
        self._spool.rewind(self.name, again)
        self._alarms.set(self.name, f"{self.name} takes no documents: {error!s:.200}; they are kept until it does")
        logger.warning("%s takes no documents: %s: %s", self.name, type(error).__name__, str(error)[:300])
        if isinstance(error, CdiStreamError | OSError):
            return  # it cannot be reached: that says nothing of the document
        n = self._n_failures[entry.run] = self._n_failures.get(entry.run, 0) + 1
        if n >= MAX_FAILURES:
            logger.error("%s refuses run %s: it is left out there; its files are kept", self.name, entry.run)
            self._skipped.add(entry.run)

    def _close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            try:
                sink.close()
            except Exception as error:  # noqa: BLE001 - a sink in trouble may not close either
                logger.warning("%s does not close: %s", self.name, str(error)[:200])
