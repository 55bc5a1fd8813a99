"""Hub: keeps the newest messages of the feed, and passes the feed on to the browsers."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import zmq
import zmq.asyncio

from cdi_stream.addresses import CurveKeys, is_ipv6
from cdi_stream.documents.curve import secure
from cdi_stream.errors import ConfigError, WireError
from cdi_stream.operators.binary import to_bytes
from cdi_stream.operators.client import QUEUE_LENGTH, Client, client_to_displace
from cdi_stream.operators.feed import STAGES, FeedMessage, unpack
from cdi_stream.operators.history import Results

logger = logging.getLogger(__name__)

KEPT_RESULTS = 50
"""Number of results in the history; previews are not among them."""

MAX_CLIENTS = 64
"""Number of browsers that are served at a time; a further browser takes the place of an older one."""

MAX_MESSAGE_BYTES = 16 << 20
"""Largest size [bytes] of a message of the feed."""

SILENT_MS = 5000
"""Time [ms] without a message after which the socket of the feed is opened again."""

READY_S = 5.0
"""Age [s] of the feed above which the dashboard is not ready; the service publishes its state every second."""

KINDS = ("progress", "frame", "result", "state")
"""Kinds of messages."""

KEPT_MESSAGES = QUEUE_LENGTH
"""Number of messages that are kept for browsers that connect again; a longer gap is filled by the newest messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedPlace:
    """Place in the feed of a dashboard up to which a browser has all messages: the dashboard's ``hub``, and ``n``."""

    hub: str
    n: int


