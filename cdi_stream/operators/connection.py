"""Connection: how much a browser may send, and how long it may take, before the server knows who it is."""

from __future__ import annotations

import asyncio
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 5.0
"""Time [s] that a connection has to send a whole request; a browser on a slow link needs less than one second."""

MAX_HEADER_BYTES = 16 << 10
"""Size limit [bytes] of the first line and the headers of a request; those of a browser take less than 2 KiB."""

MAX_CONNECTIONS = 256
"""Number of connections above which the longest waiting one is closed; 1024 open files are the usual limit."""

SEND_BUFFER_BYTES = 64 << 10
"""Send buffer [bytes] of each connection: a slow browser gets new frames soon rather than old ones from the buffer."""

UNREAD_S = 10
"""Time [s] after which a connection is cut if the browser takes none of the bytes that it was sent."""


class Connection(H11Protocol):
    """A connection that is cut unless a whole request comes within `REQUEST_S`.

    Of more than `MAX_CONNECTIONS` the one goes that has waited longest without a request, never one that is answered.
    """

    _deadline: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether a request, or the rest of one, has yet to come."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    @property
    def deadline_s(self) -> float:
        """When the next request must be there, on the clock of the event loop."""
        return 0.0 if self._deadline is None else self._deadline.when()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the connection its limits."""
        super().connection_made(transport)
        _limit(transport.get_extra_info("socket"))
        self._await_request()
        if len(self.connections) > MAX_CONNECTIONS:
            waiting = [one for one in self.connections if isinstance(one, Connection) and one.is_waiting]
            min(waiting, key=lambda one: one.deadline_s).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._forget_deadline()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request of the same browser."""
        self._await_request()
        super().on_response_complete()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection over to the web socket, which has deadlines of its own."""
        self._forget_deadline()
        super().handle_websocket_upgrade(event)

    def cut(self) -> None:
        """Close at once, without waiting until the other side takes what was sent."""
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
    """Bound what waits to be sent, in bytes and in time."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * UNREAD_S)
