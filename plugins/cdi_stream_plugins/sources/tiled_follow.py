"""Follow the runs in the catalog of a Tiled server.

Tiled keeps no documents but nodes: a container for each run, in it a container for each stream, in it a table with a
row for each event, and an array for each data key whose values lie in files.  All of them are followed over WebSockets.
The rows are read over HTTP as well where messages may be missing: in runs that began before the connection, after a gap
in the sequence numbers, and if a run has stopped and fewer events came than it has.  Otherwise they are not read,
because a table in SQLite cannot be written while it is read.  `TiledRun` hands on each document once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine

from cdi_stream.documents.own import is_own_start
from cdi_stream.messages import Document
from cdi_stream_plugins.sources.carrier import HandOn
from cdi_stream_plugins.sources.tiled_client import TiledClient, rows_in
from cdi_stream_plugins.sources.tiled_rows import TABLE, read_events, take_rows
from cdi_stream_plugins.sources.tiled_run import TiledRun

logger = logging.getLogger(__name__)

MAX_AGE_S = 86_400.0
"""Time [s] since the start of a run up to which it is read after a new connection."""

MAX_NEW = 1000
"""Largest number of runs that are read after a new connection."""

MAX_OPEN = 20
"""Number of open runs that are followed; a RunEngine that was killed leaves its run open for ever."""

SETTLE_S = 0.2
"""Time [s] to wait before the runs are listed: the server sends the schema of the catalog before it subscribes."""

CLOSE_S = 2.0
"""Longest time [s] from a stop document to the end of the streams of its tables and arrays, which are closed last."""


class Catalog:
    """Runs that the source knows, kept over lost connections.

    ``open`` holds the runs that are followed, oldest first; ``finished`` the uids of the last runs that were handed on
    whole.  ``newest`` is the uid of the newest run that was seen.  ``is_read`` tells whether the open runs were read.
    """

    def __init__(self) -> None:
        self.open: dict[str, TiledRun] = {}
        self.finished: deque[str] = deque(maxlen=MAX_NEW)
        self.newest = ""
        self.is_read = False

    def has(self, uid: str) -> bool:
        """Whether a run was seen before."""
        return uid == self.newest or uid in self.open or uid in self.finished


class Follower:
    """Follows a catalog over one connection; a lost connection ends all its tasks with an error."""

    def __init__(self, client: TiledClient, catalog: Catalog, hand_on: HandOn) -> None:
        self._client, self._catalog, self._hand_on = client, catalog, hand_on
        self._group = asyncio.TaskGroup()
        self._tasks: dict[tuple[str, ...], asyncio.Task[None]] = {}
        self._begun_here: set[str] = set()

    async def run(self, connected: Callable[[], None]) -> None:
        """Follow the catalog until cancelled; raises the error of a connection that is lost.

        ``connected`` is called when all that was missed came.
        """
        await self._client.metadata()  # the answer to a wrong key is clearer here than from a WebSocket
        async with self._group, self._client.messages() as messages:
            async for message in messages:
                match message["type"]:
                    case "container-schema":
                        await asyncio.sleep(SETTLE_S)
                        await self._catch_up()
                        connected()
                    case "container-child-created":
                        self._begun_here.add(message["key"])
                        await self._take_run(message["key"], message["metadata"])
                        self._catalog.newest = message["key"]
                    case "container-child-metadata-updated" if message["key"] in self._catalog.open:
                        await self._take_run(message["key"], message["metadata"] or {})
            raise ConnectionError("the stream of the catalog ended")

    async def _catch_up(self) -> None:
        """Take the runs that were open, then those since the last connection; at the first one, those that are open."""
        for uid in list(self._catalog.open):
            metadata = await self._client.metadata(uid)
            if metadata is None:
                del self._catalog.open[uid]
            else:
                await self._take_run(uid, metadata)
        for uid, metadata in await self._recent_runs():
            if self._catalog.is_read or not metadata.get("stop"):
                await self._take_run(uid, metadata)
            self._catalog.newest = uid
        self._catalog.is_read = True

    async def _recent_runs(self) -> list[tuple[str, Document]]:
        """Return uid and metadata of the runs that are newer than those seen before, oldest first."""
        runs: list[tuple[str, Document]] = []
        async for uid, attributes in self._client.children(is_newest_first=True):
            if self._catalog.has(uid) or _age_s(attributes["metadata"]) > MAX_AGE_S or len(runs) == MAX_NEW:
                break
            runs.append((uid, attributes["metadata"]))
        return runs[::-1]

    async def _take_run(self, uid: str, metadata: Document) -> None:
        """Follow a run, or finish it if it has a stop document; nodes that are no raw runs are left out."""
        start, stop = _raw_start(uid, metadata), metadata.get("stop")
        if start is None or uid in self._catalog.finished:
            return
        if uid not in self._catalog.open:
            self._catalog.open[uid] = TiledRun(start, self._hand_on)
            self._give_up_oldest()
        if stop:
            await self._finish(self._catalog.open[uid], stop)
        else:
            self._follow(self._follow_run, self._catalog.open[uid])

    async def _finish(self, run: TiledRun, stop: Document) -> None:
        """Hand on what did not come yet of a run that has stopped."""
        writing = [task for path, task in self._tasks.items() if path[0] == run.uid and len(path) == 3]
        if writing:
            await asyncio.wait(writing, timeout=CLOSE_S)
        async for stream, attributes in self._client.children(run.uid):
            run.descriptors(stream, attributes["metadata"])
            if run.n_points(stream) != (stop.get("num_events") or {}).get(stream):
                await read_events(self._client, run, stream)
            async for key, node in self._client.children(run.uid, stream):
                run.files(stream, key, node)
        run.stop(stop)
        del self._catalog.open[run.uid]
        self._catalog.finished.append(run.uid)
        self._leave(run.uid)

    def _give_up_oldest(self) -> None:
        if len(self._catalog.open) > MAX_OPEN:
            oldest = next(iter(self._catalog.open))
            logger.warning("run %s in Tiled has no stop document: it is no longer followed", oldest)
            del self._catalog.open[oldest]
            self._leave(oldest)

    def _follow(self, coroutine: Callable[..., Coroutine[None, None, None]], run: TiledRun, *path: str) -> None:
        """Start the task for a node of a run, if there is none yet."""
        if (run.uid, *path) not in self._tasks:
            self._tasks[run.uid, *path] = self._group.create_task(coroutine(run, *path))

    def _leave(self, uid: str) -> None:
        """End the tasks for the nodes of a run."""
        for path in [path for path in self._tasks if path[0] == uid]:
            self._tasks.pop(path).cancel()

    async def _follow_run(self, run: TiledRun) -> None:
        async with self._client.messages(run.uid, start=1) as messages:
            async for message in messages:
                if message["type"] == "container-schema":
                    found = [(key, attributes["metadata"]) async for key, attributes in self._client.children(run.uid)]
                else:
                    found = [(message["key"], message["metadata"])]
                for stream, metadata in found:
                    run.descriptors(stream, metadata)
                    self._follow(self._follow_stream, run, stream)

    async def _follow_stream(self, run: TiledRun, stream: str) -> None:
        async with self._client.messages(run.uid, stream, start=1) as messages:
            async for message in messages:
                if message["type"] == "container-schema":
                    nodes = [(key, attributes) async for key, attributes in self._client.children(run.uid, stream)]
                else:
                    nodes = [(message["key"], message)] if message["type"] == "container-child-created" else []
                for key, node in nodes:
                    if key == TABLE:
                        self._follow(self._follow_table, run, stream, key)
                    elif run.files(stream, key, node):
                        self._follow(self._follow_array, run, stream, key)

    async def _follow_array(self, run: TiledRun, stream: str, key: str) -> None:
        async with self._client.messages(run.uid, stream, key, start=1) as messages:
            async for message in messages:
                if message["type"] == "array-ref":
                    run.files(stream, key, {"data_sources": [message["data_source"]]})

    async def _follow_table(self, run: TiledRun, stream: str, table: str) -> None:
        expected = 1 if run.uid in self._begun_here else None
        async with self._client.messages(run.uid, stream, table, start=1) as messages:
            async for message in messages:
                if message["type"] == "table-schema":
                    if expected is None:
                        await read_events(self._client, run, stream)
                    continue
                if expected not in (None, message["sequence"]):
                    await read_events(self._client, run, stream)
                expected = message["sequence"] + 1
                await take_rows(self._client, run, stream, rows_in(message["payload"]))


def _raw_start(uid: str, metadata: Document) -> Document | None:
    """Return the start document of a run; None for a run of this service, and for a node that is no run."""
    start = metadata.get("start")
    return start if isinstance(start, dict) and start.get("uid") == uid and not is_own_start(start) else None


def _age_s(metadata: Document) -> float:
    """Return the time [s] since the start of a run; 0 for a node that is no run."""
    start = metadata.get("start")
    return time.time() - float(start["time"]) if isinstance(start, dict) and "time" in start else 0.0
