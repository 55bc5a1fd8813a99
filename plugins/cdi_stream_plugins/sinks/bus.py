"""Publish documents to Bluesky's ZeroMQ bus."""

from __future__ import annotations

import time

import zmq

from cdi_stream.addresses import CurveKeys, is_ipv6
from cdi_stream.documents.bus import pack, writer
from cdi_stream.documents.curve import secure
from cdi_stream.errors import ConfigError, EndpointError
from cdi_stream.messages import Document

SETTLE_S = 0.5
"""Pause after each connection to the proxy [s]: documents are lost to subscribers that are not connected yet."""

LINGER_MS = 2000
"""Longest time that `BusSink.close` waits for unsent documents [ms]."""


class BusSink:
    """Sink that publishes to a bluesky ZeroMQ proxy, in the format of `bluesky.callbacks.zmq.Publisher`.

    Documents wait while the proxy is not reachable.  With ``is_immediate`` they are dropped, for a sender that checks
    their arrival and sends them again; the first document after a restart of the proxy then waits for its subscribers,
    which connect again one after the other.
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
        self._is_unreported = False
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.setsockopt(zmq.IMMEDIATE, is_immediate)
        self._connections = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        address = address if "://" in address else f"tcp://{address}"
        self._socket.setsockopt(zmq.IPV6, is_ipv6(address))
        try:
            secure(self._socket, curve)
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise EndpointError(f"document bus {address!r}: {error}; expected tcp://host:port") from error
        except ConfigError:
            self.close()
            raise
        time.sleep(SETTLE_S)
        self._is_new_connection()

    def __call__(self, name: str, doc: Document) -> None:
        """Send one document."""
        self._is_unreported = self.settle()
        self._socket.send(pack(name, self._write(dict(doc)), self._prefix))

    def settle(self) -> bool:
        """After a new connection to the proxy, wait `SETTLE_S` for its subscribers and return true; else false at once.

        A connection that was found while a document was sent counts at the next call.
        """
        is_new = self._is_new_connection()
        if is_new:
            time.sleep(SETTLE_S)
        was_unreported, self._is_unreported = self._is_unreported, False
        return is_new or was_unreported

    def close(self) -> None:
        """Send queued documents for at most `LINGER_MS`, then close the socket."""
        if self._socket.closed:
            return
        self._socket.disable_monitor()
        self._connections.close(0)
        self._socket.close()
        self._context.term()

    def _is_new_connection(self) -> bool:
        """Whether a connection to the proxy was made since the last call."""
        is_new = False
        while self._connections.poll(0):
            self._connections.recv_multipart()
            is_new = True
        return is_new
