"""Follow a catalog: what the streams of a made-up server do not bring is read."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
import time
from dataclasses import dataclass, field

import pyarrow
import pytest

from cdi_stream_plugins.sources import tiled, tiled_follow
from cdi_stream_plugins.sources.tiled_follow import Catalog, Follower

ROWS = [{"seq_num": k, "time": float(k), "theta": 0.1 * k} for k in range(1, 6)]
DESCRIPTOR = {"uid": "d", "time": 0.0, "data_keys": {"theta": {"dtype": "number"}}}


@dataclass
class FakeClient:
    """A server with one stream a run; the stream of the table brings the rows of ``sent`` by sequence number."""

    runs: dict[str, dict]
    created: list[str] = field(default_factory=list)
    sent: dict[int, dict] = field(default_factory=dict)
    n_reads: int = 0

    async def metadata(self, *path):
        return self.runs.get(path[0]) if path else {}

    async def children(self, *path, is_newest_first=False):
        match len(path):
            case 0:
                for uid in reversed(self.runs):
                    if uid not in self.created:
                        yield uid, {"metadata": self.runs[uid]}
            case 1:
                yield "primary", {"metadata": DESCRIPTOR}
            case 2:
                yield "internal", {"structure_family": "table"}

    async def rows(self, *path):
        self.n_reads += 1
        return ROWS

    @contextlib.asynccontextmanager
    async def messages(self, *path, start=None):
        yield self._messages(path)

    async def _messages(self, path):
        yield {"type": "table-schema" if path[2:] else "container-schema"}
        if path[2:]:
            for sequence, row in self.sent.items():
                yield {"type": "table-data", "sequence": sequence, "payload": arrow(row)}
        for uid in self.created if not path else ():
            yield {"type": "container-child-created", "key": uid, "metadata": {"start": self.runs[uid]["start"]}}
        await asyncio.sleep(0.1)
        for uid in self.created if not path else ():
            yield {"type": "container-child-metadata-updated", "key": uid, "metadata": self.runs[uid]}


def arrow(row):
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.Table.from_pylist([row])
    with pyarrow.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    return sink.getvalue().to_pybytes()


def a_run(uid, stop=True, age_s=0.0, **start):
    stop = {"stop": {"uid": "s", "run_start": uid, "num_events": {"primary": len(ROWS)}}} if stop else {}
    return {"start": {"uid": uid, "time": time.time() - age_s, **start}, **stop}


def follow(client, catalog=None, documents=None):
    """Follow until the catalog's stream ends; return the documents, also those of the connections before."""
    documents = [] if documents is None else documents
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(Follower(client, catalog or Catalog(), lambda name, doc: documents.append((name, doc))).run(int))
    assert "the stream of the catalog ended" in str(caught.value.exceptions[0])
    return documents


def seq_nums(documents):
    return [doc["seq_num"] for name, doc in documents if name == "event"]


def test_a_table_is_not_read_if_its_stream_is_whole():
    client = FakeClient({"new": a_run("new")}, created=["new"], sent=dict(enumerate(ROWS, 1)))
    documents = follow(client)
    assert [name for name, _ in documents] == ["start", "descriptor", *5 * ["event"], "stop"]
    assert client.n_reads == 0


def test_a_gap_in_the_sequence_numbers_is_read():
    client = FakeClient({"new": a_run("new", stop=False)}, created=["new"], sent={1: ROWS[0], 4: ROWS[3]})
    assert seq_nums(follow(client)) == [1, 2, 3, 4, 5]
    assert client.n_reads == 1


def test_a_stream_whose_begin_is_forgotten_is_read():
    client = FakeClient({"new": a_run("new", stop=False)}, created=["new"], sent={4: ROWS[3]})
    assert seq_nums(follow(client)) == [1, 2, 3, 4, 5]


def test_events_that_never_came_over_the_stream_are_read_at_the_stop():
    documents = follow(FakeClient({"new": a_run("new")}, created=["new"]))
    assert seq_nums(documents) == [1, 2, 3, 4, 5]
    assert documents[-1][0] == "stop"


def test_at_first_only_open_recent_raw_runs_come():
    runs = {
        "old": a_run("old", stop=False, age_s=2 * tiled_follow.MAX_AGE_S),
        "whole": a_run("whole"),
        "own": a_run("own", stop=False, original_run_uid="whole"),
        "open": a_run("open", stop=False),
    }
    documents = follow(FakeClient(runs))
    assert [doc["uid"] for name, doc in documents if name == "start"] == ["open"]


def test_after_a_lost_connection_missed_runs_come_whole_and_known_ones_do_not_come_again():
    catalog, documents = Catalog(), []
    assert follow(FakeClient({"first": a_run("first")}), catalog, documents) == []
    client = FakeClient({"first": a_run("first"), "open": a_run("open", stop=False)})
    whole = ["start", "descriptor", *5 * ["event"], "stop"]
    assert [name for name, _ in follow(client, catalog, documents)] == whole[:-1]
    missed = FakeClient({**client.runs, "open": a_run("open"), "missed": a_run("missed")})
    for _ in range(2):
        follow(missed, catalog, documents)
    assert [name for name, _ in documents] == whole * 2
    assert [doc["uid"] for name, doc in documents if name == "start"] == ["open", "missed"]


def test_a_run_that_was_deleted_is_no_longer_followed():
    catalog = Catalog()
    follow(FakeClient({"open": a_run("open", stop=False)}), catalog)
    assert list(catalog.open) == ["open"]
    follow(FakeClient({}), catalog)
    assert not catalog.open


def test_the_oldest_of_many_open_runs_is_given_up(caplog):
    catalog = Catalog()
    n = tiled_follow.MAX_OPEN + 1
    follow(FakeClient({f"run {k}": a_run(f"run {k}", stop=False) for k in range(n)}), catalog)
    assert list(catalog.open) == [f"run {k}" for k in range(1, n)]
    assert "run run 0 in Tiled has no stop document" in caplog.text


def test_without_tiled_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    spec = importlib.util.spec_from_file_location("without_tiled", tiled.__file__)
    with pytest.raises(ImportError, match=r"pip install 'cdi-stream\[tiled\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
