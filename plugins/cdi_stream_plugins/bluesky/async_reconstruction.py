"""The device `Reconstruction` for plans that use ophyd-async."""

from __future__ import annotations

import asyncio
import time

from ophyd_async.core import AsyncStatus, Device

from cdi_stream.messages import Document
from cdi_stream_plugins.bluesky.curve_wait import CurveWait, Reading, Source, data_keys, readings
from cdi_stream_plugins.bluesky.results import ReconstructionResult


class AsyncReconstruction(Device):
    """Ophyd-async device with the readings of `cdi_stream_plugins.bluesky.Reconstruction`.

    Parameters
    ----------
    name, source, timeout_s
        As in `cdi_stream_plugins.bluesky.Reconstruction`.
    """

    def __init__(self, name: str, source: Source, timeout_s: float = 60.0) -> None:
        self.result = ReconstructionResult()
        self._time_s = time.time()
        self._wait = CurveWait(source, timeout_s)
        super().__init__(name=name)

    @property
    def hints(self) -> dict[str, list[str]]:
        """Fields that bluesky shows in tables and plots."""
        return {"fields": [f"{self.name}_{field}" for field in ("verdict", "chi2")]}

    @AsyncStatus.wrap
    async def trigger(self) -> None:
        """Wait for the next curve of the run; no error is raised when the time is over."""
        self.result, self._time_s = await asyncio.to_thread(self._wait.next_result), time.time()

    def on_document(self, name: str, doc: Document) -> None:
        """Note the open run, as `cdi_stream_plugins.bluesky.Reconstruction.on_document` does."""
        self._wait.on_document(name, doc)

    async def read(self) -> dict[str, Reading]:
        """Return the readings of the newest result."""
        values = readings(self.name, self.result)
        return {key: {"value": value, "timestamp": self._time_s} for key, value in values.items()}

    async def describe(self) -> dict[str, Reading]:
        """Return the descriptions of the readings, with units."""
        return dict(data_keys(self.name))

    def close(self) -> None:
        """Close the connection to the bus."""
        self._wait.close()
