"""Documents to Bluesky's 0MQ bus."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from bluesky.callbacks.zmq import Publisher

from cdi_stream.bus import writer

SETTLE_S = 0.5


class BusSink:
    """Publishes to a bluesky 0MQ proxy."""

    def __init__(self, *, address: str, prefix: str = "", serializer: str = "msgpack") -> None:
        # A publisher loses what it sends before its subscribers have met it.
        self._publisher = Publisher(address, prefix=prefix.encode(), serializer=writer(serializer))
        time.sleep(SETTLE_S)

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Send one document."""
        self._publisher(name, dict(doc))

    def close(self) -> None:
        """Send what is queued, then close."""
        self._publisher.close()
