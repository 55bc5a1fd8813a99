"""Client: one browser, its short queue, and the choice of who gives a place up when all are taken."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Collection

QUEUE_LENGTH = 16


class Client:
    """What one browser at ``address`` has yet to be sent; when it is slow the oldest goes, results last.

    ``displaced`` is set when the browser has lost its place to another one.
    """

    def __init__(self, address: str = "") -> None:
        self.address = address
        self.has_lost_place = asyncio.Event()
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


def client_to_displace(clients: Collection[Client]) -> Client:
    """Return the oldest client of the address that has the most of them, so that no address can fill all places.

    ``clients`` are in order of arrival, at least one.
    """
    n_of = Counter(client.address for client in clients)
    most = max(n_of.values())
    return next(client for client in clients if n_of[client.address] == most)
