"""Subscribe a RunEngine to cdi-stream: its documents go to the service, which is found or started.

The callback only puts each document into a queue; a thread packs and sends it.  The service is another process, so that
a scan is neither stopped nor slowed, whatever happens behind the queue.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import zmq

from cdi_stream.addresses import is_ipv6
from cdi_stream.documents.bus import pack, writer
from cdi_stream.documents.curve import secure
from cdi_stream.messages import Document
from cdi_stream_plugins.bluesky.acknowledged import AcknowledgedLine
from cdi_stream_plugins.bluesky.bus_settings import bus_settings, documents_table, target_of
from cdi_stream_plugins.bluesky.own_service import OwnService

logger = logging.getLogger(__name__)

MAX_WAITING = 20_000
"""Largest number of documents that wait while no service takes them; further documents are dropped and counted."""

_WAIT_S = 0.02
_PAUSE_S = 0.03
"""Time [s] between two turns of the thread: each turn holds Python's lock, for which the scan would wait."""


class CdiStream:
    """Callback for ``RE.subscribe`` that sends all documents to the service of a configuration.

    With ``documents.source = "process"`` the documents go straight to the service.  With ``"zmq"`` they go to the proxy
    that the configuration names.  A call takes microseconds and raises no error.

    Parameters
    ----------
    config
        Configuration file of the service, or its content.
    is_service_started
        Whether a service is started if none listens; it needs a configuration file.  The service goes on after this
        process; its log is ``cdi-stream-service.log`` beside the configuration.
    service_python
        Python interpreter of the environment in which the service is installed, for example
        ``/opt/cdi-stream/bin/python``; by default the interpreter of this process.

    Attributes
    ----------
    n_sent, n_dropped
        Number of documents sent, and of documents dropped because too many were waiting.
    run_uid
        Uid of the newest run, None before the first one.
    bus
        Address at which the service publishes its results, with their format and the keys for them.

    Raises
    ------
    ConfigError
        If the configuration or a key cannot be read, or the documents come by another source.

    Examples
    --------
    >>> RE.subscribe(CdiStream("beamline.toml"))  # doctest: +SKIP
    """

    def __init__(
        self,
        config: str | Path | Document,
        *,
        is_service_started: bool = True,
        service_python: str | Path = sys.executable,
    ) -> None:
        self.n_sent = self.n_dropped = 0
        self.run_uid: str | None = None
        documents = documents_table(config)
        self._address, kind = target_of(documents)
        self.bus = bus_settings(documents)
        is_startable = is_service_started and kind == zmq.DEALER and not isinstance(config, Mapping)
        self._file = Path(str(config)) if is_startable else None
        self._service_python = str(service_python)
        self._queue: queue.SimpleQueue[tuple[str, Document] | None] = queue.SimpleQueue()
        self._max_waiting = MAX_WAITING
        self._warned_s = -60.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send_all, args=(kind,), name="cdi-stream", daemon=True)
        self._is_connected = threading.Event()
        self._thread.start()

    def __call__(self, name: str, doc: Document) -> None:
        """Put a document into the queue; drop it if too many wait."""
        if name == "start" and isinstance(uid := doc.get("uid"), str):
            self.run_uid = uid
        if self._queue.qsize() >= self._max_waiting:
            self.n_dropped += 1
        else:
            self._queue.put((name, doc))

    def wait_for_service(self, timeout_s: float = 60.0) -> bool:
        """Wait until the service takes documents; return whether it does so within ``timeout_s`` [s].

        A script needs this before its first scan: frames that the detector sends before the service has started may be
        lost.
        """
        return self._is_connected.wait(timeout_s)

    def close(self, timeout_s: float = 2.0) -> None:
        """Send the waiting documents for at most ``timeout_s`` [s], then end the thread; the service goes on."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        self._closing.set()
        self._thread.join()

    def _send_all(self, kind: int) -> None:
        """Body of the thread: keep a service running, pack the documents, and send them in order."""
        is_bus = kind == zmq.PUB
        write = writer(self.bus.serializer if is_bus else "msgpack")
        prefix = self.bus.prefix.encode() if is_bus else b""
        service = OwnService(self._file, self._address, self._service_python)
        with zmq.Context() as context, context.socket(kind) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.setsockopt(zmq.IMMEDIATE, 1)
            socket.setsockopt(zmq.IPV6, is_ipv6(self._address))
            secure(socket, self.bus.curve if is_bus else None)
            socket.connect(self._address)
            line = _BusLine(socket) if is_bus else AcknowledgedLine(socket)
            while not self._closing.is_set():
                service.keep()
                if not self._is_connected.is_set() and socket.poll(0, zmq.POLLOUT):
                    self._is_connected.set()
                for entry in self._entries(line):
                    if entry is None:
                        self._finish(line)
                        return
                    line.send(pack(entry[0], self._packed(write, entry[1]), prefix))
                    self.n_sent += 1
                if not line.step():
                    n_waiting = self._queue.qsize() + line.n_waiting
                    self._warn(f"no service takes documents at {self._address}: {n_waiting} documents wait")

    def _entries(self, line: Line) -> Iterator[tuple[str, Document] | None]:
        """Yield the entries of the queue until it is empty or the line is full; pause after them.

        The first one is waited for and goes out at once; what comes during the pause goes out together.
        """
        with contextlib.suppress(queue.Empty):
            if not line.is_full:
                yield self._queue.get(timeout=_WAIT_S)
            while not line.is_full:
                yield self._queue.get_nowait()
        time.sleep(_PAUSE_S)

    def _finish(self, line: Line) -> None:
        """Wait until all documents are taken, or the time of `close` is over."""
        while line.n_waiting and not self._closing.is_set():
            line.step()
            time.sleep(_WAIT_S)

    def _packed(self, write: Callable[[Document], bytes], doc: Document) -> bytes:
        try:
            return bytes(write(doc))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            self._warn(f"a document cannot be packed and goes out with its uid only: {error!r:.200}")
            return bytes(write({key: str(doc[key]) for key in ("uid", "run_start", "descriptor") if key in doc}))

    def _warn(self, text: str) -> None:
        if time.monotonic() - self._warned_s > 60.0:
            self._warned_s = time.monotonic()
            logger.warning("cdi-stream: %s", text)


class _BusLine:
    """Way to a document proxy, which acknowledges nothing."""

    is_full = False
    n_waiting = 0

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def send(self, message: bytes) -> None:
        """Send a message."""
        self._socket.send(message)

    def step(self) -> bool:
        """Do nothing: nobody tells whether a message was received."""
        return True


Line = _BusLine | AcknowledgedLine
