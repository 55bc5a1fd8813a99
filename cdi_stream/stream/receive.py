"""Receive the messages of one detector: one socket, one decoder; malformed messages are counted and dropped."""

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
"""Type of the 0MQ socket that reads a detector."""

QUEUE_MESSAGES = 16
"""Least number of messages that may wait in a socket; a longer queue does not raise the rate of messages.

The limit must never be lowered on an open socket: 0MQ's reading side reports only now and then how much it has read,
so that the writing side can be above the new limit although everything is read, and then waits for ever.
"""

RECONNECT_AFTER_S = 3.0
"""Time [s] after a lost connection at which the socket is connected again; 0MQ itself tries again within 1 s."""


def open_socket(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, kind: SocketKind, *, bind: bool, max_message_bytes: int
) -> zmq.Socket[bytes]:
    """Return an open socket for a detector, with limits on message size, queue and reconnection time.

    Raises
    ------
    EndpointError
        If the endpoint cannot be bound, or is no address.
    """
    socket = context.socket(zmq.PULL if kind == "pull" else zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, is_ipv6(endpoint))
    socket.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
    socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)  # notices a detector that lost power
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

    Parameters
    ----------
    socket
        Socket from `open_socket`.
    decoder
        Decoder of the detector's format.
    max_queue_bytes
        Memory for waiting messages [bytes]: as many messages may wait as fit if all have the largest allowed size.
    log
        Called with the parts of every message before they are decoded.
    is_bound
        Whether the socket is bound, so that the detector connects to it.
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
        """Yield the messages that wait, from ``at_most`` multiparts; each is valid until the next one is yielded."""
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

    def reconnect_if_cut(self, now_s: float) -> None:
        """Connect the socket again if its connection has been lost for `RECONNECT_AFTER_S`.

        0MQ never reopens a connection that it closed because a message was too large.  A bound socket is left as it
        is, because a disconnected one would no longer listen.  ``now_s`` is monotonic time [s].
        """
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._lost_s = now_s if event == zmq.EVENT_DISCONNECTED and not self._is_bound else None
        if self._lost_s is not None and now_s - self._lost_s > RECONNECT_AFTER_S and not self.socket.poll(0):
            endpoint = self.socket.get_string(zmq.LAST_ENDPOINT)
            logger.warning("%s closed the connection, or sent a message above the limit: connecting again", endpoint)
            self.socket.disconnect(endpoint)
            self.socket.connect(endpoint)
            self._lost_s = None

    def close(self) -> None:
        """Close the socket and its monitor."""
        self.socket.disable_monitor()
        self._monitor.close(0)
        self.socket.close(0)

    @property
    def n_malformed(self) -> int:
        """Number of messages that could not be used."""
        return self._refused.n

    def refuse(self, error: WireError) -> None:
        """Count a message that cannot be used, and log it as far as the limits of `Complaints` allow."""
        self._refused.add(str(error))
