"""Outbox: sends the documents of computed jobs to the bus; a document is published when it has arrived there.

A 0MQ publisher does not learn whether a message arrives.  A *delivery monitor* therefore receives the documents on the
other side of the proxy and notes them in the queue.  The service has a delivery monitor too: if a worker is killed
after it sent a document and before it noted the arrival, the service notes the arrival, and the next worker does not
send the document again.  While no service listens, for example during its restart, the documents wait.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import zmq

from cdi_stream.documents import bus
from cdi_stream.messages import Document
from cdi_stream.protocols import Sink
from cdi_stream.refine.queue import Job, Queue

logger = logging.getLogger(__name__)

RESEND_AFTER_S = 5.0
"""Time [s] after which a document that was not received counts as lost; it is sent again later."""


class DeliveryMonitor:
    """Receives documents on the bus, and notes documents of the queue as delivered.

    ``socket`` comes from `bus.listen`, ``read`` from `bus.reader`.
    """

    def __init__(self, socket: zmq.Socket[bytes], queue: Queue, prefix: str, read: Callable[[bytes], Any]) -> None:
        self._socket = socket
        self._queue = queue
        self._prefix = prefix
        self._read = read

    def listen(self, timeout_ms: int) -> None:
        """Note the documents that have arrived, or arrive within ``timeout_ms`` [ms]."""
        for _, doc in bus.receive(self._socket, self._prefix, self._read, timeout_ms):
            if isinstance(uid := doc.get("uid"), str):
                self._queue.mark_delivered(uid)


class Outbox:
    """Sends the documents of computed jobs in order; a document that was received is never sent again.

    Parameters
    ----------
    queue
        Queue with the computed jobs.
    sink
        Sink that publishes to the bus.
    monitor
        Notes the documents that arrive.
    on_done
        Called with each job whose documents have all arrived.
    may_send
        Tells whether a second monitor notes what arrives, so that documents may be sent.
    clock
        Monotonic time [s].
    """

    def __init__(
        self,
        queue: Queue,
        sink: Sink,
        monitor: DeliveryMonitor,
        on_done: Callable[[Job], None],
        may_send: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._sink = sink
        self._monitor = monitor
        self._on_done = on_done
        self._may_send = may_send
        self._clock = clock

    def send(self, owner: str, is_stopped: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
        """Send the documents of all computed jobs of ``owner``, each document after the previous document has arrived.

        ``meanwhile`` is called before each document.

        The sending ends when all documents have arrived, when a document does not arrive, when documents must not be
        sent, or when stopped.
        """
        self._monitor.listen(0)
        for job in self._queue.jobs_to_send(owner):
            for name, doc in self._queue.documents_to_send(job):
                meanwhile()
                if not self._may_send():
                    return
                if not self._deliver(job, name, doc):
                    logger.warning("refinement %d: its documents do not arrive: is the proxy running?", job.id)
                    return
            self._queue.finish(job)
            self._on_done(job)
            if is_stopped():
                return

    def _deliver(self, job: Job, name: str, doc: Document) -> bool:
        """Send one document; false if it does not arrive within `RESEND_AFTER_S`."""
        self._sink(name, doc)
        give_up_s = self._clock() + RESEND_AFTER_S
        while self._clock() < give_up_s:
            self._monitor.listen(20)
            if doc["uid"] not in {str(unsent["uid"]) for _, unsent in self._queue.documents_to_send(job)}:
                return True
        return False
