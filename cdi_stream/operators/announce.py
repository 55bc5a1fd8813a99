"""Announcer: publishes the messages of the operators' feed without ever waiting for a receiver."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path

import zmq

from cdi_stream.addresses import is_ipv6
from cdi_stream.documents.curve import serve_with
from cdi_stream.documents.proxy import authenticator
from cdi_stream.errors import EndpointError
from cdi_stream.operators.feed import FeedMessage, pack

logger = logging.getLogger(__name__)

MAX_WAITING = 50
"""Number of messages that may wait; of more, the oldest are dropped."""


class Announcer:
    """Publishes the feed: `tell` adds a message from any thread, `send` publishes them from one thread.

    Parameters
    ----------
    endpoint
        Address to bind; None makes an announcer that publishes nothing.
    wall_clock
        Time [s since the epoch].
    secret
        File with the feed's secret key (CurveZMQ); then only clients whose public keys lie in the same folder are let
        in.  None lets everybody in.

    Raises
    ------
    ConfigError
        If ``secret`` is no secret key.
    EndpointError
        If the address cannot be bound.
    """

    def __init__(
        self, endpoint: str | None, wall_clock: Callable[[], float] = time.time, secret: Path | None = None
    ) -> None:
        self._waiting: deque[FeedMessage] = deque(maxlen=MAX_WAITING)
        self._wall_clock = wall_clock
        self._service = uuid.uuid4().hex[:8]
        self._n_sent = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with contextlib.ExitStack() as stack:
            stack.callback(self._context.term)
            if endpoint is not None and secret is not None:
                stack.enter_context(authenticator(self._context, secret.parent))
            self._socket = None if endpoint is None else _bind(self._context, endpoint, secret, stack)
            self._open = stack.pop_all()

    @property
    def is_on(self) -> bool:
        """Whether the feed is published."""
        return self._socket is not None

    def tell(self, message: FeedMessage) -> None:
        """Add a message; if more than `MAX_WAITING` wait, the oldest is dropped."""
        if self.is_on:
            self._waiting.append(message)

    def send(self) -> None:
        """Publish the waiting messages; a receiver that is too slow loses messages."""
        while self._waiting and self._socket is not None:
            header, images = self._waiting.popleft()
            self._n_sent += 1
            complete_header = {**header, "service": self._service, "seq": self._n_sent, "time_s": self._wall_clock()}
            try:
                self._socket.send_multipart(pack(complete_header, images), zmq.NOBLOCK)
            except (TypeError, ValueError):
                logger.exception("a %s message for the operators cannot be written as JSON: left out", header["kind"])

    def close(self) -> None:
        """Stop publishing, and close the socket."""
        self._open.close()


def _bind(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, secret: Path | None, stack: contextlib.ExitStack
) -> zmq.Socket[bytes]:
    """Return a publishing socket that is bound to ``endpoint``, with a key if there is one; ``stack`` closes it."""
    socket = context.socket(zmq.PUB)
    stack.callback(socket.close, 200)
    socket.setsockopt(zmq.SNDHWM, MAX_WAITING)
    socket.setsockopt(zmq.IPV6, is_ipv6(endpoint))
    if secret is not None:
        serve_with(socket, secret)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise EndpointError(
            f"feed.endpoint {endpoint!r} cannot be opened: {error}; expected tcp://host:port"
        ) from error
    return socket
