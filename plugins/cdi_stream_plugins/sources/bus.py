"""Receive documents from Bluesky's ZeroMQ proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import zmq

from cdi_stream.addresses import CurveKeys
from cdi_stream.documents import bus
from cdi_stream.errors import WireError
from cdi_stream.messages import Document


class BusSource:
    """Document source on the out address of a proxy; options are ``prefix``, ``serializer`` and key files.

    ZeroMQ loses documents that are published while nobody listens.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        *,
        prefix: str = "",
        serializer: str = "msgpack",
        curve_secret: str | None = None,
        curve_server: str | None = None,
    ) -> None:
        self._prefix = prefix
        self._read = bus.reader(serializer)
        self.socket = bus.listen(context, address, CurveKeys.of(curve_secret, curve_server))

    def documents(self, on_unusable: Callable[[WireError], None]) -> Iterator[tuple[str, Document]]:
        """Yield name and content of the documents that wait."""
        return bus.receive(self.socket, self._prefix, self._read, on_unusable=on_unusable)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close(0)
