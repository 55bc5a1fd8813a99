"""One suite for all document sources: what a sender sends comes, in order, whole, also after a lost connection."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import bluesky.plans as bp
import numpy as np
import pytest
import zmq
from bluesky import RunEngine
from ophyd.sim import SynAxis, SynGauss

from cdi_stream.documents.bus import writer
from cdi_stream.documents.proxy import own_proxy
from cdi_stream.documents.source import DocumentSource
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.errors import EndpointError, WireError
from cdi_stream_plugins.bluesky import CdiStream, publisher
from cdi_stream_plugins.sources.bus import BusSource
from cdi_stream_plugins.sources.process import ProcessSource

KINDS = ["zmq, msgpack", "zmq, json", "process"]


class Sender(Protocol):
    """Sends documents as a RunEngine's callback does."""

    def __call__(self, name: str, doc: dict[str, Any]) -> None: ...


@dataclass
class Way:
    """A sender, a source, and the errors that the source reported."""

    send: Sender
    source: DocumentSource
    errors: list[WireError]

    def take(self, n: int, timeout_s: float = 30.0) -> list[tuple[str, dict[str, Any]]]:
        """Return the next ``n`` documents."""
        documents: list[tuple[str, dict[str, Any]]] = []
        end_s = time.monotonic() + timeout_s
        while len(documents) < n and time.monotonic() < end_s:
            if self.source.socket.poll(50):
                documents += [(name, dict(doc)) for name, doc in self.source.documents(self.errors.append)]
        return documents


@pytest.fixture(params=KINDS)
def way(request) -> Iterator[Way]:
    with contextlib.ExitStack() as stack:
        made = WAYS[request.param](stack)
        settle(made)
        yield made


def zmq_way(stack: contextlib.ExitStack, serializer: str) -> Way:
    ends = [f"tcp://127.0.0.1:{free_port()}" for _ in range(2)]
    stack.enter_context(own_proxy(*ends))
    context = stack.enter_context(zmq.Context())
    source = BusSource(context, ends[1], serializer=serializer)
    stack.callback(source.close)
    send = publisher(ends[0][6:], serializer)
    stack.callback(send.close)
    return Way(send, source, [])


def process_way(stack: contextlib.ExitStack) -> Way:
    address = f"tcp://127.0.0.1:{free_port()}"
    context = stack.enter_context(zmq.Context())
    source = ProcessSource(context, address)
    stack.callback(source.close)
    send = CdiStream({"documents": {"source": "process", "address": address}})
    stack.callback(send.close)
    return Way(send, source, [])


WAYS = {
    "zmq, msgpack": lambda stack: zmq_way(stack, "msgpack"),
    "zmq, json": lambda stack: zmq_way(stack, "json"),
    "process": process_way,
}


def settle(way: Way) -> None:
    """Send until the first document has come: a publisher loses what it sends before its subscriber is connected."""
    for k in range(100):
        way.send("start", {"uid": f"probe-{k}", "time": 0.0})
        if way.take(1, 0.2):
            time.sleep(0.3)
            list(way.source.documents(way.errors.append))
            return
    pytest.fail("no document came within 20 s")


def test_the_documents_of_a_scan_come_in_order_and_whole(way):
    sent: list[tuple[str, dict[str, Any]]] = []
    engine = RunEngine({}, context_managers=[])
    engine.subscribe(lambda name, doc: sent.append((name, doc)))
    engine.subscribe(way.send)
    motor = SynAxis(name="theta")
    engine(bp.scan([SynGauss("det", motor, "theta", center=0, Imax=1)], motor, -1, 1, 11))
    came = way.take(len(sent))
    assert [name for name, _ in came] == [name for name, _ in sent] == ["start", "descriptor", *11 * ["event"], "stop"]
    for (_, doc), (_, original) in zip(came, sent, strict=True):
        assert doc["uid"] == original["uid"]
        assert doc.get("seq_num") == original.get("seq_num")
        assert doc.get("data") == original.get("data")
    assert way.errors == []


def test_a_thousand_events_at_once_all_come(way):
    for k in range(1000):
        way.send("event", {"uid": f"e{k}", "descriptor": "d", "seq_num": k + 1, "data": {"theta": np.float64(0.1 * k)}})
    came = way.take(1000)
    assert [doc["seq_num"] for _, doc in came] == list(range(1, 1001))
    assert came[-1][1]["data"]["theta"] == pytest.approx(99.9)


def test_values_of_any_kind_come_as_plain_values(way):
    way.send("start", {"uid": "u", "shape": (2, np.int64(3)), "image": np.eye(2), "flag": np.bool_(True), "no": None})
    ((_, doc),) = way.take(1)
    assert doc == {"uid": "u", "shape": [2, 3], "image": [[1.0, 0.0], [0.0, 1.0]], "flag": True, "no": None}


def test_the_process_source_refuses_an_address_in_use(tmp_path):
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        zmq.Context() as context,
        contextlib.closing(ProcessSource(context, address)),
        pytest.raises(EndpointError, match="another service"),
    ):
        ProcessSource(context, address)


def test_garbage_is_reported_and_the_next_document_comes():
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        zmq.Context() as context,
        contextlib.closing(ProcessSource(context, address)) as source,
        context.socket(zmq.DEALER) as push,
    ):
        push.connect(address)
        for message in (b"", b"no document", b" event \x93", b" start " + writer("msgpack")({"uid": "u"})):
            push.send(message)
        way = Way(lambda name, doc: None, source, [])
        assert way.take(1) == [("start", {"uid": "u"})]
        assert len(way.errors) == 3
