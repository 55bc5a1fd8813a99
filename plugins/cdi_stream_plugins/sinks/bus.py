"""Documents to Bluesky's 0MQ bus."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import zmq

from cdi_stream.addresses import is_ipv6
from cdi_stream.documents.bus import writer
from cdi_stream.errors import EndpointError

SETTLE_S = 0.5
LINGER_MS = 2000


class BusSink:
    """Publishes to a bluesky 0MQ proxy, in the framing of `bluesky.callbacks.zmq.Publisher`.

    While the proxy is away documents wait for it; with ``is_immediate`` they are dropped instead, for a sender that
    listens whether it was heard and sends again.
    """

    def __init__(
        self, *, address: str, prefix: str = "", serializer: str = "msgpack", is_immediate: bool = False
    ) -> None:
        self._prefix = prefix.encode()
        self._write = writer(serializer)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.setsockopt(zmq.IMMEDIATE, is_immediate)
        address = address if "://" in address else f"tcp://{address}"
        self._socket.setsockopt(zmq.IPV6, is_ipv6(address))
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise EndpointError(f"document bus {address!r}: {error}; expected tcp://host:port") from error
        # A publisher loses what it sends before its subscribers have met it.
        time.sleep(SETTLE_S)

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Send one document."""
        self._socket.send(b" ".join((self._prefix, name.encode(), self._write(dict(doc)))))

    def close(self) -> None:
        """Send what is queued, for a while, then close."""
        self._socket.close()
        self._context.term()
