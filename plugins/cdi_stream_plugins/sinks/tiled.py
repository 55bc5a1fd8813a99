"""Write documents to a Tiled server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
from bluesky_tiled_plugins.writing.tiled_writer import TiledWriter
from tiled.client import from_uri

from cdi_stream.documents.plain import to_plain
from cdi_stream.errors import ServiceError
from cdi_stream.messages import Document

_DOCUMENT_REFUSED = {400, 409, 413, 422}
"""HTTP status codes with which the server refuses a document; other codes are errors of the server or of the key."""


class TiledSink:
    """Sink that writes runs to a Tiled server, which must have read access to the folder of the result files.

    Every call raises `ServiceError` if the server cannot be reached or reports an error.
    """

    def __init__(self, *, uri: str, api_key: str | None = None) -> None:
        self._uri = uri
        with self._service_errors():
            self._client = from_uri(uri, api_key=api_key)
            self._writer = TiledWriter(self._client, batch_size=1)

    def __call__(self, name: str, doc: Document) -> None:
        """Write one document."""
        with self._service_errors():
            self._writer(name, to_plain(doc))

    def has_run(self, uid: str) -> bool:
        """Return whether the server has the complete run; an incomplete run is deleted from the server.

        The deletion includes the table of the events, which the server stores itself; it leaves the result files.
        """
        with self._service_errors():
            if uid not in self._client:
                return False
            if self._client[uid].metadata.get("stop"):
                return True
            self._client.delete_contents([uid], recursive=True, external_only=False)
            return False

    def close(self) -> None:
        """Close the connection to the server."""
        self._client.context.close()

    @contextlib.contextmanager
    def _service_errors(self) -> Iterator[None]:
        """Raise errors of the server as `ServiceError`; the refusal of a document keeps its own error."""
        try:
            yield
        except httpx.HTTPStatusError as error:
            if error.response.status_code in _DOCUMENT_REFUSED:
                raise
            raise ServiceError(f"Tiled at {self._uri} is in trouble: {error!s:.200}") from error
        except httpx.HTTPError as error:
            raise ServiceError(f"Tiled at {self._uri} cannot be reached: {error!r:.200}") from error
