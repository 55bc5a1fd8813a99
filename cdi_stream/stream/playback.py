"""Playback of a message log: the same bytes, over a socket like the detector's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import zmq

from cdi_stream.addresses import is_ipv6
from cdi_stream.errors import EndpointError, ServiceError
from cdi_stream.stream.message_log import read_log

SETTLE_S = 0.5
"""A publisher loses what it sends before its subscribers have met it."""

SEND_TIMEOUT_MS = 30_000


def play_log(
    log: Path, endpoint: str, *, kind: Literal["push", "pub"], bind: bool, speed: float | None
) -> dict[str, int]:
    """Send every message of a log at ``speed`` times its recorded pace, or as fast as it is taken; count them.

    Raises
    ------
    RecordingError
        If the file is no message log.
    EndpointError
        If the endpoint cannot be opened.
    ServiceError
        If nobody takes the messages.
    """
    with zmq.Context() as context, context.socket(zmq.PUSH if kind == "push" else zmq.PUB) as socket:
        socket.setsockopt(zmq.SNDTIMEO, SEND_TIMEOUT_MS)
        socket.setsockopt(zmq.LINGER, SEND_TIMEOUT_MS)
        socket.setsockopt(zmq.IPV6, is_ipv6(endpoint))
        socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued for a listener that never comes
        try:
            (socket.bind if bind else socket.connect)(endpoint)
            time.sleep(SETTLE_S if kind == "pub" else 0)
            n = 0
            for parts in paced(read_log(log), speed):
                socket.send_multipart(parts)
                n += 1
        except zmq.Again as error:
            raise ServiceError(f"nobody at {endpoint} took a message for {SEND_TIMEOUT_MS // 1000} s") from error
        except zmq.ZMQError as error:
            raise EndpointError(f"endpoint {endpoint!r} cannot be opened: {error}; expected tcp://host:port") from error
    return {"messages": n}


def paced(
    messages: Iterable[tuple[int, list[bytes]]],
    speed: float | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterable[list[bytes]]:
    """Yield the parts of each message when its time has come; None does not wait."""
    begin_s, first_ns = clock(), None
    for time_ns, parts in messages:
        first_ns = time_ns if first_ns is None else first_ns
        if speed is not None:
            due_s = begin_s + (time_ns - first_ns) / 1e9 / speed
            sleep(max(0.0, due_s - clock()))
        yield parts
