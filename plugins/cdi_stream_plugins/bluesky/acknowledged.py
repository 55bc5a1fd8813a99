"""Way to the service on which each document is acknowledged, and sent again if it is not."""

from __future__ import annotations

import time
from collections import OrderedDict

import zmq

WINDOW = 1000
"""Largest number of documents that are sent and not acknowledged; further documents wait."""

RESEND_S = 1.0
"""Time [s] without an acknowledgement after which all documents of the window are sent again."""


class AcknowledgedLine:
    """Sends messages over a DEALER socket in order, until the service has acknowledged each of them.

    A service that is killed loses what its sockets held; the next service gets the documents of the window again.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._waiting: OrderedDict[int, bytes] = OrderedDict()
        self._n_sent = 0
        self._n_put = 0  # number of the last message that the socket has taken
        self._progress_s = time.monotonic()

    @property
    def is_full(self) -> bool:
        """Whether the window has no room."""
        return len(self._waiting) >= WINDOW

    @property
    def n_waiting(self) -> int:
        """Number of documents that are not acknowledged."""
        return len(self._waiting)

    def send(self, message: bytes) -> None:
        """Send a message for the first time."""
        if not self._waiting:
            self._progress_s = time.monotonic()
        self._n_sent += 1
        self._waiting[self._n_sent] = message
        self._put_rest()

    def step(self) -> bool:
        """Take the acknowledgements, and send the window again if none comes; return whether the service answers."""
        while self._socket.poll(0):
            number = int.from_bytes(self._socket.recv_multipart()[-1], "big")
            self._waiting.pop(number, None)
            self._progress_s = time.monotonic()
        is_answered = not self._waiting or time.monotonic() - self._progress_s < RESEND_S
        if not is_answered:
            self._progress_s = time.monotonic()
            self._n_put = 0
        self._put_rest()
        return is_answered

    def _put_rest(self) -> None:
        """Hand the messages to the socket in order; without a connection the rest waits, so that none overtakes."""
        first = next(iter(self._waiting), self._n_sent + 1)
        for number in range(max(first, self._n_put + 1), self._n_sent + 1):
            if number in self._waiting and not self._put(number):
                return
            self._n_put = number

    def _put(self, number: int) -> bool:
        """Hand a message to the socket; return whether the socket has a connection."""
        try:
            self._socket.send_multipart([number.to_bytes(8, "big"), self._waiting[number]], zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True
