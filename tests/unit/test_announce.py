"""The announcer never waits for its subscribers."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np
import pytest
import zmq

from cdi_stream.errors import EndpointError
from cdi_stream.operators import feed
from cdi_stream.operators.announce import MAX_WAITING, Announcer
from tests.endpoints import free_endpoint

PATIENCE_MS = 20_000
LARGE = np.arange(256 * 256, dtype=np.uint8).reshape(256, 256)


def message(k, **images):
    return {"kind": "state", "k": k}, images


@pytest.fixture
def announcer():
    with contextlib.closing(Announcer(free_endpoint(), lambda: 123.5)) as announcer:
        yield announcer


@pytest.fixture
def onlooker(announcer):
    """Return a subscriber that is connected to the announcer."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.subscribe(b"")
        socket.connect(announcer._socket.get_string(zmq.LAST_ENDPOINT))
        for _ in range(PATIENCE_MS // 20):
            announcer.tell(message(-1))
            announcer.send()
            if socket.poll(20):
                break
        while socket.poll(50):
            socket.recv_multipart()
        yield socket


def heard(onlooker, n):
    received = []
    while len(received) < n and onlooker.poll(PATIENCE_MS):
        received.append(feed.unpack(onlooker.recv_multipart()))
    return received


def test_messages_come_stamped_and_numbered_in_their_order(announcer, onlooker):
    for k in range(5):
        announcer.tell(message(k, frame=LARGE[:k, : 2 * k]))
    announcer.send()
    found = heard(onlooker, 5)
    assert [header["k"] for header, _ in found] == list(range(5))
    numbers = [header["seq"] for header, _ in found]
    assert numbers == list(range(numbers[0], numbers[0] + 5))
    assert {header["time_s"] for header, _ in found} == {123.5}
    assert len({header["service"] for header, _ in found}) == 1
    for k, (_, images) in enumerate(found):
        np.testing.assert_array_equal(images["frame"], LARGE[:k, : 2 * k])


def test_a_new_service_has_a_new_name():
    names = set()
    for _ in range(3):
        with contextlib.closing(Announcer(None)) as announcer:
            names.add(announcer._service)
    assert len(names) == 3


def test_of_too_many_messages_the_oldest_go(announcer, onlooker):
    for k in range(MAX_WAITING + 7):
        announcer.tell(message(k))
    announcer.send()
    found = [header["k"] for header, _ in heard(onlooker, MAX_WAITING // 2)]
    assert found == list(range(7, 7 + MAX_WAITING // 2))


def test_what_was_told_is_not_changed_by_the_stamp(announcer):
    header, images = message(1)
    announcer.tell((header, images))
    announcer.send()
    assert header == {"kind": "state", "k": 1}


@pytest.mark.parametrize("value", [float("nan"), {1, 2}])
def test_a_message_that_is_no_json_is_left_out_and_ends_nothing(announcer, onlooker, caplog, value):
    for k in (1, value, 3):
        announcer.tell(message(k))
    announcer.send()
    assert [header["k"] for header, _ in heard(onlooker, 2)] == [1, 3]
    assert "a state message for the operators cannot be written as JSON" in caplog.text


def test_nobody_listens_and_nobody_waits(announcer):
    begin_s = time.monotonic()
    for k in range(500):
        announcer.tell(message(k, frame=LARGE))
        announcer.send()
    assert time.monotonic() - begin_s < 5


def test_a_listener_that_does_not_read_holds_nobody_up(announcer, onlooker):
    begin_s = time.monotonic()
    for k in range(1000):
        announcer.tell(message(k, frame=LARGE))
        announcer.send()
    assert time.monotonic() - begin_s < 10
    first, _ = feed.unpack(onlooker.recv_multipart())
    assert first["k"] == 0


def test_lost_messages_are_seen_by_their_numbers(announcer, onlooker):
    for k in range(1000):
        announcer.tell(message(k, frame=LARGE))
        announcer.send()
    found = []
    while onlooker.poll(300):
        found.append(feed.unpack(onlooker.recv_multipart())[0])
    steps = {header["seq"] - header["k"] for header in found}
    assert len(steps) == 1
    assert len(found) < 1000


def test_any_thread_may_tell(announcer, onlooker):
    threads = [threading.Thread(target=announcer.tell, args=(message(k),)) for k in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    announcer.send()
    assert sorted(header["k"] for header, _ in heard(onlooker, 20)) == list(range(20))


def test_without_an_endpoint_nothing_is_told():
    with contextlib.closing(Announcer(None)) as announcer:
        assert not announcer.is_on
        announcer.tell(message(1))
        assert not announcer._waiting
        announcer.send()


def test_with_an_endpoint_it_is_on(announcer):
    assert announcer.is_on


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://127.0.0.1", ""])
def test_an_endpoint_that_is_none_is_refused(endpoint):
    with pytest.raises(EndpointError, match=r"feed\.endpoint .* cannot be opened: .*expected tcp://host:port"):
        Announcer(endpoint)


def test_an_endpoint_that_is_taken_is_refused(announcer):
    endpoint = announcer._socket.get_string(zmq.LAST_ENDPOINT)
    with pytest.raises(EndpointError, match="cannot be opened"):
        Announcer(endpoint)
