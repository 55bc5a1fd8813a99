"""Documents to a Tiled server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bluesky_tiled_plugins.writing.tiled_writer import TiledWriter
from tiled.client import from_uri

from cdi_stream.bus import to_plain


class TiledSink:
    """Writes runs to a Tiled server; the server must be allowed to read the folder of our HDF5 files."""

    def __init__(self, *, uri: str, api_key: str | None = None) -> None:
        self._client = from_uri(uri, api_key=api_key)
        self._writer = TiledWriter(self._client, batch_size=1)

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Write one document."""
        self._writer(name, to_plain(doc))

    def has_run(self, uid: str) -> bool:
        """Whether the server has a run to its end; of one that broke off the beginning is deleted."""
        if uid not in self._client:
            return False
        if self._client[uid].metadata.get("stop"):
            return True
        self._client.delete_contents([uid], recursive=True, external_only=True)
        return False

    def close_run(self, stop: Mapping[str, Any]) -> None:
        """Write the stop document of a run that an earlier process left open."""
        self._client[stop["run_start"]].update_metadata({"stop": dict(stop)}, drop_revision=True)

    def close(self) -> None:
        """Let go of the server."""
        self._client.context.close()
