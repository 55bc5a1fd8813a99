"""Tee: a detector's stream to a file writer (PUSH) and to onlookers (PUB), byte for byte.

A detector pushes each message to one puller only, so that a second PULL takes frames away from the file writer.  The
tee is that one puller.  The writer gets every message: while it takes none, the tee takes none from the detector.  What
a writer had been handed when it died, two or three messages in the connection, dies with it.  Onlookers get what they
keep up with.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

import zmq

from cdi_stream.addresses import is_ipv6
from cdi_stream.errors import EndpointError
from cdi_stream.stream.receive import open_socket

logger = logging.getLogger(__name__)

QUEUE_MESSAGES = 100
"""Messages that may wait for each onlooker."""

WRITER_MESSAGES = 1
"""What waits for a file writer is lost with its connection, so no more than this waits."""

_POLL_MS = 100
_COMPLAIN_S = 5.0


def tee(
    source: str, push: str, publish: str, *, max_message_bytes: int, is_stopped: Callable[[], bool]
) -> dict[str, int]:
    """Pass messages on until stopped; returns how many came and how many the writer took.

    Raises
    ------
    EndpointError
        If an endpoint cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        detector = open_socket(context, source, "pull", bind=False, max_message_bytes=max_message_bytes)
        stack.callback(detector.close, 0)
        writer = _bound(context, zmq.PUSH, push, stack, WRITER_MESSAGES)
        onlookers = _bound(context, zmq.PUB, publish, stack, QUEUE_MESSAGES)
        n_messages = n_written = 0
        while not is_stopped():
            if not detector.poll(_POLL_MS):
                continue
            frames = detector.recv_multipart(copy=False)
            n_messages += 1
            onlookers.send_multipart(frames, copy=False)
            n_written += _hand_over(writer, frames, is_stopped)
    return {"messages": n_messages, "written": n_written}


def _bound(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, endpoint: str, stack: contextlib.ExitStack, n_waiting: int
) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    stack.callback(socket.close, 2000)
    socket.setsockopt(zmq.IPV6, is_ipv6(endpoint))
    socket.setsockopt(zmq.SNDHWM, n_waiting)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise EndpointError(f"endpoint {endpoint!r} cannot be opened: {error}; expected tcp://host:port") from error
    return socket


def _hand_over(writer: zmq.Socket[bytes], frames: list[zmq.Frame], is_stopped: Callable[[], bool]) -> bool:
    """Give one message to the file writer, waiting as long as it takes."""
    complain_s = time.monotonic() + _COMPLAIN_S
    while not writer.poll(_POLL_MS, zmq.POLLOUT):
        if is_stopped():
            logger.warning("stopped with a message in hand that the file writer never took")
            return False
        if time.monotonic() > complain_s:
            logger.warning("the file writer takes no frames: the detector is held up until it does")
            complain_s = time.monotonic() + _COMPLAIN_S
    writer.send_multipart(frames, copy=False)
    return True
