"""Read past runs from a Tiled server: their documents, and the images that the server can read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import EndpointError, ServiceError, WireError
from cdi_stream.messages import Document
from cdi_stream.protocols import PastImages, PastRun

try:
    import httpx

    from cdi_stream_plugins.sources.tiled_client import KeyRefusedError, TiledClient, split_address
    from cdi_stream_plugins.sources.tiled_rows import read_events
    from cdi_stream_plugins.sources.tiled_run import TiledRun
except ImportError as error:
    raise ImportError(f"{error}; the archive tiled needs more packages: pip install 'cdi-stream[tiled]'") from error

T = TypeVar("T")

_BYTE_ORDERS = {"little": "<", "big": ">", "not_applicable": "|"}


class TiledArchive:
    """Past runs in the catalog at ``address`` (``http://host:8000``).

    Raises
    ------
    EndpointError
        If the address is not one of HTTP.
    """

    def __init__(self, address: str, *, api_key: str = "") -> None:
        split_address(address)
        self._address = address
        self._api_key = api_key

    def run(self, uid: str) -> PastRun | None:
        """Return a run; None if the server has none of this uid."""
        return self._ask(self._run(uid))

    async def _run(self, uid: str) -> PastRun | None:
        documents: list[tuple[str, Document]] = []
        images: list[PastImages] = []
        async with contextlib.aclosing(TiledClient(self._address, self._api_key)) as client:
            metadata = await client.metadata(uid)
            start = None if metadata is None else metadata.get("start")
            if metadata is None or not isinstance(start, dict):
                return None
            run = TiledRun(start, lambda name, doc: documents.append((name, doc)))
            async for stream, attributes in client.children(uid):
                run.descriptors(stream, attributes["metadata"])
                await read_events(client, run, stream)
                async for key, node in client.children(uid, stream):
                    if run.files(stream, key, node) and len(node["structure"]["shape"]) >= 3:
                        images.append(self._images(uid, stream, key, node["structure"]))
            if metadata.get("stop"):
                run.stop(metadata["stop"])
        return PastRun(documents=tuple(documents), images=tuple(images))

    def _images(self, uid: str, stream: str, key: str, structure: Document) -> PastImages:
        """Return the images of a data key; a server stacks the images of each event, or joins them."""
        shape, kind = structure["shape"], structure["data_type"]
        dtype = np.dtype(f"{_BYTE_ORDERS[kind['endianness']]}{kind['kind']}{kind['itemsize']}")
        rows, cols = shape[-2:]
        n_per_row = int(np.prod(shape[1:-2], dtype=int))

        def read(first: int, n: int) -> NDArray[np.generic]:
            """Return ``n`` images from image ``first`` on."""
            begin, end = first // n_per_row, -(-(first + n) // n_per_row)
            content = self._ask(self._block((uid, stream, key), begin, end - begin))
            images = np.frombuffer(content, dtype).reshape(-1, rows, cols)
            return images[first - begin * n_per_row :][:n]

        return PastImages(stream=stream, key=key, shape=(shape[0] * n_per_row, rows, cols), read=read)

    async def _block(self, path: tuple[str, ...], first: int, n: int) -> bytes:
        async with contextlib.aclosing(TiledClient(self._address, self._api_key)) as client:
            return await client.block(*path, first=first, n=n)

    def _ask(self, answer: Coroutine[object, object, T]) -> T:
        """Return the answer of the server; raises `ServiceError` if it does not answer as a Tiled server does."""
        try:
            return asyncio.run(answer)
        except KeyRefusedError as error:
            raise EndpointError(
                f"the Tiled server at {self._address} refuses the API key: give a key that may read data and metadata "
                "in the environment variable TILED_API_KEY"
            ) from error
        except (OSError, httpx.HTTPError, WireError, ValueError, LookupError, TypeError) as error:
            raise ServiceError(f"the Tiled server at {self._address} does not answer as expected: {error!r}") from error
