"""A document after a restart of the proxy reaches all subscribers, although one of them connects late."""

from __future__ import annotations

import contextlib
import threading
import time

import zmq

from cdi_stream.documents import bus
from cdi_stream_plugins.sinks import bus as bus_sink
from cdi_stream_plugins.sinks.bus import BusSink
from tests.endpoints import free_endpoint


class Proxy:
    """A proxy that can be started again at the same addresses."""

    def __init__(self) -> None:
        self.publish, self.subscribe = free_endpoint(), free_endpoint()

    @contextlib.contextmanager
    def running(self):
        context = zmq.Context()
        inlet, outlet, control, steer = (context.socket(kind) for kind in (zmq.XSUB, zmq.XPUB, zmq.PAIR, zmq.PAIR))
        inlet.bind(self.publish)
        outlet.bind(self.subscribe)
        control.bind("inproc://control")
        steer.connect("inproc://control")
        thread = threading.Thread(target=zmq.proxy_steerable, args=(inlet, outlet, None, control))
        thread.start()
        try:
            yield
        finally:
            steer.send(b"TERMINATE")
            thread.join()
            context.destroy(0)


class Subscriber:
    """A subscriber that reads all the time, as listeners do: 0MQ subscribes again while a program reads."""

    def __init__(self, address: str, reconnect_ms: int | None) -> None:
        self.uids: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(address, reconnect_ms))
        self._thread.start()

    def _read(self, address, reconnect_ms):
        with zmq.Context() as context, self._socket(context, address, reconnect_ms) as socket:
            while not self._stop.is_set():
                if socket.poll(20):
                    self.uids.append(bus.unpack(socket.recv(), b"", bus.reader("msgpack"))[1]["uid"])

    @staticmethod
    def _socket(context, address, reconnect_ms):
        """Return a subscriber that tries to connect in this time [ms], or that of this package if it is None."""
        if reconnect_ms is None:
            return bus.listen(context, address)
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.RECONNECT_IVL, reconnect_ms)
        socket.subscribe(b"")
        socket.connect(address)
        return socket

    def has_heard_before(self, end_s):
        while not self.uids and time.monotonic() < end_s:
            time.sleep(0.01)
        return bool(self.uids)

    def close(self):
        self._stop.set()
        self._thread.join()


def sent_until_heard(sink, *subscribers):
    """Send numbers until one of them has reached each subscriber."""
    for k in range(1000):
        sink("start", {"uid": str(k)})
        if all(subscriber.has_heard_before(time.monotonic() + 0.05) for subscriber in subscribers):
            return
    raise AssertionError("the proxy passes nothing on")


def test_the_first_document_after_a_restart_of_the_proxy_waits_for_slow_subscribers(monkeypatch):
    proxy = Proxy()
    with contextlib.ExitStack() as stack:
        with proxy.running():
            sink = stack.enter_context(contextlib.closing(BusSink(address=proxy.publish, is_immediate=True)))
            monkeypatch.setattr(bus_sink, "SETTLE_S", 2.0)
            quick, slow = (stack.enter_context(contextlib.closing(Subscriber(proxy.subscribe, ms))) for ms in (10, 700))
            sent_until_heard(sink, quick, slow)
            time.sleep(0.3)
        quick.uids, slow.uids = [], []
        with proxy.running():
            sent_until_heard(sink, quick)
            assert slow.has_heard_before(time.monotonic() + 0.5)
            assert slow.uids[0] == quick.uids[0]


def test_listeners_of_this_package_are_back_in_time_after_a_long_restart():
    proxy = Proxy()
    with contextlib.ExitStack() as stack:
        with proxy.running():
            sink = stack.enter_context(contextlib.closing(BusSink(address=proxy.publish, is_immediate=True)))
            quick, ours = (
                stack.enter_context(contextlib.closing(Subscriber(proxy.subscribe, ms))) for ms in (10, None)
            )
            sent_until_heard(sink, quick, ours)
        time.sleep(3.0)
        quick.uids, ours.uids = [], []
        with proxy.running():
            sent_until_heard(sink, quick)
            assert ours.has_heard_before(time.monotonic() + 0.4)
            assert ours.uids[0] == quick.uids[0]
