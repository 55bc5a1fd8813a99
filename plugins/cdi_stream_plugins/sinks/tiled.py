"""Documents to a Tiled server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
from bluesky_tiled_plugins.writing.tiled_writer import TiledWriter
from tiled.client import from_uri

from cdi_stream.documents.plain import to_plain
from cdi_stream.errors import ServiceError

_OF_THE_DOCUMENT = {400, 409, 413, 422}
"""Answers that blame the document; a wrong key, say, blames none."""


class TiledSink:
    """Writes runs to a Tiled server; the server must be allowed to read the folder of our HDF5 files.

    Every call raises `ServiceError` if the server cannot be reached or is in trouble.
    """

    def __init__(self, *, uri: str, api_key: str | None = None) -> None:
        self._uri = uri
        with self._reached():
            self._client = from_uri(uri, api_key=api_key)
            self._writer = TiledWriter(self._client, batch_size=1)

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Write one document."""
        with self._reached():
            self._writer(name, to_plain(doc))

    def has_run(self, uid: str) -> bool:
        """Whether the server has a run to its end; of one that broke off the beginning is deleted."""
        with self._reached():
            if uid not in self._client:
                return False
            if self._client[uid].metadata.get("stop"):
                return True
            self._client.delete_contents([uid], recursive=True, external_only=True)
            return False

    def close(self) -> None:
        """Let go of the server."""
        self._client.context.close()

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Tell trouble of the server from a document that it refuses."""
        try:
            yield
        except httpx.HTTPStatusError as error:
            if error.response.status_code in _OF_THE_DOCUMENT:
                raise
            raise ServiceError(f"Tiled at {self._uri} is in trouble: {error!s:.200}") from error
        except httpx.HTTPError as error:
            raise ServiceError(f"Tiled at {self._uri} cannot be reached: {error!r:.200}") from error
