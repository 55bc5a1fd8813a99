"""A document after a restart of the proxy reaches all subscribers, although one of them connects late."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
import zmq

from cdi_stream.documents import bus
from cdi_stream.documents.proxy import own_proxy
from cdi_stream_plugins.sinks import bus as bus_sink
from cdi_stream_plugins.sinks.bus import BusSink
from tests.endpoints import free_endpoint


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


def heard_first(addresses, reconnect_ms, outage_s):
    """Return the first document after a restart of the proxy, as a quick and as another subscriber received it."""
    publish, subscribe = addresses
    with contextlib.ExitStack() as stack:
        with own_proxy(publish, subscribe):
            sink = stack.enter_context(contextlib.closing(BusSink(address=publish, is_immediate=True)))
            quick, other = (
                stack.enter_context(contextlib.closing(Subscriber(subscribe, ms))) for ms in (10, reconnect_ms)
            )
            sent_until_heard(sink, quick, other)
            time.sleep(0.3)
        time.sleep(outage_s)
        quick.uids, other.uids = [], []
        with own_proxy(publish, subscribe):
            sent_until_heard(sink, quick)
            assert other.has_heard_before(time.monotonic() + 0.4)
            return quick.uids[0], other.uids[0]


@pytest.fixture
def addresses():
    return free_endpoint(), free_endpoint()


def test_the_first_document_after_a_restart_of_the_proxy_waits_for_slow_subscribers(addresses, monkeypatch):
    monkeypatch.setattr(bus_sink, "SETTLE_S", 2.0)
    by_quick, by_slow = heard_first(addresses, reconnect_ms=700, outage_s=0.0)
    assert by_quick == by_slow


def test_listeners_of_this_package_are_back_in_time_after_a_long_restart(addresses):
    by_quick, by_ours = heard_first(addresses, reconnect_ms=None, outage_s=3.0)
    assert by_quick == by_ours
