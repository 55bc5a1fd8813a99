"""Receive documents from RunEngines of this machine that `cdi_stream_plugins.bluesky.CdiStream` is subscribed to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import zmq

from cdi_stream.addresses import is_ipv6
from cdi_stream.documents import bus
from cdi_stream.errors import EndpointError, WireError
from cdi_stream.messages import Document


class ProcessSource:
    """Document source that listens at ``address`` itself; no document is lost between the two processes."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self._read = bus.reader("msgpack")
        self.socket = context.socket(zmq.PULL)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.setsockopt(zmq.IPV6, is_ipv6(address))
        try:
            self.socket.bind(address)
        except zmq.ZMQError as error:
            self.socket.close(0)
            raise EndpointError(
                f"documents.address {address!r}: {error}; does another service listen there already?"
            ) from error

    def documents(self, on_unusable: Callable[[WireError], None]) -> Iterator[tuple[str, Document]]:
        """Yield name and content of the documents that wait."""
        return bus.receive(self.socket, "", self._read, on_unusable=on_unusable)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close(0)
