"""Publish the documents of a RunEngine to the ZeroMQ bus; no document raises an exception in the plan."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zmq
from bluesky.callbacks.zmq import Publisher

from cdi_stream.documents.bus import pack, writer
from cdi_stream.errors import EndpointError
from cdi_stream.messages import Document

logger = logging.getLogger(__name__)

LARGE_ARRAY = 10_000
"""Largest number of values in a reading without a warning: ten images of 32 x 32 pixels.

For scale: a frame of 4.5 million pixels takes 0.13 s of the RunEngine's time, measured on one x86 core.
"""

LINGER_MS = 2000
"""Longest time that `close` waits for unsent documents [ms]; the default of ZeroMQ has no limit."""

MAX_WAITING = 100_000
"""Largest number of documents that wait for a slow proxy; further documents are lost.

The default of ZeroMQ is 1000, about the points of one fast scan.
"""


class ClientCurve(Protocol):
    """Key files of CurveZMQ, the fields of `bluesky.callbacks.zmq.ClientCurve`."""

    secret_path: Path
    server_public_key: Path


def publisher(
    address: str | tuple[str, int],
    serializer: str = "msgpack",
    *,
    prefix: str | bytes = b"",
    curve_config: ClientCurve | None = None,
) -> DocumentPublisher:
    """Return a publisher for ``RE.subscribe`` that sends documents with any content to a proxy.

    Parameters
    ----------
    address
        In address of the proxy, ``"host:port"`` or any form that `bluesky.callbacks.zmq.Publisher` accepts.
    serializer
        ``"msgpack"`` or ``"json"``, equal to ``documents.serializer`` in the service's configuration.
    prefix
        Prefix of the messages, equal to ``documents.prefix``; without blanks.
    curve_config
        Keys for a proxy with CurveZMQ (`bluesky.callbacks.zmq.ClientCurve`).

    Raises
    ------
    ConfigError
        If the serializer is unknown.
    EndpointError
        If the address is not valid.

    Examples
    --------
    >>> RE.subscribe(publisher("127.0.0.1:5577"))  # doctest: +SKIP
    """
    prefix = prefix.encode() if isinstance(prefix, str) else prefix
    try:
        return DocumentPublisher(address, serializer, prefix=prefix, curve_config=curve_config)
    except zmq.ZMQError as error:
        raise EndpointError(
            f"document bus {address!r}: {error}; expected host:port of the proxy's in address"
        ) from error


class DocumentPublisher(Publisher):
    """A `bluesky.callbacks.zmq.Publisher` that never raises into the plan.

    A value that msgpack and JSON cannot represent becomes a plain value (`cdi_stream.documents.plain.to_plain`); a
    complex number becomes a map of ``real`` and ``imag``.  A value of an unknown type is replaced by its text, so that
    the other values of the document arrive.  A document that cannot be sent is dropped.  Replacements and dropped
    documents are counted, and each reason is logged once.

    A publisher that is subscribed twice sends each document once.  Two publishers at one address send it twice; the
    service ignores the second copy.

    Attributes
    ----------
    n_sent, n_replaced, n_dropped, n_repeated
        Number of documents sent, of values replaced by their text, of documents dropped, and of repeated documents.
    """

    def __init__(
        self,
        address: str | tuple[str, int],
        serializer: str = "msgpack",
        *,
        prefix: bytes = b"",
        curve_config: Any = None,
    ) -> None:
        self.n_sent = self.n_replaced = self.n_dropped = self.n_repeated = 0
        self._logged: set[str] = set()
        self._last: tuple[str, Any] | None = None
        write = writer(serializer, self._replaced)
        try:
            super().__init__(address, prefix=prefix, serializer=write, curve_config=curve_config)
        except zmq.ZMQError as error:
            self.close()  # type: ignore[no-untyped-call]
            raise EndpointError(f"document bus {address!r}: {error}; expected host:port of the proxy") from error
        self._set_options()

    def _set_options(self) -> None:
        """Set options that bluesky does not set, and connect again, since they hold for new connections only."""
        self._socket.disconnect(self.address)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.setsockopt(zmq.SNDHWM, MAX_WAITING)
        self._socket.setsockopt(zmq.IPV6, 1)
        self._socket.connect(self.address)

    def __call__(self, name: str, doc: Document) -> None:
        """Send one document; no error is raised."""
        try:
            self._send(str(name), doc)
        except Exception as error:  # noqa: BLE001 - an error here must not stop the plan
            self.n_dropped += 1
            self._warn_once(f"a document is not sent ({type(error).__name__}: {error})")

    def _send(self, name: str, doc: Document) -> None:
        identity = (name, doc.get("uid", doc.get("datum_id")))
        if identity[1] is not None and identity == self._last:
            self.n_repeated += 1
            self._warn_once("this publisher is subscribed more than once: each document is sent once")
            return
        for key in _large_arrays(name, doc):
            self._warn_once(
                f"arrays in events: {key!r} has more than {LARGE_ARRAY} numbers; they are sent, but images "
                "belong into files that documents name, and frames come by the detector's stream"
            )
        self._socket.send(pack(name, self._serializer(doc), self._prefix))
        self._last = identity
        self.n_sent += 1

    def _replaced(self, report: str) -> None:
        self.n_replaced += 1
        self._warn_once(report)

    def _warn_once(self, message: str) -> None:
        if message not in self._logged:
            self._logged.add(message)
            logger.warning("publisher to %s: %s", self.address, message)


def _large_arrays(name: str, doc: Document) -> Iterator[str]:
    """Yield the keys of an event's readings that hold a large array."""
    data = doc.get("data") if name in ("event", "event_page") else None
    for key, value in data.items() if isinstance(data, Mapping) else ():
        reading = value[0] if name == "event_page" and isinstance(value, list) and value else value
        if _n_numbers(reading) > LARGE_ARRAY:
            yield key


def _n_numbers(value: Any) -> int:
    """Return about how many numbers an array or a nested list holds."""
    if isinstance(value, np.ndarray):
        return value.size
    return len(value) * _n_numbers(value[0]) if isinstance(value, list) and value else 1
