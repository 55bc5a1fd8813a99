"""Receive: one detector socket, one decoder; malformed messages are counted, logged and dropped."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import zmq

from cdi_stream.errors import ServiceError, WireError
from cdi_stream.messages import WireMessage
from cdi_stream.protocols import Decoder

logger = logging.getLogger(__name__)

SocketKind = Literal["pull", "sub"]


def open_socket(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, kind: SocketKind, *, bind: bool, max_message_bytes: int
) -> zmq.Socket[bytes]:
    """Open the detector's socket: bounded messages, capped reconnection, no lingering.

    Raises
    ------
    ServiceError
        If the endpoint cannot be bound or is no endpoint.
    """
    socket = context.socket(zmq.PULL if kind == "pull" else zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVHWM, 200)
    socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    if kind == "sub":
        socket.setsockopt(zmq.SUBSCRIBE, b"")
    try:
        (socket.bind if bind else socket.connect)(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise ServiceError(
            f"detector endpoint {endpoint!r} cannot be opened: {error}; expected tcp://host:port"
        ) from error
    return socket


class Receiver:
    """Reads one socket; `receive` returns a message, or None when the wire had nothing for us."""

    def __init__(self, socket: zmq.Socket[bytes], decoder: Decoder) -> None:
        self.socket = socket
        self.n_messages = 0
        self.n_malformed = 0
        self._decoder = decoder

    def receive(self) -> WireMessage | None:
        """Take one message without waiting; a frame's pixels are good until the next call."""
        try:
            parts = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        self.n_messages += 1
        try:
            return self._decoder.decode([part.buffer for part in parts])
        except WireError as error:
            self.refuse(error)
            return None

    def messages(self, at_most: int = 32) -> Iterator[WireMessage]:
        """Take what waits, ``at_most`` so many; each message is good until the next is asked for."""
        for _ in range(at_most):
            n_before = self.n_messages
            message = self.receive()
            if self.n_messages == n_before:
                return
            if message is not None:
                yield message

    def refuse(self, error: WireError) -> None:
        """Count and log a message that cannot be used."""
        self.n_malformed += 1
        logger.warning("message dropped: %s", error)