class Hub:
    """Keeps the newest message of each kind, and of each stage of results; passes all messages on to the clients.

    Each message to a client has ``hub``, which is new with each start of the dashboard, and ``n``, which rises by one.

    Parameters
    ----------
    clock, wall_clock
        Monotonic time [s], and time [s since the epoch].
    results
        Results of an earlier dashboard.
    on_results
        Called with all kept results after each new result.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        results: Results | None = None,
        on_results: Callable[[Results], None] = lambda _: None,
    ) -> None:
        self.n_malformed = 0
        self.seq = 0
        self._id = uuid.uuid4().hex[:8]
        self._kept: deque[tuple[str, bytes]] = deque(maxlen=KEPT_MESSAGES)
        self._clock = clock
        self._on_results = on_results
        self._heard_s: float | None = None
        self._service: object = None
        self._newest: dict[tuple[str, str], tuple[FeedMessage, float]] = {}
        self._history: deque[dict[str, Any]] = deque(maxlen=KEPT_RESULTS)
        self._clients: dict[Client, None] = {}
        self._restore(results or Results(), wall_clock())

    @property
    def n_clients(self) -> int:
        """Number of connected browsers."""
        return len(self._clients)

    def feed_age_s(self) -> float | None:
        """Return the time since the last valid message of the feed [s]; None before the first."""
        return None if self._heard_s is None else self._clock() - self._heard_s

    def newest(self, kind: str) -> dict[str, object]:
        """Return the header of the newest message of a kind other than ``result``; empty before the first."""
        message, _ = self._newest.get((kind, ""), (({}, {}), 0.0))
        return message[0]

    def trouble(self) -> str:
        """Return a sentence if no message has come within `READY_S`; else an empty text."""
        age_s = self.feed_age_s()
        if age_s is None:
            return "no message from the service yet"
        return f"no message from the service for {age_s:.0f} s" if age_s > READY_S else ""

    def take(self, parts: Sequence[bytes]) -> None:
        """Take one message of the feed; a malformed message is counted and dropped."""
        try:
            header, images = _require_known(unpack(parts))
            header = header | {"hub": self._id, "n": self.seq + 1}
            message, data = (header, images), to_bytes(header, images)
        except (WireError, ValueError, RecursionError) as error:
            self.n_malformed += 1
            logger.warning("malformed message of the feed dropped (%d so far): %s", self.n_malformed, error)
            return
        self._heard_s = self._clock()
        self.seq += 1
        self._note_service(header.get("service"))
        self._keep(message, self._heard_s)
        self._kept.append((header["kind"], data))
        for client in self._clients:
            client.put(header["kind"], data)
        if header["kind"] == "result":
            self._on_results(self._results())

    def _note_service(self, service: object) -> None:
        """Delete progress, frame and state of an earlier start of the service; its results are kept."""
        if service != self._service:
            self._newest = {key: value for key, value in self._newest.items() if key[0] == "result"}
            self._service = service

    def _keep(self, message: FeedMessage, heard_s: float) -> None:
        header = message[0]
        key = (header["kind"], header["stage"] if header["kind"] == "result" else "")
        self._newest.pop(key, None)  # keeps the snapshot in order of arrival
        self._newest[key] = message, heard_s
        if header["kind"] == "result" and header["stage"] != "preview":
            self._history.append(header)

    def _results(self) -> Results:
        newest = [message for (kind, _), (message, _) in self._newest.items() if kind == "result"]
        return Results(headers=list(self._history), newest=newest)

    def _restore(self, results: Results, wall_s: float) -> None:
        """Start with the results of an earlier dashboard; their age follows from their time stamps."""
        for message in results.newest:
            with contextlib.suppress(WireError, ValueError):
                to_bytes(*message)
                sent_s = _require_known(message)[0].get("time_s")
                age_s = max(0.0, wall_s - sent_s) if isinstance(sent_s, int | float) else 0.0
                self._keep(message, self._clock() - age_s)
        self._history = deque(results.headers, maxlen=KEPT_RESULTS)

    def newest_headers(self) -> list[dict[str, Any]]:
        """Return the headers of the newest messages, each with its age."""
        return [header | {"age_s": self._clock() - heard_s} for (header, _), heard_s in self._newest.values()]

    @contextlib.contextmanager
    def client(self, address: str = "", since: FeedPlace | None = None) -> Iterator[Client]:
        """Yield the client of a browser: it gets the newest messages with their ages, then all new messages.

        A browser that connects again with the place ``since`` gets the messages that it has missed, if all are kept.
        If all places are taken, an older browser loses its place, so that silent browsers cannot keep an operator out.
        """
        client = Client(address)
        missed = self._missed(since)
        for kind, data in self._snapshot() if missed is None else missed:
            client.put(kind, data)
        if len(self._clients) >= MAX_CLIENTS:
            loser = client_to_displace(self._clients)
            del self._clients[loser]
            loser.has_lost_place.set()
        self._clients[client] = None
        try:
            yield client
        finally:
            self._clients.pop(client, None)

    def _missed(self, since: FeedPlace | None) -> list[tuple[str, bytes]] | None:
        """Return the messages behind a place; None if they are not kept, or if the place is of another dashboard."""
        if since is None or since.hub != self._id or not 0 <= self.seq - since.n <= len(self._kept):
            return None
        return list(self._kept)[len(self._kept) - (self.seq - since.n) :]

    def _snapshot(self) -> Iterator[tuple[str, bytes]]:
        """Yield the history and the newest messages, by kind."""
        place = {"hub": self._id, "n": self.seq}
        yield "history", to_bytes({"kind": "history", "results": list(self._history), **place}, {})
        for (kind, _), ((header, images), heard_s) in self._newest.items():
            yield kind, to_bytes(header | place | {"age_s": self._clock() - heard_s}, images)


def _require_known(message: FeedMessage) -> FeedMessage:
    """Return a message; raises `WireError` for an unknown kind or stage, which would have to be kept too."""
    header = message[0]
    if header.get("kind") not in KINDS or (header["kind"] == "result" and header.get("stage") not in STAGES):
        raise WireError(
            f"expected a kind out of {KINDS} and, for a result, a stage out of {STAGES}, "
            f"got {header.get('kind')!r:.40} {header.get('stage')!r:.40}"
        )
    return message


def subscribe(context: zmq.Context[Any], endpoint: str, keys: CurveKeys | None = None) -> Any:
    """Return a socket that receives the feed, and reconnects after the service or the network was down.

    Raises
    ------
    ConfigError
        If the endpoint is no address, or a file of ``keys`` holds no key.
    """
    socket = context.socket(zmq.SUB)
    secure(socket, keys)
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES),
        (zmq.RCVHWM, QUEUE_LENGTH),
        (zmq.RECONNECT_IVL_MAX, 2000),
        (zmq.HEARTBEAT_IVL, 5000),
        (zmq.IPV6, is_ipv6(endpoint)),
    ):
        socket.setsockopt(option, value)
    socket.subscribe(b"")
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise ConfigError(f"feed: expected an address such as tcp://127.0.0.1:5570, got {endpoint!r}") from error
    return socket


async def listen(hub: Hub, endpoint: str, keys: CurveKeys | None = None) -> None:
    """Pass the feed to the hub until cancelled.

    The socket is opened again when no message comes for `SILENT_MS`: 0MQ never reopens a connection that it closed
    because a message was too large.
    """
    with zmq.asyncio.Context() as context:
        while True:
            with subscribe(context, endpoint, keys) as socket:
                while await socket.poll(SILENT_MS):
                    hub.take(await socket.recv_multipart())
