"""CdiStream: a call takes microseconds and raises nothing, whatever the service behind it does."""

from __future__ import annotations

import contextlib
import sys
import time

import numpy as np
import pytest
import zmq
from bluesky import RunEngine
from bluesky import plan_stubs as bps

from cdi_stream.documents.bus import reader, unpack
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.errors import ConfigError
from cdi_stream_plugins.bluesky import CdiStream, acknowledged, own_service
from cdi_stream_plugins.sources.process import ProcessSource


@pytest.fixture
def address():
    return f"tcp://127.0.0.1:{free_port()}"


@pytest.fixture
def subscriber(address):
    made = CdiStream({"documents": {"source": "process", "address": address}})
    yield made
    made.close(0.1)


@contextlib.contextmanager
def service_at(address):
    """A service that takes documents, acknowledges them, and yields a function that waits for the next ``n``."""
    with zmq.Context() as context, contextlib.closing(ProcessSource(context, address)) as source:

        def take(n, timeout_s=20.0):
            documents, end_s = [], time.monotonic() + timeout_s
            while len(documents) < n and time.monotonic() < end_s:
                source.socket.poll(50)
                documents += source.documents(lambda error: None)
            return documents

        yield take


def event(k):
    return {"uid": f"e{k}", "descriptor": "d", "seq_num": k + 1, "data": {"theta": 0.1 * k}}


def test_a_call_takes_less_than_a_millisecond_without_a_service(subscriber):
    times = []
    for k in range(5000):
        begin = time.perf_counter()
        subscriber("event", event(k))
        times.append(time.perf_counter() - begin)
    assert np.percentile(times, 99) < 1e-3


def test_documents_beyond_the_limit_are_dropped_and_counted(subscriber, monkeypatch):
    monkeypatch.setattr(subscriber, "_max_waiting", 100)
    for k in range(500):
        subscriber("event", event(k))
    assert 390 <= subscriber.n_dropped <= 400


def test_documents_wait_for_a_service_that_comes_later(subscriber, address):
    for k in range(100):
        subscriber("event", event(k))
    with service_at(address) as take:
        came = take(100)
    assert [doc["seq_num"] for _, doc in came] == list(range(1, 101))


class SocketThatConnectsLate:
    """A socket without a connection for its first attempts to send; a real one cannot be timed so."""

    def __init__(self, n_refused):
        self.n_refused, self.sent = n_refused, []

    def poll(self, timeout):
        return 0

    def send_multipart(self, parts, flags):
        self.n_refused -= 1
        if self.n_refused >= 0:
            raise zmq.Again
        self.sent.append(int.from_bytes(parts[0], "big"))


@pytest.mark.parametrize("n_refused", [1, 3, 8, 12])
def test_no_document_overtakes_another_while_the_connection_comes_up(n_refused):
    socket = SocketThatConnectsLate(n_refused)
    line = acknowledged.AcknowledgedLine(socket)
    for k in range(10):
        line.send(b"%d" % k)
    for _ in range(5):
        line.step()
    assert socket.sent == list(range(1, 11))


def test_documents_that_a_killed_service_held_come_again(subscriber, address):
    with zmq.Context() as context, context.socket(zmq.ROUTER) as killed:
        killed.bind(address)
        for k in range(50):
            subscriber("event", event(k))
        assert killed.poll(10_000)
        time.sleep(0.3)  # it has received documents, and acknowledged none
    with service_at(address) as take:
        came = take(50)
        subscriber("event", event(50))
        came += take(1)
    assert [doc["seq_num"] for _, doc in came] == list(range(1, 52))


def test_a_full_window_waits_for_acknowledgements(subscriber, address):
    n = acknowledged.WINDOW + 500
    for k in range(n):
        subscriber("event", event(k))
    time.sleep(0.5)
    assert subscriber.n_sent == acknowledged.WINDOW
    with service_at(address) as take:
        came = take(n)
    assert [doc["seq_num"] for _, doc in came] == list(range(1, n + 1))


