"""Documents that come over STOMP: through a real RabbitMQ, in the format of blueapi and from blueapi itself."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from cdi_stream.documents.source import DocumentSource
from cdi_stream.errors import ConfigError, EndpointError, PluginError, WireError
from cdi_stream_plugins.sources import carrier, stomp_connection
from cdi_stream_plugins.sources.stomp import StompSource, parse, read_event
from tests.system.broker import (
    BLUEAPI_PYTHON,
    PASSWORD,
    USER,
    Broker,
    Publisher,
    blueapi,
    require_rabbitmq,
    run_scan,
)
from tests.system.senders import free_ports
from tests.system.test_sources import (  # noqa: F401 - tests of all sources, run here on `way`
    Way,
    settle,
    test_a_thousand_events_at_once_all_come,
    test_the_documents_of_a_scan_come_in_order_and_whole,
    test_values_of_any_kind_come_as_plain_values,
)

GARBAGE = (
    b"no document",
    b"[1, 2]",
    b"\xff\xfe\xfd",
    b"[" * 100_000,
    b'{"name": "start", "doc": 3, "task_id": "t"}',
    b'{"name": "st art", "doc": {}, "task_id": "t"}',
    b'{"doc": {}, "task_id": "t"}',
)
"""Bodies that are no event of blueapi."""

OTHER_EVENTS = (
    {"state": "RUNNING", "task_status": None, "errors": [], "warnings": []},
    {"task_id": "t", "statuses": {"a": {"display_name": "theta", "percentage": 0.5}}},
)
"""A ``WorkerEvent`` and a ``ProgressEvent`` of blueapi."""


# --- without a broker ------------------------------------------------------------------------------------------


def test_an_event_with_a_document_is_read():
    body = b'{"name": "start", "doc": {"uid": "u", "time": 0.5}, "task_id": "t"}'
    assert read_event(body) == ("start", {"uid": "u", "time": 0.5})


@pytest.mark.parametrize("event", OTHER_EVENTS)
def test_events_without_a_document_are_left_out(event):
    assert read_event(json.dumps(event).encode()) is None


@pytest.mark.parametrize("body", [*GARBAGE, b""])
def test_garbage_is_an_error_of_the_wire(body):
    with pytest.raises(WireError, match="STOMP topic"):
        read_event(body)


def test_an_address_names_host_and_port():
    assert parse("stomp://broker:1234") == ("broker", 1234)
    assert parse("stomp://[::1]:1234") == ("::1", 1234)
    assert parse("stomp://broker") == ("broker", 61613)


@pytest.mark.parametrize("address", ["tcp://broker:61613", "stomp://", "stomp://b:99999", "stomp://b:1/topic", "b:1"])
def test_other_addresses_are_refused(address):
    with pytest.raises(EndpointError, match="stomp://host:61613"):
        parse(address)


def test_an_account_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(EndpointError, match=r"documents\.options") as refused:
        parse("stomp://beamline:hush@broker:61613")
    assert "hush" not in str(refused.value)


def test_a_destination_without_a_slash_is_refused():
    with zmq.Context() as context, pytest.raises(ConfigError, match="destination"):
        StompSource(context, "stomp://127.0.0.1:1", destination="public.worker.event")


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.delitem(sys.modules, "cdi_stream_plugins.sources.stomp_connection")
    monkeypatch.setitem(sys.modules, "stomp.exception", None)
    with pytest.raises(PluginError, match=r"pip install 'cdi-stream\[stomp\]'"):
        importlib.import_module("cdi_stream_plugins.sources.stomp_connection")


def test_a_server_that_is_not_there_or_no_broker_is_logged_until_it_is_closed(caplog, monkeypatch):
    monkeypatch.setattr(carrier, "MAX_RETRY_S", 1.0)
    monkeypatch.setattr(stomp_connection, "CONNECT_TIMEOUT_S", 0.3)
    (port,) = free_ports(1)
    with opened(f"stomp://127.0.0.1:{port}") as source:
        wait_for(lambda: "Connection refused" in caplog.text)
        with socket.create_server(("127.0.0.1", port)) as server:
            server.settimeout(10.0)
            for n, wait_s in ((1, 1.0), (2, 0.0)):
                end, _ = server.accept()
                assert end.recv(1000).startswith(b"STOMP")
                time.sleep(wait_s)  # longer than the time for an answer
                end.close()
                wait_for(lambda n=n: caplog.text.count("is this its port for STOMP?") == n)
        start_s = time.monotonic()
        source.close()
        assert time.monotonic() - start_s < 3.0


class Failing(carrier.CarrierSource):
    """A source that loses its connection at once, after it was open or before."""

    def __init__(self, context: zmq.Context, *, is_open: bool) -> None:
        super().__init__(context, "nowhere")
        self._is_open = is_open
        self.start()

    def receive(self, hand_on, is_stopped):
        if self._is_open:
            self.connected()
        raise OSError("lost")

    def interrupt(self):
        pass


@pytest.mark.parametrize(("is_open", "waits_ms"), [(False, [10, 20, 40, 40]), (True, [10, 10, 10, 10])])
def test_waiting_times_double_until_a_connection_was_open(is_open, waits_ms, monkeypatch, caplog):
    monkeypatch.setattr(carrier, "RETRY_S", 0.01)
    monkeypatch.setattr(carrier, "MAX_RETRY_S", 0.04)
    with zmq.Context() as context, contextlib.closing(Failing(context, is_open=is_open)):
        wait_for(lambda: len(caplog.records) >= 4)
    assert [round(1000 * record.args[-1]) for record in caplog.records[:4]] == waits_ms


# --- through a broker ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[Broker]:
    require_rabbitmq()
    broker = Broker(tmp_path_factory.mktemp("broker"))
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@contextlib.contextmanager
def opened(address: str, **options: str) -> Iterator[DocumentSource]:
    with zmq.Context() as context, contextlib.closing(StompSource(context, address, **options)) as source:
        yield source


@contextlib.contextmanager
def opened_way(broker: Broker) -> Iterator[Way]:
    with opened(broker.address, user=USER, password=PASSWORD) as source, contextlib.closing(Publisher(broker)) as send:
        made = Way(send, source, [])
        settle(made)
        yield made


@pytest.fixture
def way(broker) -> Iterator[Way]:
    with opened_way(broker) as made:
        yield made


def publish(way: Way, body: bytes) -> None:
    assert isinstance(way.send, Publisher)
    way.send.publish(body)


def wait_for(is_so: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_other_events_on_the_topic_are_left_out(way):
    for event in OTHER_EVENTS:
        publish(way, json.dumps(event).encode())
    way.send("start", {"uid": "u"})
    assert way.take(1) == [("start", {"uid": "u"})]
    assert way.errors == []


def test_garbage_is_reported_and_the_next_document_comes(way):
    for body in GARBAGE:
        publish(way, body)
    way.send("start", {"uid": "u"})
    assert way.take(1) == [("start", {"uid": "u"})]
    assert len(way.errors) == len(GARBAGE)
    assert "no document" in str(way.errors[0])


def test_values_that_msgpack_cannot_hold_come_as_text(way):
    publish(way, b'{"name": "start", "doc": {"big": 123456789012345678901234567890, "half": "\\ud800"}}')
    assert way.take(1) == [("start", {"big": "123456789012345678901234567890", "half": "\\ud800"})]


def test_a_message_that_is_too_large_is_reported_and_documents_after_it_come(way, monkeypatch):
    monkeypatch.setattr(stomp_connection, "MAX_MESSAGE_BYTES", 200_000)
    way.send("start", {"uid": "small", "text": "x" * 150_000})
    assert way.take(1)[0][1]["uid"] == "small"
    way.send("start", {"uid": "large", "text": "x" * 250_000})
    settle(way)
    way.send("start", {"uid": "u"})
    assert way.take(1) == [("start", {"uid": "u"})]
    assert ["200000 bytes" in str(error) for error in way.errors] == [True]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_documents_come_again_after_a_restart_of_the_broker(broker, number, monkeypatch, caplog):
    monkeypatch.setattr(carrier, "MAX_RETRY_S", 1.0)
    with opened_way(broker) as before:
        before.send("start", {"uid": "before"})
        assert before.take(1) == [("start", {"uid": "before"})]
        broker.stop(number)
        wait_for(lambda: "connecting again" in caplog.text)
        broker.start()
        with contextlib.closing(Publisher(broker)) as send:
            after = Way(send, before.source, before.errors)
            settle(after)
            for k in range(100):
                send("event", {"uid": f"e{k}", "seq_num": k + 1})
            assert [doc["seq_num"] for _, doc in after.take(100)] == list(range(1, 101))
    assert before.errors == []


def test_a_broker_that_falls_silent_is_noticed_by_its_heartbeats(broker, monkeypatch, caplog):
    monkeypatch.setattr(carrier, "MAX_RETRY_S", 1.0)
    monkeypatch.setattr(stomp_connection, "CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(stomp_connection, "HEARTBEAT_S", 1.0)
    with opened_way(broker) as way:
        time.sleep(4.0)
        assert "connecting again" not in caplog.text
        broker.send_signal(signal.SIGSTOP)
        try:
            wait_for(lambda: "connecting again" in caplog.text)
        finally:
            broker.send_signal(signal.SIGCONT)
        settle(way)


@pytest.mark.parametrize("account", [{"user": USER, "password": "hush-hush"}, {"user": "nobody"}])
def test_a_wrong_account_gives_a_clear_message_and_no_password(broker, account, caplog):
    caplog.set_level(logging.DEBUG)
    with opened(broker.address, **account):
        wait_for(lambda: "connecting again" in caplog.text)
    assert "the broker refused" in caplog.text
    assert f"Access refused for user '{account['user']}'" in caplog.text
    assert "documents.options.user and .password" in caplog.text
    assert "hush-hush" not in caplog.text


def test_a_wrong_destination_gives_a_clear_message(broker, caplog):
    with opened(broker.address, user=USER, password=PASSWORD, destination="/nowhere/at.all"):
        wait_for(lambda: "connecting again" in caplog.text)
    assert "documents.options.destination" in caplog.text


# --- from blueapi ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_scan_of_blueapi_comes_in_order_and_whole(broker, tmp_path: Path):
    python = os.environ.get(BLUEAPI_PYTHON)
    if not python:
        pytest.skip(f"{BLUEAPI_PYTHON} does not name a Python that has blueapi")
    with opened_way(broker) as way, blueapi(python, broker, tmp_path) as rest:
        run_scan(rest, 21)
        came: list[tuple[str, dict[str, Any]]] = way.take(24, 60.0)
    assert [name for name, _ in came] == ["start", "descriptor", *21 * ["event"], "stop"]
    docs = [doc for _, doc in came]
    assert docs[0]["plan_name"] == "scan"
    assert docs[1]["run_start"] == docs[-1]["run_start"] == docs[0]["uid"]
    assert [doc["seq_num"] for doc in docs[2:-1]] == list(range(1, 22))
    assert docs[2]["data"]["theta"] == pytest.approx(-1.0)
    assert docs[-2]["data"]["theta"] == pytest.approx(1.0)
    assert docs[-1]["exit_status"] == "success"
    assert way.errors == []
