"""Read the rows of a stream in Tiled, one for each event, and hand them on as events."""

from __future__ import annotations

from collections.abc import Sequence

from cdi_stream.messages import Document
from cdi_stream_plugins.sources.tiled_client import TiledClient
from cdi_stream_plugins.sources.tiled_run import TiledRun

TABLE = "internal"
"""Name of the table of a stream; a table of more than 1024 columns is split into internal_0, internal_1 and so on."""


async def read_events(client: TiledClient, run: TiledRun, stream: str) -> None:
    """Take all rows of a stream; the tables of a wide stream hold the columns of the same rows."""
    keys = [key async for key, attributes in client.children(run.uid, stream) if _is_table(key, attributes)]
    tables = [await client.rows(run.uid, stream, key) for key in keys]
    rows = [{key: value for part in parts for key, value in part.items()} for parts in zip(*tables, strict=False)]
    await take_rows(client, run, stream, rows)


async def take_rows(client: TiledClient, run: TiledRun, stream: str, rows: Sequence[Document]) -> None:
    """Add the arrays that Tiled stores outside the table to the rows that are new, and hand them on."""
    new = run.new_rows(stream, rows)
    first = run.n_events(stream)
    for key in run.array_keys(stream, new[0]) if new else ():
        values = await client.array(run.uid, stream, key, first=first, n=len(new))
        new = [{**row, key: value} for row, value in zip(new, values, strict=False)]
    run.events(stream, new)


def _is_table(key: str, attributes: Document) -> bool:
    """Whether a node in a stream is a table of its events; tables of files have the names of data keys."""
    return attributes["structure_family"] == "table" and key.partition("_")[0] == TABLE
