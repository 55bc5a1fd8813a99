"""Documents to Bluesky's 0MQ bus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bluesky.callbacks.zmq import Publisher

from cdi_stream.bus import writer


class BusSink:
    """Publishes to a bluesky 0MQ proxy."""

    def __init__(self, *, address: str, prefix: str = "", serializer: str = "msgpack") -> None:
        self._publisher = Publisher(address, prefix=prefix.encode(), serializer=writer(serializer))

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Send one document."""
        self._publisher(name, dict(doc))

    def close(self) -> None:
        """Send what is queued, then close."""
        self._publisher.close()
