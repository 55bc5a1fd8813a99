"""Publish documents to Bluesky's ZeroMQ bus."""

from __future__ import annotations

import time

import zmq

from cdi_stream.addresses import CurveKeys, is_ipv6
from cdi_stream.documents.bus import pack, writer
from cdi_stream.documents.curve import secure
from cdi_stream.errors import EndpointError
from cdi_stream.messages import Document

SETTLE_S = 0.5
"""Pause after connecting [s]; a publisher loses documents that it sends before its subscribers are connected."""

LINGER_MS = 2000
"""Longest time that `BusSink.close` waits for unsent documents [ms]."""


class BusSink:
    """Sink that publishes to a bluesky ZeroMQ proxy, in the format of `bluesky.callbacks.zmq.Publisher`.

    Documents wait while the proxy is not reachable.  With ``is_immediate`` they are dropped, for a sender that checks
    their arrival and sends them again.
    """

    def __init__(
        self,
        *,
        address: str,
        prefix: str = "",
        serializer: str = "msgpack",
        curve: CurveKeys | None = None,
        is_immediate: bool = False,
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
            secure(self._socket, curve)
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise EndpointError(f"document bus {address!r}: {error}; expected tcp://host:port") from error
        time.sleep(SETTLE_S)

    def __call__(self, name: str, doc: Document) -> None:
        """Send one document."""
        self._socket.send(pack(name, self._write(dict(doc)), self._prefix))

    def close(self) -> None:
        """Send queued documents for at most `LINGER_MS`, then close the socket."""
        self._socket.close()
        self._context.term()
