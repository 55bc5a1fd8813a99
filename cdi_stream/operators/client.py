"""Client: the short queue of one browser, and the choice of the browser that loses its place to a new one."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Collection

QUEUE_LENGTH = 16
"""Number of messages that may wait for one browser."""


class Client:
    """Messages that wait for one browser at ``address``.

    If the browser is slow, the oldest message is dropped; results are dropped last.  ``has_lost_place`` is set when
    another browser has taken its place, ``n_dropped`` counts dropped messages.
    """

    def __init__(self, address: str = "") -> None:
        self.address = address
        self.has_lost_place = asyncio.Event()
        self.n_dropped = 0
        self._queue: deque[tuple[str, bytes]] = deque()
        self._has_some = asyncio.Event()

    def put(self, kind: str, data: bytes) -> None:
        """Add a message of a kind; never waits."""
        self._queue.append((kind, data))
        if len(self._queue) > QUEUE_LENGTH:
            del self._queue[next((i for i, (kind, _) in enumerate(self._queue) if kind != "result"), 0)]
            self.n_dropped += 1
        self._has_some.set()

    async def get(self) -> bytes:
        """Return the next message; waits for it."""
        while not self._queue:
            self._has_some.clear()
            await self._has_some.wait()
        return self._queue.popleft()[1]


def client_to_displace(clients: Collection[Client]) -> Client:
    """Return the oldest client of the address with the most clients, so that no address can take all places.

    ``clients`` are in order of arrival; there is at least one.
    """
    n_of = Counter(client.address for client in clients)
    most = max(n_of.values())
    return next(client for client in clients if n_of[client.address] == most)
