"""Carry documents from a thread that receives them by any means to the thread of the service.

A source that cannot give a ZeroMQ socket derives from `CarrierSource`: its method `receive` runs in a thread and hands
on each document, calls `report` for a message that is no document, and `connected` once its connection is open.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import zmq

from cdi_stream.documents import bus
from cdi_stream.errors import WireError
from cdi_stream.messages import Document

logger = logging.getLogger(__name__)

RETRY_S = 1.0
"""Time [s] before a lost connection is opened again; doubles with each failure until a connection is open."""

MAX_RETRY_S = 30.0
"""Longest time [s] between two attempts to connect."""

HandOn = Callable[[str, Document], None]


class CarrierSource(ABC):
    """Document source whose thread connects, receives, and connects again after each of its ``failures``."""

    failures: tuple[type[Exception], ...] = (OSError,)
    """Errors of a connection that is lost or cannot be opened."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.address = address
        self._read, self._write = bus.reader("msgpack"), bus.writer("msgpack")
        self._stopped = threading.Event()
        self._wait_s = RETRY_S
        self.socket = context.socket(zmq.PAIR)
        self._sender = context.socket(zmq.PAIR)
        for end in (self.socket, self._sender):
            end.setsockopt(zmq.RCVHWM, 0)
            end.setsockopt(zmq.SNDHWM, 0)
            end.setsockopt(zmq.LINGER, 0)
        self.socket.bind(f"inproc://documents-{id(self)}")
        self._sender.connect(f"inproc://documents-{id(self)}")
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def start(self) -> None:
        """Start the thread; called at the end of the constructor of a source."""
        self._thread.start()

    def documents(self, on_unusable: Callable[[WireError], None]) -> Iterator[tuple[str, Document]]:
        """Yield name and content of the documents that wait."""
        for name, doc in bus.receive(self.socket, "", self._read, on_unusable=on_unusable):
            if name:
                yield name, doc
            else:
                on_unusable(WireError(doc["error"]))

    def connected(self) -> None:
        """Note that the connection is open, so that the next wait is short again; called by `receive`."""
        logger.info("documents from %s: connected", self.address)
        self._wait_s = RETRY_S

    def report(self, error: WireError) -> None:
        """Hand on the error of a message that is no document, in its place among the documents; called by `receive`."""
        self._hand_on("", {"error": str(error)})

    def close(self) -> None:
        """End the thread and close the sockets."""
        self._stopped.set()
        self.interrupt()
        self._thread.join(10.0)
        self.socket.close(0)
        self._sender.close(0)

    @abstractmethod
    def receive(self, hand_on: HandOn, is_stopped: Callable[[], bool]) -> None:
        """Connect, and hand on documents until stopped; raise one of `failures` when the connection is lost."""

    @abstractmethod
    def interrupt(self) -> None:
        """Let `receive` return soon; called from another thread."""

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.receive(self._hand_on, self._stopped.is_set)
                self._wait_s = RETRY_S
            except self.failures as error:
                if not self._stopped.is_set():
                    wait_s = self._wait_s
                    logger.warning("documents from %s: %r; connecting again in %.0f s", self.address, error, wait_s)
                    self._stopped.wait(wait_s)
                    self._wait_s = min(2 * wait_s, MAX_RETRY_S)

    def _hand_on(self, name: str, doc: Document) -> None:
        self._sender.send(bus.pack(name, self._write(doc)))
