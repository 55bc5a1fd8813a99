"""Delivery of documents to a real bus: in order, each until it arrives, and none again."""

from __future__ import annotations

import contextlib
import logging
import threading

import pytest
import zmq

from cdi_stream.documents import bus
from cdi_stream.refine import outbox as outbox_module
from cdi_stream.refine.outbox import DeliveryMonitor, Outbox
from cdi_stream.refine.queue import Queue
from cdi_stream.refine.turn import MONITOR_PATIENCE_S, MonitorLock, SecondMonitor

PATIENCE_MS = 20_000
PREFIX = "cdi"


class Sink:
    """Sink that sends to the proxy and notes each document; can lose documents."""

    def __init__(self, socket) -> None:
        self.sent = []
        self.loses = set()
        self._socket = socket

    def __call__(self, name, doc):
        self.sent.append(doc["uid"])
        if doc["uid"] not in self.loses:
            self._socket.send(PREFIX.encode() + b" " + name.encode() + b" " + bus.writer("msgpack")(doc))

    def close(self):
        self._socket.close(0)


class Bus:
    """A Bluesky proxy, connected publishers and subscribers, and a queue."""

    def __init__(self, folder, stack) -> None:
        self._path = folder / "queue.sqlite3"
        self._stack = stack
        self._context = stack.enter_context(zmq.Context())
        self._inlet, self.publish = self._bound(zmq.XSUB)
        self._outlet, self.subscribe = self._bound(zmq.XPUB)
        self._control, control = self._bound(zmq.PAIR)
        self._steer = self._socket(zmq.PAIR)
        self._steer.connect(control)
        self._thread = threading.Thread(target=self._proxy)
        self._thread.start()
        stack.callback(self._end)
        self.queue = self.connection()
        self.done = []

    def _socket(self, kind):
        socket = self._stack.enter_context(self._context.socket(kind))
        socket.linger = 0
        return socket

    def _bound(self, kind):
        socket = self._socket(kind)
        return socket, f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"

    def _proxy(self):
        zmq.proxy_steerable(self._inlet, self._outlet, None, self._control)

    def _end(self):
        self._steer.send(b"TERMINATE")
        self._thread.join()

    def connection(self):
        return self._stack.enter_context(contextlib.closing(Queue(self._path)))

    def sink(self):
        socket = self._socket(zmq.XPUB)
        socket.connect(self.publish)
        self.listener()  # so that there is a subscription
        assert socket.poll(PATIENCE_MS)
        return Sink(socket)

    def listener(self):
        socket = self._stack.enter_context(contextlib.closing(bus.listen(self._context, self.subscribe)))
        socket.linger = 0
        return socket

    def outbox(self, sink, queue=None, listener=None, may_send=lambda: True):
        """Return the outbox of a worker, with a connected monitor."""
        queue = queue or self.queue
        socket = listener or self.heard_listener(sink)
        monitor = DeliveryMonitor(socket, queue, PREFIX, bus.reader("msgpack"))
        return Outbox(queue, sink, monitor, lambda job: self.done.append(job.key), may_send)

    def heard_listener(self, sink):
        """Return a subscriber that the sink's documents reach: it has received one."""
        socket = self.listener()
        for _ in range(PATIENCE_MS // 20):
            Sink(sink._socket)("greeting", {"uid": "greeting"})
            if socket.poll(20):
                return socket
        raise AssertionError("the proxy passes nothing on")

    def compute(self, *keys, owner="worker_0", n=4):
        for key in keys:
            self.queue.enqueue(key, "recipe", {}, f"{key}.h5")
            job = self.queue.lease(owner, 60.0)
            assert self.queue.complete(job, owner, documents(key, n))

    def states(self):
        return {job.key: job.state for job in self.queue.jobs()}


def documents(key, n=4):
    names = ["start", *["event"] * (n - 2), "stop"]
    return [(name, {"uid": f"{key}-{k}", "values": [k, 0.5]}) for k, name in enumerate(names)]


def uids(*keys, n=4):
    return [doc["uid"] for key in keys for _, doc in documents(key, n)]


def heard_by(socket, n):
    received = []
    while len(received) < n and socket.poll(PATIENCE_MS):
        name, doc = bus.unpack(socket.recv(), PREFIX.encode(), bus.reader("msgpack"))
        received += [] if name == "greeting" else [(name, doc)]
    return received


@pytest.fixture
def rig(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox_module, "RESEND_AFTER_S", 0.3)
    with contextlib.ExitStack() as stack:
        yield Bus(tmp_path, stack)


def running():
    return False


def test_documents_are_sent_once_in_their_order(rig):
    sink = rig.sink()
    onlooker, outbox = rig.heard_listener(sink), rig.outbox(sink)
    rig.compute("one", "two")
    outbox.send("worker_0", running)
    outbox.send("worker_0", running)
    assert sink.sent == uids("one", "two")
    assert heard_by(onlooker, 8) == documents("one") + documents("two")
    assert rig.states() == {"one": "done", "two": "done"}
    assert rig.done == ["one", "two"]


def test_other_work_goes_on_between_two_documents(rig):
    sink, sent = rig.sink(), []
    outbox = rig.outbox(sink)
    rig.compute("one")
    outbox.send("worker_0", running, lambda: sent.append(len(sink.sent)))
    assert sent == [0, 1, 2, 3]


def test_only_the_owner_s_documents_are_sent(rig):
    sink = rig.sink()
    outbox = rig.outbox(sink)
    rig.compute("mine")
    rig.compute("another's", owner="worker_1")
    outbox.send("worker_0", running)
    assert sink.sent == uids("mine")
    assert rig.states() == {"mine": "done", "another's": "computed"}


def test_with_nothing_to_send_nothing_is_sent(rig):
    sink = rig.sink()
    rig.outbox(sink).send("worker_0", running)
    assert sink.sent == []


def test_what_is_not_heard_is_sent_again_from_where_it_broke_off(rig, caplog):
    sink = rig.sink()
    outbox = rig.outbox(sink)
    rig.compute("one", "two")
    sink.loses = {"one-2"}
    with caplog.at_level(logging.WARNING, logger="cdi_stream"):
        outbox.send("worker_0", running)
    assert "do not arrive" in caplog.text
    assert rig.states() == {"one": "computed", "two": "computed"}
    assert "two-0" not in sink.sent, "jobs keep their order"
    assert rig.done == []
    sink.sent.clear()
    sink.loses = set()
    outbox.send("worker_0", running)
    assert sink.sent[0] == "one-2"
    assert not {"one-0", "one-1"} & set(sink.sent)
    assert [uid for uid in sink.sent if uid.startswith("two")] == uids("two")
    assert rig.states() == {"one": "done", "two": "done"}


def test_a_new_worker_does_not_send_again_what_was_heard(rig):
    """The first worker is killed after its second document; the service's monitor has received both."""
    sink = rig.sink()
    service = DeliveryMonitor(rig.heard_listener(sink), rig.connection(), PREFIX, bus.reader("msgpack"))
    rig.compute("one")
    for name, doc in documents("one")[:2]:
        sink(name, doc)
    while len(rig.queue.documents_to_send(rig.queue.jobs()[0])) > 2:
        service.listen(100)

    rig.queue.take_over("worker_0", "worker_1")
    heir = rig.sink()
    outbox = rig.outbox(heir, rig.connection())
    outbox.send("worker_1", running)
    assert heir.sent == uids("one")[2:]
    assert rig.states() == {"one": "done"}


def test_a_worker_that_was_killed_before_it_could_finish_sends_nothing_twice(rig):
    sink = rig.sink()
    outbox = rig.outbox(sink)
    rig.compute("one")
    for uid in uids("one"):
        rig.queue.mark_delivered(uid)
    outbox.send("worker_0", running)
    assert sink.sent == []
    assert rig.states() == {"one": "done"}
    assert rig.done == ["one"]


def test_what_waits_to_be_heard_is_heard_before_anything_is_sent(rig):
    """The documents are in the socket of the worker's monitor while the worker is paused."""
    sink = rig.sink()
    listener = rig.heard_listener(sink)
    outbox = rig.outbox(sink, listener=listener)
    rig.compute("one")
    for name, doc in documents("one"):
        Sink(sink._socket)(name, doc)
    onlooker = rig.heard_listener(sink)
    while not listener.poll(50) or not onlooker:
        pass
    threading.Event().wait(0.3)
    outbox.send("worker_0", running)
    assert sink.sent == []
    assert rig.states() == {"one": "done"}


def test_without_a_bus_the_outbox_gives_up_in_time_and_keeps_all(rig):
    sink = rig.sink()
    outbox = rig.outbox(sink)
    rig.compute("one")
    sink.loses = set(uids("one"))
    outbox.send("worker_0", running)
    assert rig.states() == {"one": "computed"}
    assert len(rig.queue.documents_to_send(rig.queue.jobs()[0])) == 4


def test_documents_wait_for_the_second_monitor(rig, tmp_path):
    sink, clock = rig.sink(), [0.0]
    second = SecondMonitor(tmp_path, lambda: clock[0])
    outbox = rig.outbox(sink, may_send=second.may_send)
    rig.compute("one", "two")
    outbox.send("worker_0", running)
    assert sink.sent == []
    with contextlib.closing(MonitorLock(tmp_path)) as lock:
        lock.hold()
        outbox.send("worker_0", running)
        assert rig.states() == {"one": "done", "two": "done"}
    rig.compute("three")
    outbox.send("worker_0", running)
    assert rig.states()["three"] == "computed"
    clock[0] += MONITOR_PATIENCE_S + 1.0
    outbox.send("worker_0", running)
    assert rig.states()["three"] == "done", "a worker without a service sends in the end"
    second.close()


def test_told_to_stop_it_ends_behind_a_whole_job(rig):
    sink = rig.sink()
    outbox = rig.outbox(sink)
    rig.compute("one", "two")
    outbox.send("worker_0", lambda: True)
    assert rig.states() == {"one": "done", "two": "computed"}


def test_what_others_say_on_the_bus_is_no_witness(rig, caplog):
    sink = rig.sink()
    monitor = DeliveryMonitor(rig.heard_listener(sink), rig.queue, PREFIX, bus.reader("msgpack"))
    rig.compute("one")
    write = bus.writer("msgpack")
    sink._socket.send(b"raw start " + write({"uid": "one-0"}))
    sink._socket.send(b"cdi start " + write({"uid": ["one-0"]}))
    sink._socket.send(b"cdi start " + write({"time": 1.0}))
    sink._socket.send(b"cdi start \xc1")
    sink._socket.send(b"cdi start " + write({"uid": "somebody else's"}))
    sink._socket.send(b"cdi start " + write({"uid": "one-3"}))
    job = rig.queue.jobs()[0]
    for _ in range(PATIENCE_MS // 100):
        monitor.listen(100)
        if len(rig.queue.documents_to_send(job)) < 4:
            break
    assert [doc["uid"] for _, doc in rig.queue.documents_to_send(job)] == uids("one")[:3]
