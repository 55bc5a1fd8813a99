"""Receive: one detector socket, one decoder; malformed messages are counted, logged and dropped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import zmq
from zmq.utils.monitor import recv_monitor_message

from cdi_stream.addresses import is_ipv6
from cdi_stream.alarms import Complaints
from cdi_stream.errors import EndpointError, WireError
from cdi_stream.messages import WireMessage
from cdi_stream.protocols import Buffer, Decoder

logger = logging.getLogger(__name__)

SocketKind = Literal["pull", "sub"]

QUEUE_MESSAGES = 16
"""Messages that may wait in a socket, at least; more are of no use to the rate at which they come.

The limit must not be lowered later on: 0MQ's reader tells its writer only now and then how much it has read, so that
a writer can find itself above a new limit with everything read, and wait forever.
"""

REVIVE_S = 3.0
"""0MQ tries again within a second of a lost connection, if it does at all."""


def open_socket(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, kind: SocketKind, *, bind: bool, max_message_bytes: int
) -> zmq.Socket[bytes]:
    """Open the detector's socket: bounded messages, capped reconnection, no lingering.

    Raises
    ------
    EndpointError
        If the endpoint cannot be bound or is no endpoint.
    """
    socket = context.socket(zmq.PULL if kind == "pull" else zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, is_ipv6(endpoint))
    socket.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
    socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)  # a detector that lost power says no farewell
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)
    if kind == "sub":
        socket.setsockopt(zmq.SUBSCRIBE, b"")
    try:
        (socket.bind if bind else socket.connect)(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise EndpointError(
            f"detector endpoint {endpoint!r} cannot be opened: {error}; expected tcp://host:port"
        ) from error
    return socket


class Receiver:
    """Reads one socket through one decoder.

    As many messages may wait as fit into ``max_queue_bytes`` if all are of the largest size allowed.
    ``log`` is given the parts of every message before they are decoded.  ``is_bound``: others connect to the socket.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        decoder: Decoder,
        max_queue_bytes: int = 1 << 30,
        log: Callable[[Sequence[Buffer]], None] = lambda _: None,
        *,
        is_bound: bool = False,
    ) -> None:
        self.socket = socket
        self.n_messages = 0
        self._refused = Complaints(logger, "message")
        self._decoder = decoder
        socket.setsockopt(zmq.RCVHWM, max(QUEUE_MESSAGES, max_queue_bytes // int(socket.getsockopt(zmq.MAXMSGSIZE))))
        self._log = log
        self._lost_s: float | None = None
        self._is_bound = is_bound
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CONNECTED
        )

    def messages(self, at_most: int = 32) -> Iterator[WireMessage]:
        """Take what waits, ``at_most`` so many multiparts; each message is good until the next is asked for."""
        for _ in range(at_most):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self.n_messages += 1
            parts = [frame.buffer for frame in frames]
            self._log(parts)
            try:
                yield from self._decoder.decode(parts)
            except WireError as error:
                self.refuse(error)

    def revive(self, now_s: float) -> None:
        """Connect anew where 0MQ will not: it gives a connection up for good that sent too large a message.

        A bound socket is left as it is: to disconnect would be to stop listening.
        """
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._lost_s = now_s if event == zmq.EVENT_DISCONNECTED and not self._is_bound else None
        if self._lost_s is not None and now_s - self._lost_s > REVIVE_S and not self.socket.poll(0):
            endpoint = self.socket.get_string(zmq.LAST_ENDPOINT)
            logger.warning("%s cut the connection, or sent a message above the limit: connecting anew", endpoint)
            self.socket.disconnect(endpoint)
            self.socket.connect(endpoint)
            self._lost_s = None

    def close(self) -> None:
        """Close the socket and what watches it."""
        self.socket.disable_monitor()
        self._monitor.close(0)
        self.socket.close(0)

    @property
    def n_malformed(self) -> int:
        """Messages that could not be used."""
        return self._refused.n

    def refuse(self, error: WireError) -> None:
        """Count and log a message that cannot be used; of a flood of one kind only some are logged."""
        self._refused.add(str(error))
