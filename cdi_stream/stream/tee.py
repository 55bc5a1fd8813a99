"""Tee: passes a detector's stream on to a file writer (PUSH) and to subscribers (PUB), byte for byte.

A detector pushes each message to one PULL socket only, so that a second PULL socket takes frames away from the file
writer.  The tee is the only PULL socket of the detector.  The file writer gets every message: while it takes no
message, the tee takes none from the detector.  If the writer dies, the two or three messages in its connection are
lost.  A subscriber that is too slow loses messages.
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
"""Number of messages that may wait for each subscriber."""

WRITER_MESSAGES = 1
"""Number of messages that may wait for the file writer; waiting messages are lost with its connection."""

_POLL_MS = 100
_COMPLAIN_S = 5.0


def tee(
    source: str, push: str, publish: str, *, max_message_bytes: int, is_stopped: Callable[[], bool]
) -> dict[str, int]:
    """Pass messages on until stopped; return the numbers of ``messages`` from the detector and ``written`` ones.

    Parameters
    ----------
    source
        Address of the detector, which pushes.
    push, publish
        Addresses to bind for the file writer and for the subscribers.
    max_message_bytes
        Largest size of a message [bytes].
    is_stopped
        Tells whether to end.

    Raises
    ------
    EndpointError
        If an endpoint cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        detector = open_socket(context, source, "pull", bind=False, max_message_bytes=max_message_bytes)
        stack.callback(detector.close, 0)
        writer = _bind(context, zmq.PUSH, push, stack, WRITER_MESSAGES)
        subscribers = _bind(context, zmq.PUB, publish, stack, QUEUE_MESSAGES)
        n_messages = n_written = 0
        while not is_stopped():
            if not detector.poll(_POLL_MS):
                continue
            frames = detector.recv_multipart(copy=False)
            n_messages += 1
            subscribers.get(zmq.EVENTS)  # notes messages that were read; libzmq does so up to 1 ms late
            subscribers.send_multipart(frames, copy=False)
            n_written += _hand_over(writer, frames, is_stopped)
    return {"messages": n_messages, "written": n_written}


def _bind(
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
    """Send one message to the file writer, without a time limit; false if stopped before the writer took it."""
    complain_s = time.monotonic() + _COMPLAIN_S
    while not writer.poll(_POLL_MS, zmq.POLLOUT):
        if is_stopped():
            logger.warning("stopped while the file writer took no messages: one message of the detector is lost")
            return False
        if time.monotonic() > complain_s:
            logger.warning("the file writer takes no messages: the detector has to wait for it; is the writer running?")
            complain_s = time.monotonic() + _COMPLAIN_S
    writer.send_multipart(frames, copy=False)
    return True
