"""Buffer of a detector: frames wait in it until a receiver takes them, and are dropped when it is full."""

from __future__ import annotations

import queue
import threading

import zmq

CAPACITY = 10_000
"""Number of messages that wait at most."""

_STEP_MS = 200


class FrameBuffer:
    """Sends messages in order from a thread of its own; ``n_dropped`` counts the messages that found no room.

    Parameters
    ----------
    socket
        Socket of the stream; only the thread uses it.
    capacity
        Number of messages that wait at most.
    """

    def __init__(self, socket: zmq.Socket[bytes], capacity: int = CAPACITY) -> None:
        self.n_dropped = 0
        self._socket = socket
        self._socket.setsockopt(zmq.SNDTIMEO, _STEP_MS)
        self._queue: queue.Queue[list[bytes] | None] = queue.Queue(capacity)
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="frames", daemon=True)
        self._thread.start()

    def send_multipart(self, parts: list[bytes]) -> None:
        """Put a message into the buffer."""
        try:
            self._queue.put_nowait(parts)
        except queue.Full:
            self.n_dropped += 1

    def close(self, timeout_s: float = 2.0) -> None:
        """Send the messages that wait for at most ``timeout_s`` [s], then end the thread."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        self._is_closing.set()
        self._thread.join()

    def _send_all(self) -> None:
        while (parts := self._queue.get()) is not None:
            while not self._is_closing.is_set():
                try:
                    self._socket.send_multipart(parts)
                    break
                except zmq.Again:
                    continue
