"""One connection to a STOMP broker, which hands on the body of each message until it is lost.

The package stomp.py reads the socket in a thread of its own.  Here its reading loop runs in the thread of the caller,
so that bodies are handed on there, and each connection is a new object: the heartbeats of stomp.py end when an object
is connected again (issue 351 of jasonrbriggs/stomp.py).
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Protocol

from cdi_stream.errors import PluginError, WireError

try:
    from stomp.exception import StompException
    from stomp.protocol import Protocol11
    from stomp.transport import Transport
except ModuleNotFoundError as error:
    raise PluginError(
        "documents.source 'stomp' needs the package stomp.py: python -m pip install 'cdi-stream[stomp]'"
    ) from error

CONNECT_TIMEOUT_S = 5.0
"""Time [s] that a broker has to take a TCP connection, and again to accept the account."""

HEARTBEAT_S = 10.0
"""Time [s] between two heartbeats that service and broker send; 1.5 times as long without any is a lost connection."""

MAX_MESSAGE_BYTES = 16 * 2**20
"""Size [byte] above which a message is refused, by a new connection; documents have some kilobytes."""

_CHUNK_BYTES = 2**16

logging.getLogger("stomp.py").setLevel(logging.WARNING)  # its debug messages hold the password


class Frame(Protocol):
    """A frame of STOMP as stomp.py hands it to a listener."""

    headers: dict[str, str]
    body: bytes


class StompConnection:
    """A connection for one subscription; also the listener that stomp.py calls.

    Parameters
    ----------
    place
        Host and TCP port of the broker.
    destination
        Topic or queue to subscribe to.
    on_open
        Called when the broker has accepted the account.
    on_body
        Called with the body of each message.
    on_unusable
        Called with the error of a message that is too large.
    """

    def __init__(
        self,
        place: tuple[str, int],
        destination: str,
        *,
        on_open: Callable[[], None],
        on_body: Callable[[bytes], None],
        on_unusable: Callable[[WireError], None],
    ) -> None:
        self._destination = destination
        self._on_open, self._on_body, self._on_unusable = on_open, on_body, on_unusable
        self._is_open = False
        self._failure: OSError | None = None
        self._transport = _LimitedTransport(place)
        beat_ms = round(1000 * HEARTBEAT_S)
        self._protocol = Protocol11(self._transport, heartbeats=(beat_ms, beat_ms))
        self._transport.set_listener("connection", self)

    def run(self, user: str, password: str, *, is_stopped: Callable[[], bool]) -> None:
        """Connect and hand on bodies; return when stopped.

        Raises
        ------
        OSError
            If the broker cannot be reached, refuses the connection, or the connection is lost.
        """
        loops: list[Callable[[], None]] = []
        self._transport.override_threading(loops.append)
        self._transport.start()
        try:
            if not is_stopped():
                self._protocol.connect(user or None, password or None)
                loops[0]()
        except StompException as error:
            raise ConnectionError(f"the connection was lost before the account was sent ({error!r})") from error
        finally:
            self._transport.cleanup()
        if is_stopped():
            return
        if self._transport.is_too_large:
            self._on_unusable(WireError(f"expected messages of at most {MAX_MESSAGE_BYTES} bytes on the STOMP topic"))
        raise self._failure or self._transport.failure or ConnectionError(self._reason())

    def interrupt(self) -> None:
        """Shut the socket, so that `run` returns; called from another thread."""
        open_socket = self._transport.socket
        if open_socket is not None:
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)

    def on_connected(self, frame: Frame) -> None:
        """Subscribe; called when the broker has accepted the account."""
        self._is_open = True
        self._transport.socket.settimeout(None)
        self._protocol.subscribe(self._destination, id="documents", ack="auto")
        self._on_open()

    def on_message(self, frame: Frame) -> None:
        """Hand on the body of a message."""
        self._on_body(frame.body)

    def on_error(self, frame: Frame) -> None:
        """Keep the broker's reason and close; called when the broker refuses an account or a destination."""
        text = " ".join(frame.body.decode(errors="replace").split())
        remedy = "documents.options.destination" if self._is_open else "documents.options.user and .password"
        self._failure = ConnectionError(
            f"the broker refused: {frame.headers.get('message', 'no reason')}: {text:.200} (see {remedy})"
        )
        self.interrupt()

    def on_heartbeat_timeout(self) -> None:
        """Do nothing: stomp.py has closed the socket, and `run` raises; stomp.py calls this method on each listener."""

    def _reason(self) -> str:
        if self._is_open:
            return f"the broker closed the connection, or sent nothing for {1.5 * HEARTBEAT_S:.0f} s"
        return (
            f"the broker closed the connection, or did not answer within {CONNECT_TIMEOUT_S:.0f} s, before it accepted "
            "the account; is this its port for STOMP?"
        )


class _LimitedTransport(Transport):  # type: ignore[misc]  # stomp.py has no types
    """Transport of stomp.py that connects once, and closes when a message is too large."""

    def __init__(self, place: tuple[str, int]) -> None:
        super().__init__([place], auto_decode=False)
        self.failure: OSError | None = None
        self.is_too_large = False
        self._place = place
        self._n_bytes = 0

    def attempt_connection(self) -> None:
        """Connect once; raises `OSError` if the broker cannot be reached."""
        self.connection_error = False
        self.socket = socket.create_connection(self._place, CONNECT_TIMEOUT_S)
        self.current_host_and_port = self._place

    def receive(self) -> bytes:
        """Return the bytes that wait; an error ends the loop of stomp.py."""
        try:
            data: bytes = self.socket.recv(_CHUNK_BYTES)
        except OSError as error:
            self.failure = None if isinstance(error, TimeoutError) else error
            raise
        self._n_bytes += len(data)
        if self._n_bytes > MAX_MESSAGE_BYTES:
            self.is_too_large = True
            self.failure = ConnectionError("a message was too large")
            raise self.failure
        return data

    def process_frame(self, frame: Frame, raw: bytes) -> None:
        """Count anew after each complete frame, and let stomp.py call the listeners."""
        self._n_bytes = 0
        super().process_frame(frame, raw)
