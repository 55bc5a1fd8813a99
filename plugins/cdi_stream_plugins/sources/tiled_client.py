"""Read a Tiled server: its nodes over HTTP, and what is written to them, as it is written, over WebSockets.

The subscription of Tiled's own client is not used.  After a lost connection it asks for the messages from the last
sequence number on, but a server with its cache in memory counts from 1 again after a restart, so messages are lost
without a sign (https://github.com/bluesky/tiled/issues/1134).  Here a lost connection is an error, and the caller reads
again what the server holds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import AsyncIterator

import httpx
import msgpack
import pyarrow
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from cdi_stream.errors import EndpointError, ServiceError
from cdi_stream.messages import Document

TIMEOUT_S = 20.0
"""Longest time [s] to wait for an answer of the server."""

MAX_MESSAGE = 64 * 2**20
"""Largest message [bytes] over a WebSocket."""

CLOSE_S = 1.0
"""Longest time [s] to wait for the server when a WebSocket is closed."""

PAGE = 100
"""Number of children that are listed by one request, within the limit of the server."""

_ARROW = "application/vnd.apache.arrow.file"
_MSGPACK = "application/x-msgpack"
_JSON = "application/json"
_BYTES = "application/octet-stream"

_logger = logging.getLogger(__name__)
_logger.setLevel(logging.INFO)  # at DEBUG, websockets logs all headers, and the key is in one of them


class KeyRefusedError(ServiceError):
    """The server refuses the API key, or asks for one."""


class TiledClient:
    """Connection to the container at ``address``; paths of nodes are relative to the container.

    Every method raises `KeyRefusedError` if the key is refused, `httpx.HTTPError` if the server cannot be reached or
    answers with an error.
    """

    def __init__(self, address: str, api_key: str) -> None:
        self._headers = {"Authorization": f"Apikey {api_key}"} if api_key else {}
        self._base, self._container = split_address(address)
        self._http = httpx.AsyncClient(base_url=self._base, headers=self._headers, timeout=TIMEOUT_S)

    async def aclose(self) -> None:
        """Close the connections of the requests."""
        await self._http.aclose()

    async def metadata(self, *path: str) -> Document | None:
        """Return the metadata of a node; None if there is no such node."""
        try:
            answer = await self._get("metadata", path, _MSGPACK)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.NOT_FOUND:
                return None
            raise
        metadata: Document = msgpack.unpackb(answer)["data"]["attributes"]["metadata"]
        return metadata

    async def children(self, *path: str, is_newest_first: bool = False) -> AsyncIterator[tuple[str, Document]]:
        """Yield key and attributes of the children of a container, in the order of their creation.

        The attributes of children in a stream name their files.
        """
        offset = 0
        while True:
            query = {"page[offset]": str(offset), "page[limit]": str(PAGE), "sort": "-" if is_newest_first else ""}
            query |= {"include_data_sources": "true"} if len(path) == 2 else {}
            page = msgpack.unpackb(await self._get("search", path, _MSGPACK, query))["data"]
            for child in page:
                yield child["id"], child["attributes"]
            offset += len(page)
            if len(page) < PAGE:
                return

    async def rows(self, *path: str) -> list[Document]:
        """Return the rows of a table, oldest first."""
        return rows_in(await self._get("table/full", path, _ARROW))

    async def array(self, *path: str, first: int, n: int) -> list[object]:
        """Return ``n`` rows of an array, as numbers or lists; numbers that are not finite are NaN."""
        answer = json.loads(await self._get("array/full", path, _JSON, {"slice": f"{first}:{first + n}"}))
        return [[math.nan if x is None else x for x in row] if isinstance(row, list) else row for row in answer]

    async def block(self, *path: str, first: int, n: int) -> bytes:
        """Return ``n`` rows of an array, from row ``first`` on, as they lie in memory."""
        return await self._get("array/full", path, _BYTES, {"slice": f"{first}:{first + n}"})

    @contextlib.asynccontextmanager
    async def messages(self, *path: str, start: int | None = None) -> AsyncIterator[AsyncIterator[Document]]:
        """Connect to the stream of a node: its schema, then what is written to it, until its writer closes it.

        ``start`` is the sequence number of the first message; None means messages from now on.

        Raises
        ------
        ServiceError
            If the server does not stream.
        websockets.exceptions.ConnectionClosedError
            If the connection is lost.
        """
        query = {"envelope_format": "msgpack"} | ({} if start is None else {"start": str(start)})
        url = self._base.join(self._path("stream/single", path)).copy_merge_params(query)
        url = url.copy_with(scheme="wss" if url.scheme == "https" else "ws")
        opening = connect(
            str(url), additional_headers=self._headers, max_size=MAX_MESSAGE, close_timeout=CLOSE_S, logger=_logger
        )
        try:
            async with opening as connection:
                yield (msgpack.unpackb(message) async for message in connection)
        except InvalidStatus as error:
            raise _of_refusal(error, self._base) from error

    def _path(self, route: str, path: tuple[str, ...]) -> str:
        return "/".join((route, *self._container, *path)) + ("" if (*self._container, *path) else "/")

    async def _get(self, route: str, path: tuple[str, ...], kind: str, query: dict[str, str] | None = None) -> bytes:
        answer = await self._http.get(self._path(route, path), params=query, headers={"Accept": kind})
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise KeyRefusedError(f"the key is refused with status {answer.status_code}")
        return answer.raise_for_status().content


def rows_in(payload: bytes) -> list[Document]:
    """Return the rows of a table in Arrow's file format."""
    rows: list[Document] = pyarrow.ipc.open_file(payload).read_all().to_pylist()
    return rows


def _of_refusal(error: InvalidStatus, base: httpx.URL) -> ServiceError:
    """Return the error that says why the server opens no WebSocket."""
    status = error.response.status_code
    if status == httpx.codes.INTERNAL_SERVER_ERROR:
        return ServiceError(
            f"the Tiled server at {base} does not stream: start it with 'streaming_cache: {{uri: memory}}', or with "
            "the address of a Redis server, in its configuration"
        )
    return ServiceError(f"the Tiled server at {base} refuses a WebSocket with status {status}")


def split_address(address: str) -> tuple[httpx.URL, tuple[str, ...]]:
    """Return the address of the server's API, which ends with a slash, and the path of the container in it.

    Raises
    ------
    EndpointError
        If the address is not one of HTTP.
    """
    url = httpx.URL(address)
    if url.scheme not in ("http", "https") or not url.host:
        raise EndpointError(
            f"documents.address: expected the address of a Tiled server, http://host:8000, got {address!r}"
        )
    server, _, path = url.path.rstrip("/").partition("/api/v1")
    base = url.copy_with(path=f"{server}/api/v1/", query=None)
    return base, tuple(part for part in path.removeprefix("/metadata").split("/") if part)
