"""Receive documents from RunEngines of this machine that `cdi_stream_plugins.bluesky.CdiStream` is subscribed to.

Messages have two parts: a number of 8 bytes (big-endian), which counts the documents of the sender, and the document as
on the bus.  The number is sent back when the service has taken the document; the sender sends again what was not
acknowledged.  A document that comes twice is harmless, since each has its uid or its sequence number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import zmq

from cdi_stream.addresses import is_ipv6
from cdi_stream.documents import bus
from cdi_stream.errors import EndpointError, WireError
from cdi_stream.messages import Document


class ProcessSource:
    """Document source that listens at ``address`` itself, and acknowledges each document."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self._read = bus.reader("msgpack")
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.IPV6, is_ipv6(address))
        try:
            self.socket.bind(address)
        except zmq.ZMQError as error:
            self.socket.close(0)
            raise EndpointError(
                f"documents.address {address!r}: {error}; does another service listen there already?"
            ) from error

    def documents(self, on_unusable: Callable[[WireError], None]) -> Iterator[tuple[str, Document]]:
        """Yield name and content of the documents that wait; each is acknowledged when the next one is asked for."""
        while self.socket.poll(0):
            sender, *parts = self.socket.recv_multipart()
            try:
                unpacked = bus.unpack(parts[-1] if parts else b"", b"", self._read)
            except WireError as error:
                on_unusable(error)
            else:
                if unpacked is not None:
                    yield unpacked
            if len(parts) == 2:
                self.socket.send_multipart([sender, parts[0]])

    def close(self) -> None:
        """Close the socket."""
        self.socket.close(0)
