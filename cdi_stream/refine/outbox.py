"""From computed to published: documents go out on the bus and count as published once they are heard there.

0MQ's publishers are told nothing of what becomes of a message.  So a *monitor* listens at the other end of the proxy
and notes in the queue what it hears.  The service runs one too: if a worker is killed between sending a document and
hearing it, the service has heard it, and the next worker does not send it again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from cdi_stream.documents import bus
from cdi_stream.protocols import Sink
from cdi_stream.refine.queue import Job, Queue

logger = logging.getLogger(__name__)

RESEND_AFTER_S = 5.0
"""A document that nobody heard for so long is sent again, later."""


class DeliveryMonitor:
    """Notes in the queue which of its documents are heard on the bus."""

    def __init__(self, socket: zmq.Socket[bytes], queue: Queue, prefix: str, read: Callable[[bytes], Any]) -> None:
        self._socket = socket
        self._queue = queue
        self._prefix = prefix
        self._read = read

    def listen(self, timeout_ms: int) -> None:
        """Note what has come, or comes within the time."""
        for _, doc in bus.receive(self._socket, self._prefix, self._read, timeout_ms):
            if isinstance(uid := doc.get("uid"), str):
                self._queue.mark_heard(uid)


class Outbox:
    """Sends the documents of computed jobs, in order, those that were heard never again."""

    def __init__(
        self,
        queue: Queue,
        sink: Sink,
        monitor: DeliveryMonitor,
        on_done: Callable[[Job], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._sink = sink
        self._monitor = monitor
        self._on_done = on_done
        self._clock = clock

    def send(self, owner: str, is_stopped: Callable[[], bool]) -> None:
        """Send all that this owner has to send, each document when the one before was heard.

        Returns when all is heard, or nobody seems to listen.
        """
        self._monitor.listen(0)
        for job in self._queue.jobs_to_send(owner):
            if not all(self._is_heard(job, name, doc) for name, doc in self._queue.documents_to_send(job)):
                logger.warning("refinement %d: its documents are not heard on the bus; is the proxy up?", job.id)
                return
            self._queue.finish(job)
            self._on_done(job)
            if is_stopped():
                return

    def _is_heard(self, job: Job, name: str, doc: Mapping[str, Any]) -> bool:
        """Send one document, and listen until it comes back."""
        self._sink(name, doc)
        give_up_s = self._clock() + RESEND_AFTER_S
        while self._clock() < give_up_s:
            self._monitor.listen(20)
            if doc["uid"] not in {str(other["uid"]) for _, other in self._queue.documents_to_send(job)}:
                return True
        return False
