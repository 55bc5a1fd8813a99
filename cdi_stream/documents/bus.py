"""Documents on the 0MQ bus: messages ``prefix name payload``, payload in msgpack or JSON.

To unpickle a message from a socket runs any code that its sender chose.  Pickle is therefore used only if the
configuration names it, and belongs on loopback addresses.
"""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import zmq

from cdi_stream.addresses import CurveKeys, is_ipv6
from cdi_stream.documents.curve import secure
from cdi_stream.documents.plain import Report, to_plain
from cdi_stream.errors import ConfigError, EndpointError, WireError

logger = logging.getLogger(__name__)

SERIALIZERS = ("msgpack", "json", "pickle")
"""Names of the payload formats."""


def writer(serializer: str, report: Report = lambda _: None) -> Callable[[Any], bytes]:
    """Return the function that turns a document into bytes; ``report`` is called as in `to_plain`."""
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


def pack(name: str, payload: bytes, prefix: bytes = b"") -> bytes:
    """Return the bus message of a document, whose content a function from `writer` has turned into bytes."""
    return b" ".join((prefix, name.encode(), payload))


def unpack(message: bytes, prefix: bytes, read: Callable[[bytes], Any]) -> tuple[str, dict[str, Any]] | None:
    """Return name and document of one bus message; None if it has another prefix.

    Raises
    ------
    WireError
        If the message is no document.
    """
    parts = message.split(b" ", 2)
    if len(parts) != 3:
        raise WireError(f"expected 'prefix name payload' on the document bus, got {message[:40]!r}")
    if parts[0] != prefix:
        return None
    try:
        doc = read(parts[2])
    except Exception as error:
        form = "pickled, as a bluesky Publisher sends it by default" if parts[2][:1] == b"\x80" else "another format"
        raise WireError(
            f"document on the bus cannot be read ({error!s:.80}): its payload seems to be {form}; "
            "do documents.serializer and the sender name the same serializer?"
        ) from error
    if not isinstance(doc, dict):
        raise WireError(f"expected a document on the bus, got {type(doc).__name__}")
    return parts[1].decode(errors="replace"), doc


RECONNECT_MS = 100
"""Time between two attempts to connect to a proxy that is down [ms], half as much again on average.

It does not grow, so that a listener is back before a sender begins again (`cdi_stream_plugins.sinks.bus.SETTLE_S`).
"""


def listen(context: zmq.Context[zmq.Socket[bytes]], address: str, curve: CurveKeys | None = None) -> zmq.Socket[bytes]:
    """Return a socket that receives all documents from a proxy's out address.

    Its queue has no limit, because documents are small and few.  ``curve`` are the keys for a proxy with CurveZMQ.

    Raises
    ------
    EndpointError
        If the address is invalid.
    ConfigError
        If a key cannot be read.
    """
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.IPV6, is_ipv6(address))
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 10_000)  # notices a proxy that lost power
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
    try:
        secure(socket, curve)
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.close(0)
        raise EndpointError(f"document bus {address!r}: {error}; expected tcp://host:port") from error
    except ConfigError:
        socket.close(0)
        raise
    return socket


def _log_unusable(error: WireError) -> None:
    logger.warning("document left out: %s", error)


def receive(
    socket: zmq.Socket[bytes],
    prefix: str,
    read: Callable[[bytes], Any],
    timeout_ms: int = 0,
    on_unusable: Callable[[WireError], None] = _log_unusable,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and document of the messages that wait in a socket.

    Parameters
    ----------
    socket
        Socket from `listen`.
    prefix
        Prefix of the messages that are documents for this service.
    read
        Function from `reader`.
    timeout_ms
        Time to wait for the first message [ms].
    on_unusable
        Called with the error of each message that is no document.
    """
    while socket.poll(timeout_ms):
        timeout_ms = 0
        try:
            unpacked = unpack(socket.recv(), prefix.encode(), read)
        except WireError as error:
            on_unusable(error)
            continue
        if unpacked is not None:
            yield unpacked