def test_a_document_of_any_content_stops_nothing(subscriber, address):
    loop: dict = {}
    loop["self"] = loop
    subscriber("start", {"uid": "odd", "loop": loop, "object": object(), 3: {1, 2}})
    subscriber("event", event(0))
    with service_at(address) as take:
        came = take(2)
    assert [doc["uid"] for _, doc in came] == ["odd", "e0"]
    assert subscriber.run_uid == "odd"


def test_a_scan_goes_on_though_nobody_takes_its_documents(subscriber):
    engine = RunEngine({}, context_managers=[])
    engine.subscribe(subscriber)

    def plan():
        yield from bps.open_run()
        yield from bps.close_run()

    (uid,) = engine(plan())
    assert subscriber.run_uid == uid


def test_the_documents_of_a_proxy_s_configuration_go_to_the_proxy(address):
    with zmq.Context() as context, context.socket(zmq.SUB) as proxy:
        proxy.setsockopt(zmq.SUBSCRIBE, b"")
        proxy.setsockopt(zmq.RCVTIMEO, 10_000)
        proxy.bind(address)
        sender = CdiStream({"documents": {"publish": address, "subscribe": "tcp://127.0.0.1:1", "prefix": "raw"}})
        try:
            while not proxy.poll(50):
                sender("start", {"uid": "u"})
            assert unpack(proxy.recv(), b"raw", reader("msgpack")) == ("start", {"uid": "u"})
        finally:
            sender.close()


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ({"source": "tiled", "address": "http://x"}, 'expected "process"'),
        ({"source": "process"}, "documents.address: expected an address"),
        ({"source": "process", "address": "nonsense"}, "documents.address"),
        ({}, "documents.publish: expected an address"),
        ("text", "expected a table"),
    ],
)
def test_a_wrong_configuration_is_refused_at_once(documents, message):
    with pytest.raises(ConfigError, match=message):
        CdiStream({"documents": documents})


def test_a_missing_file_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match="expected a configuration file"):
        CdiStream(tmp_path / "absent.toml")


class Starts:
    """Stands for `subprocess.Popen`; the processes have ended with the code, or run if it is None."""

    def __init__(self, monkeypatch, code):
        self.commands, self.returncode = [], code
        monkeypatch.setattr(own_service.subprocess, "Popen", self)

    def __call__(self, command, **_):
        self.commands.append(command)
        return self

    def poll(self):
        return self.returncode


@pytest.fixture
def config(tmp_path, address):
    file = tmp_path / "beamline.toml"
    file.write_text(f'[documents]\nsource = "process"\naddress = "{address}"\n')
    return file


def test_a_service_is_started_once(config, monkeypatch):
    starts = Starts(monkeypatch, None)
    monkeypatch.setattr(own_service, "RESTART_S", 0.0)
    sender = CdiStream(config)
    time.sleep(0.5)
    sender.close(0.1)
    assert starts.commands == [[sys.executable, "-m", "cdi_stream", "serve", "--config", str(config)]]


def test_the_service_of_another_environment_is_started_by_its_interpreter(config, monkeypatch):
    starts = Starts(monkeypatch, None)
    sender = CdiStream(config, service_python="/opt/cdi-stream/bin/python")
    time.sleep(0.5)
    sender.close(0.1)
    assert [command[0] for command in starts.commands] == ["/opt/cdi-stream/bin/python"]


def test_a_service_that_cannot_start_is_started_less_and_less_often(config, address, monkeypatch):
    starts = Starts(monkeypatch, 2)
    monkeypatch.setattr(own_service, "RESTART_S", 0.02)
    monkeypatch.setattr(own_service, "MAX_RESTART_S", 0.64)
    service = own_service.OwnService(config, address, sys.executable)
    begin_s = time.monotonic()
    while time.monotonic() - begin_s < 1.0:
        service.keep()
        time.sleep(0.001)
    assert 4 <= len(starts.commands) <= 7
