"""Between the feed and the browsers: what came last, and a short queue for each browser."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import zmq
import zmq.asyncio

from cdi_stream.addresses import is_ipv6
from cdi_stream.errors import ConfigError, WireError
from cdi_stream.feed import FeedMessage, pack, unpack

logger = logging.getLogger(__name__)

KEPT_RESULTS = 50
QUEUE_LENGTH = 16
MAX_MESSAGE_BYTES = 16 << 20
SILENT_MS = 5000
STAGES = ("inference", "reconstruction", "refinement")
KINDS = ("progress", "frame", "result", "state")


class Client:
    """What one browser has yet to be sent; when it is slow the oldest goes, results last."""

    def __init__(self) -> None:
        self.n_dropped = 0
        self._queue: deque[tuple[str, bytes]] = deque()
        self._has_some = asyncio.Event()

    def put(self, kind: str, data: bytes) -> None:
        """Add a message; never waits."""
        self._queue.append((kind, data))
        if len(self._queue) > QUEUE_LENGTH:
            del self._queue[next((i for i, (kind, _) in enumerate(self._queue) if kind != "result"), 0)]
            self.n_dropped += 1
        self._has_some.set()

    async def get(self) -> bytes:
        """Wait for the next message."""
        while not self._queue:
            self._has_some.clear()
            await self._has_some.wait()
        return self._queue.popleft()[1]


class Hub:
    """Keeps the newest message of each kind, of results of each stage, and passes all on to the clients."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.n_malformed = 0
        self._clock = clock
        self._heard_s: float | None = None
        self._newest: dict[tuple[str, str], tuple[FeedMessage, float]] = {}
        self._history: deque[dict[str, Any]] = deque(maxlen=KEPT_RESULTS)
        self._clients: set[Client] = set()

    @property
    def n_clients(self) -> int:
        """Browsers that are connected."""
        return len(self._clients)

    def feed_age_s(self) -> float | None:
        """Time since the last good message of the feed, None before the first."""
        return None if self._heard_s is None else self._clock() - self._heard_s

    def take(self, parts: Sequence[bytes]) -> None:
        """Take one message of the feed; a malformed one is counted and dropped."""
        try:
            message = _checked(unpack(parts))
            data = to_bytes(message)
        except (WireError, ValueError, RecursionError) as error:
            self.n_malformed += 1
            logger.warning("message %d of the feed that is malformed: %s", self.n_malformed, error)
            return
        self._keep(message)
        for client in self._clients:
            client.put(message[0]["kind"], data)

    def _keep(self, message: FeedMessage) -> None:
        header, self._heard_s = message[0], self._clock()
        key = (header["kind"], header["stage"] if header["kind"] == "result" else "")
        self._newest.pop(key, None)  # so that the snapshot comes in order of arrival
        self._newest[key] = message, self._heard_s
        if header["kind"] == "result":
            self._history.append(header)

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """A browser that gets the snapshot, with the age of each message, then what comes until the context ends."""
        client = Client()
        client.put("history", to_bytes(({"kind": "history", "results": list(self._history)}, {})))
        for (kind, _), ((header, images), heard_s) in self._newest.items():
            client.put(kind, to_bytes((header | {"age_s": self._clock() - heard_s}, images)))
        self._clients.add(client)
        try:
            yield client
        finally:
            self._clients.remove(client)


def _checked(message: FeedMessage) -> FeedMessage:
    """Refuse kinds and stages that are none, so that what is kept stays bounded."""
    header = message[0]
    if header.get("kind") not in KINDS or (header["kind"] == "result" and header.get("stage") not in STAGES):
        raise WireError(f"expected a kind out of {KINDS}, got {header.get('kind')!r:.40} {header.get('stage')!r:.40}")
    return message


def to_bytes(message: FeedMessage) -> bytes:
    """One message of the web socket: length of the header, little-endian, the header, then the images."""
    header, *images = pack(*message)
    return b"".join((struct.pack("<I", len(header)), header, *images))


def subscribe(context: zmq.Context[Any], endpoint: str) -> Any:
    """A socket that hears the feed, and finds it again after the service or the network was down.

    Raises
    ------
    ConfigError
        If the endpoint is no address.
    """
    socket = context.socket(zmq.SUB)
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


async def listen(hub: Hub, endpoint: str) -> None:
    """Pass the feed to the hub until cancelled.

    The socket is made anew when nothing comes: 0MQ never mends a connection that it cut over a message too large.
    """
    with zmq.asyncio.Context() as context:
        while True:
            with subscribe(context, endpoint) as socket:
                while await socket.poll(SILENT_MS):
                    hub.take(await socket.recv_multipart())
