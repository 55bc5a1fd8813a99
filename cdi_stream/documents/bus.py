"""Documents on the 0MQ bus: ``prefix name payload``, payload in msgpack or JSON.

Unpickling what came from a socket would run whatever the sender likes, so pickle is taken only where a
configuration says so by name, and belongs on loopback.
"""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import zmq

from cdi_stream.addresses import is_ipv6
from cdi_stream.documents.plain import Report, to_plain
from cdi_stream.errors import ConfigError, EndpointError, WireError

logger = logging.getLogger(__name__)

SERIALIZERS = ("msgpack", "json", "pickle")


def writer(serializer: str, report: Report = lambda _: None) -> Callable[[Any], bytes]:
    """Return the function that turns a document into bytes; ``report`` hears of values replaced by their text."""
    match serializer:
        case "msgpack":
            return lambda doc: msgpack.packb(to_plain(doc, report))
        case "json":
            return lambda doc: json.dumps(to_plain(doc, report)).encode()
        case "pickle":
            return pickle.dumps
    raise ConfigError(f"expected a serializer out of {', '.join(SERIALIZERS)}, got {serializer!r}")


def reader(serializer: str) -> Callable[[bytes], Any]:
    """Return the function that turns bytes into a document."""
    match serializer:
        case "msgpack":
            return lambda data: msgpack.unpackb(data, strict_map_key=False)
        case "json":
            return json.loads
        case "pickle":
            return pickle.loads
    raise ConfigError(f"expected a serializer out of {', '.join(SERIALIZERS)}, got {serializer!r}")


def unpack(message: bytes, prefix: bytes, read: Callable[[bytes], Any]) -> tuple[str, dict[str, Any]] | None:
    """Split one bus message into document name and document; None if it is for another prefix.

    Raises
    ------
    WireError
        If the message is not a document.
    """
    parts = message.split(b" ", 2)
    if len(parts) != 3:
        raise WireError(f"expected 'prefix name payload' on the document bus, got {message[:40]!r}")
    if parts[0] != prefix:
        return None
    try:
        doc = read(parts[2])
    except Exception as error:  # serializers are foreign code and raise errors of many kinds
        how = "pickled, as a bare bluesky Publisher sends it" if parts[2][:1] == b"\x80" else "not in our serializer"
        raise WireError(
            f"document on the bus cannot be read ({error!s:.80}): it seems to be {how}; do both ends use the same one?"
        ) from error
    if not isinstance(doc, dict):
        raise WireError(f"expected a document on the bus, got {type(doc).__name__}")
    return parts[1].decode(errors="replace"), doc


def listen(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    """Open a socket on a proxy's out address; it queues without a limit, because documents are small and few."""
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.IPV6, is_ipv6(address))
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 10_000)  # a proxy that lost power says no farewell
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
    try:
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.close(0)
        raise EndpointError(f"document bus {address!r}: {error}; expected tcp://host:port") from error
    return socket


def _logged(error: WireError) -> None:
    logger.warning("document dropped: %s", error)


def received(
    socket: zmq.Socket[bytes],
    prefix: str,
    read: Callable[[bytes], Any],
    timeout_ms: int = 0,
    on_unusable: Callable[[WireError], None] = _logged,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the documents that wait, or come within the time; ``on_unusable`` is told of what is no document."""
    while socket.poll(timeout_ms):
        timeout_ms = 0
        try:
            unpacked = unpack(socket.recv(), prefix.encode(), read)
        except WireError as error:
            on_unusable(error)
            continue
        if unpacked is not None:
            yield unpacked
