"""Connection: limits on size and time of the requests of a browser, before its token is checked."""

from __future__ import annotations

import asyncio
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 5.0
"""Time [s] in which a connection must send a whole request; a browser on a slow link needs less than one second."""

MAX_HEADER_BYTES = 16 << 10
"""Size limit [bytes] of the first line and the headers of a request; a browser sends less than 2 KiB."""

MAX_CONNECTIONS = 256
"""Number of connections above which the longest waiting one is closed; a process may usually open 1024 files."""

SEND_BUFFER_BYTES = 64 << 10
"""Send buffer [bytes] of each connection; a small buffer keeps a slow browser from showing old frames."""

UNREAD_S = 10
"""Time [s] after which a connection is closed if the browser reads none of the bytes sent to it."""


class Connection(H11Protocol):
    """HTTP connection that is closed unless a whole request comes within `REQUEST_S`.

    If there are more than `MAX_CONNECTIONS`, the connection that has waited longest for a request is closed.  A
    connection whose request is being answered is never closed for this reason.
    """

    _deadline: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the server waits for a request, or for the rest of a request."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    @property
    def deadline_s(self) -> float:
        """Time at which the next request must be complete, by the clock of the event loop [s]."""
        return 0.0 if self._deadline is None else self._deadline.when()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set the limits of a new connection."""
        super().connection_made(transport)
        _limit(transport.get_extra_info("socket"))
        self._await_request()
        if len(self.connections) > MAX_CONNECTIONS:
            waiting = [peer for peer in self.connections if isinstance(peer, Connection) and peer.is_waiting]
            min(waiting, key=lambda peer: peer.deadline_s).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline."""
        self._forget_deadline()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Set the deadline for the next request of the same browser."""
        self._await_request()
        super().on_response_complete()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Pass the connection to the web socket, which has its own deadlines."""
        self._forget_deadline()
        super().handle_websocket_upgrade(event)

    def cut(self) -> None:
        """Close the connection at once; bytes that the browser has not read are lost."""
        self.transport.abort()

    def _await_request(self) -> None:
        self._forget_deadline()
        self._deadline = self.loop.call_later(REQUEST_S, self._cut_if_waiting)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut_if_waiting(self) -> None:
        if self.is_waiting:
            self.cut()


def _limit(connection: socket.socket) -> None:
    """Limit the bytes that wait to be sent, and the time that they wait."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * UNREAD_S)
