"""Sockets that are opened before anything heavy is loaded: what is published meanwhile waits in them.

A service that starts again in mid-scan loses the documents, and the frames of a publishing detector, that go out
before it subscribes.  Loading torch and warming up a network take seconds, connecting takes milliseconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import zmq

from cdi_stream.config import Config
from cdi_stream.documents import bus
from cdi_stream.stream.detector import socket_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    """Connections of a service: ``documents`` for the assembler, ``delivery_monitor`` for what of ours is heard.

    ``detector`` is None where it has not been opened yet.
    """

    context: zmq.Context[zmq.Socket[bytes]]
    documents: zmq.Socket[bytes]
    delivery_monitor: zmq.Socket[bytes]
    detector: zmq.Socket[bytes] | None


@contextlib.contextmanager
def open_sockets(config: Config) -> Iterator[Sockets]:
    """Connect to the document bus, and to a detector that publishes whether or not anybody listens.

    A detector that pushes waits by itself; it is left alone until the service can take its frames.

    Raises
    ------
    EndpointError
        If an address is none.
    """
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        documents, delivery_monitor = (bus.listen(context, config.documents.subscribe) for _ in range(2))
        stack.callback(documents.close, 0)
        stack.callback(delivery_monitor.close, 0)
        detector = socket_of(config.detector, context) if config.detector.socket == "sub" else None
        if detector is not None:
            stack.callback(detector.close, 0)
        yield Sockets(context=context, documents=documents, delivery_monitor=delivery_monitor, detector=detector)
