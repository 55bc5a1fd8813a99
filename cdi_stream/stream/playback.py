"""Playback of a message log: the recorded bytes, sent over a socket like the detector's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import zmq

from cdi_stream.addresses import is_ipv6
from cdi_stream.errors import EndpointError, ServiceError
from cdi_stream.stream.message_log import read_log

SUBSCRIBE_S = 0.5
"""Time [s] that a publisher waits for subscribers before its first message; earlier messages would be lost."""

SEND_TIMEOUT_MS = 30_000
"""Time [ms] after which playback fails because no receiver takes a message."""


def play_log(
    log: Path, endpoint: str, *, kind: Literal["push", "pub"], bind: bool, speed: float | None
) -> dict[str, int]:
    """Send every message of a log; return their number as ``{"messages": n}``.

    Parameters
    ----------
    log
        File of the message log.
    endpoint, kind, bind
        Address and type of the socket, and whether it is bound or connected.
    speed
        Factor on the recorded pace; None sends as fast as the receiver takes the messages.

    Raises
    ------
    RecordingError
        If the file is no message log.
    EndpointError
        If the endpoint cannot be opened.
    ServiceError
        If no receiver takes a message within `SEND_TIMEOUT_MS`.
    """
    with zmq.Context() as context, context.socket(zmq.PUSH if kind == "push" else zmq.PUB) as socket:
        socket.setsockopt(zmq.SNDTIMEO, SEND_TIMEOUT_MS)
        socket.setsockopt(zmq.LINGER, SEND_TIMEOUT_MS)
        socket.setsockopt(zmq.IPV6, is_ipv6(endpoint))
        socket.setsockopt(zmq.IMMEDIATE, 1)  # queues no message for a receiver that is not connected
        try:
            (socket.bind if bind else socket.connect)(endpoint)
            time.sleep(SUBSCRIBE_S if kind == "pub" else 0)
            n = 0
            for parts in keep_pace(read_log(log), speed):
                socket.send_multipart(parts)
                n += 1
        except zmq.Again as error:
            raise ServiceError(
                f"expected a receiver at {endpoint}, but none took a message for {SEND_TIMEOUT_MS // 1000} s; "
                "is it running, and the address right?"
            ) from error
        except zmq.ZMQError as error:
            raise EndpointError(f"endpoint {endpoint!r} cannot be opened: {error}; expected tcp://host:port") from error
    return {"messages": n}


def keep_pace(
    messages: Iterable[tuple[int, list[bytes]]],
    speed: float | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterable[list[bytes]]:
    """Yield the parts of each message at ``speed`` times the recorded pace; with None, without waiting."""
    begin_s, first_ns = clock(), None
    for time_ns, parts in messages:
        first_ns = time_ns if first_ns is None else first_ns
        if speed is not None:
            due_s = begin_s + (time_ns - first_ns) / 1e9 / speed
            sleep(max(0.0, due_s - clock()))
        yield parts
