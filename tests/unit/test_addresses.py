"""Reading of 0MQ addresses, and connections to them, also over IPv6."""

from __future__ import annotations

import contextlib
import socket

import pytest
import zmq

from cdi_stream import addresses
from cdi_stream.addresses import is_ipv6, is_loopback, parse
from cdi_stream.documents import bus
from cdi_stream.operators.announce import Announcer
from cdi_stream.stream.receive import open_socket


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


@pytest.mark.parametrize(
    ("text", "host", "port", "is_wildcard", "is_local"),
    [
        ("tcp://127.0.0.1:5555", "127.0.0.1", 5555, False, True),
        ("tcp://127.9.9.9:5555", "127.9.9.9", 5555, False, True),
        ("tcp://localhost:*", "localhost", None, False, True),
        ("tcp://[::1]:5555", "::1", 5555, False, True),
        ("tcp://[fe80::1%eth0]:5555", "fe80::1%eth0", 5555, False, False),
        ("tcp://*:5555", "*", 5555, True, False),
        ("tcp://0.0.0.0:5555", "0.0.0.0", 5555, True, False),
        ("tcp://[::]:5555", "::", 5555, True, False),
        ("tcp://det.lab:80", "det.lab", 80, False, False),
        ("tcp://10.1.1.1:0;det.lab:80", "det.lab", 80, False, False),
        ("ipc:///run/detector", "/run/detector", None, False, True),
    ],
)
def test_an_address_is_read(text, host, port, is_wildcard, is_local):
    address = parse(text)
    assert (address.host, address.port) == (host, port)
    assert (address.is_wildcard, address.is_loopback) == (is_wildcard, is_local)


def test_this_machine_is_one_place_however_it_is_written():
    same = ("tcp://127.0.0.1:5", "tcp://localhost:5", "tcp://[::1]:5", "tcp://*:5", "tcp://0.0.0.0:5")
    assert {parse(text).place for text in same} == {("localhost", 5)}
    assert parse("tcp://10.0.0.1:5").place != ("localhost", 5)


@pytest.mark.parametrize(
    "host", ["127.0.0.1.evil.org", "localhost.evil.org", "0.0.0.0", "", "10.0.0.1", "1", "127.0.0.1%x"]
)
def test_a_host_that_only_looks_like_this_machine_is_another(host):
    assert not is_loopback(host)


def test_what_is_no_address_needs_no_option():
    assert is_ipv6("tcp://[::1]:5")
    assert not is_ipv6("tcp://127.0.0.1:5")
    assert not is_ipv6("nonsense")
    assert addresses.MAX_PORT == 65535


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context


@pytest.fixture
def sender(context):
    """Return a socket that is bound on the IPv6 loopback, with its address."""
    with contextlib.ExitStack() as stack:

        def bound(kind):
            socket = stack.enter_context(context.socket(kind))
            socket.setsockopt(zmq.IPV6, 1)
            socket.linger = 0
            return socket, f"tcp://[::1]:{socket.bind_to_random_port('tcp://[::1]')}"

        yield bound


@needs_ipv6
def test_a_detector_on_ipv6_is_received(context, sender):
    detector, endpoint = sender(zmq.PUSH)
    with open_socket(context, endpoint, "pull", bind=False, max_message_bytes=1000) as receiving:
        detector.send(b"frame")
        assert receiving.poll(5000)
        assert receiving.recv() == b"frame"


@needs_ipv6
def test_a_detector_that_connects_over_ipv6_is_received(context):
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        endpoint = f"tcp://[::1]:{probe.getsockname()[1]}"
    receiving = open_socket(context, endpoint, "pull", bind=True, max_message_bytes=1000)
    with receiving, context.socket(zmq.PUSH) as detector:
        detector.setsockopt(zmq.IPV6, 1)
        detector.connect(endpoint)
        detector.send(b"frame")
        assert receiving.poll(5000)


@needs_ipv6
def test_documents_on_ipv6_are_heard(context, sender):
    proxy, address = sender(zmq.XPUB)
    with bus.listen(context, address) as listening:
        assert proxy.poll(5000), "nobody subscribed"
        assert proxy.recv() == b"\x01"
        proxy.send(b' start {"uid": "run"}')
        assert list(bus.receive(listening, "", bus.reader("json"), 5000)) == [("start", {"uid": "run"})]


@needs_ipv6
def test_our_documents_go_out_over_ipv6(context, sender):
    from cdi_stream_plugins.sinks.bus import BusSink

    proxy, address = sender(zmq.XSUB)
    proxy.send(b"\x01")
    sink = BusSink(address=address, serializer="json")
    for _ in range(100):  # the subscription travels while the proxy is polled
        sink("start", {"uid": "ours"})
        if proxy.poll(50):
            break
    assert b'"ours"' in proxy.recv(zmq.NOBLOCK)
    sink.close()


@needs_ipv6
def test_the_feed_is_shown_over_ipv6(context):
    from cdi_stream.operators.hub import subscribe

    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        endpoint = f"tcp://[::1]:{probe.getsockname()[1]}"
    announcer = Announcer(endpoint)
    page = subscribe(context, endpoint)
    for _ in range(100):
        announcer.tell(({"kind": "state"}, {}))
        announcer.send()
        if page.poll(50):
            break
    assert page.poll(0)
    page.close(0)
    announcer.close()


def test_no_port_is_given_twice(monkeypatch):
    from cdi_stream.documents import tiled_server

    monkeypatch.setattr(tiled_server, "PORTS", range(15_000, 15_030))
    monkeypatch.setattr(tiled_server, "_GIVEN", set())
    ports = [tiled_server.free_port() for _ in range(8)]
    assert len(set(ports)) == len(ports)
