"""The tee between a detector, its file writer and subscribers, on real sockets: no frame lost, no receiver blocked."""

from __future__ import annotations

import contextlib
import logging
import threading
import time

import pytest
import zmq

from cdi_stream.errors import EndpointError
from cdi_stream.stream import tee as tee_module
from cdi_stream.stream.tee import tee
from tests.endpoints import free_endpoint

PATIENCE_MS = 20_000
SENT = [[b"header", b"", b"\x00" * 3000], *([b"image %d" % k, bytes(range(k % 256))] for k in range(200)), [b""]]


class Rig:
    """A detector, a running tee, and the sockets behind it."""

    def __init__(self, stack) -> None:
        self.stop = threading.Event()
        self.push, self.publish = free_endpoint(), free_endpoint()
        self._stack = stack
        self._context = stack.enter_context(zmq.Context())
        self.detector = self._socket(zmq.PUSH)
        self.detector.sndtimeo, self.detector.sndhwm = PATIENCE_MS, 1
        self.source = f"tcp://127.0.0.1:{self.detector.bind_to_random_port('tcp://127.0.0.1')}"
        self._counts = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        stack.callback(self.end)

    def _run(self):
        self._counts.append(
            tee(self.source, self.push, self.publish, max_message_bytes=10**8, is_stopped=self.stop.is_set)
        )

    def _socket(self, kind):
        socket = self._stack.enter_context(self._context.socket(kind))
        socket.linger = 0
        return socket

    def writer(self, hwm=1000):
        socket = self._socket(zmq.PULL)
        socket.rcvhwm = hwm
        socket.connect(self.push)
        return socket

    def onlooker(self):
        """Return a subscriber that is connected: it has received a first message."""
        socket = self._socket(zmq.SUB)
        socket.subscribe(b"")
        socket.connect(self.publish)
        return socket

    def send(self, messages):
        for parts in messages:
            self.detector.send_multipart(parts)

    def end(self):
        self.stop.set()
        self._thread.join(PATIENCE_MS / 1000)
        assert not self._thread.is_alive(), "the tee does not stop"
        return self._counts[0]


@pytest.fixture
def rig(monkeypatch):
    monkeypatch.setattr(tee_module, "QUEUE_MESSAGES", 40)
    monkeypatch.setattr(tee_module, "_COMPLAIN_S", 0.1)
    with contextlib.ExitStack() as stack:
        yield Rig(stack)


def take(socket, n):
    received = []
    while len(received) < n and socket.poll(PATIENCE_MS):
        received.append(socket.recv_multipart())
    return received


def met(rig, onlooker, writer):
    """Send until the subscriber receives: a publisher loses earlier messages."""
    for k in range(PATIENCE_MS // 50):
        rig.send([[b"greeting %d" % k]])
        assert take(writer, 1) == [[b"greeting %d" % k]]
        if onlooker.poll(50):
            break
    while onlooker.poll(50):
        onlooker.recv_multipart()


def test_the_writer_gets_every_message_as_it_was_and_in_order(rig):
    writer = rig.writer()
    rig.send(SENT)
    assert take(writer, len(SENT)) == SENT
    assert rig.end() == {"messages": len(SENT), "written": len(SENT)}


def test_a_writer_that_comes_late_misses_nothing(rig):
    rig.send(SENT)
    time.sleep(0.3)
    assert take(rig.writer(), len(SENT)) == SENT


def test_a_writer_that_is_slow_misses_nothing(rig):
    large = [[b"%d" % k, bytes([k]) * 1_000_000] for k in range(60)]
    writer = rig.writer(hwm=1)
    sender = threading.Thread(target=rig.send, args=(large,))
    sender.start()
    received = []
    while len(received) < len(large) and writer.poll(PATIENCE_MS):
        time.sleep(0.005)
        received.append(writer.recv_multipart())
    sender.join()
    assert received == large


def test_an_onlooker_gets_them_too(rig):
    writer, onlooker = rig.writer(), rig.onlooker()
    met(rig, onlooker, writer)
    for parts in SENT:
        rig.send([parts])
        assert take(onlooker, 1) == [parts]
    assert take(writer, len(SENT)) == SENT


def test_an_onlooker_that_reads_each_message_at_once_loses_none(rig):
    """The queue of 40 counts messages that were read in steps of 20, so that 15 more fit if that is noted at once."""
    writer, onlooker = rig.writer(), rig.onlooker()
    met(rig, onlooker, writer)
    burst = [[b"%d" % k] for k in range(15)]
    for _ in range(300):
        rig.send(burst)
        assert take(onlooker, len(burst)) == take(writer, len(burst)) == burst


def test_messages_that_grow_stop_nobody(rig):
    """A 0MQ queue stops for ever if its limit is lowered while it is open."""
    writer, onlooker = rig.writer(), rig.onlooker()
    met(rig, onlooker, writer)
    for parts in [*SENT, [b"\0" * 5_000_000], *SENT]:
        rig.send([parts])
        assert take(onlooker, 1) == take(writer, 1) == [parts]


def test_an_onlooker_that_does_not_read_holds_nobody_up(rig):
    writer, onlooker = rig.writer(), rig.onlooker()
    met(rig, onlooker, writer)
    large = [[b"%d" % k, bytes([k]) * 1_000_000] for k in range(60)]
    sender = threading.Thread(target=rig.send, args=(large,))
    sender.start()
    assert take(writer, len(large)) == large
    sender.join()


def test_while_the_writer_takes_none_none_is_taken_from_the_detector(rig):
    """The detector then reports it, instead of a file that lacks frames."""
    rig.detector.sndtimeo = 300
    n_taken = 0
    with contextlib.suppress(zmq.Again):
        while n_taken < 500:
            rig.detector.send(b"\0" * 1_000_000)
            n_taken += 1
    assert n_taken < 100  # one in hand, a few in queues, and what the system's own buffers hold


def test_a_message_in_hand_when_told_to_stop_is_named(rig, caplog):
    with caplog.at_level(logging.WARNING, logger="cdi_stream"):
        rig.send([[b"one"]])
        for _ in range(PATIENCE_MS // 20):
            if caplog.messages:
                break
            time.sleep(0.02)
        assert rig.end() == {"messages": 1, "written": 0}
    assert "the detector has to wait" in caplog.messages[0]
    assert "is lost" in caplog.messages[-1]


def test_it_stops_when_told_to_even_if_nothing_ever_came(rig):
    begin_s = time.monotonic()
    assert rig.end() == {"messages": 0, "written": 0}
    assert time.monotonic() - begin_s < 5


def test_what_the_writer_has_not_fetched_yet_is_its_own_after_the_end(rig):
    writer = rig.writer()
    rig.send(SENT)
    assert take(writer, 1) == SENT[:1]
    while rig.detector.poll(0, zmq.POLLOUT) and not writer.poll(100):
        pass
    time.sleep(0.3)
    assert rig.end()["written"] == len(SENT)
    assert take(writer, len(SENT) - 1) == SENT[1:]


@pytest.mark.parametrize("wrong", ["source", "push", "publish"])
@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://127.0.0.1", ""])
def test_an_endpoint_that_is_none_is_refused(wrong, endpoint):
    endpoints = {name: free_endpoint() for name in ("source", "push", "publish")} | {wrong: endpoint}
    with pytest.raises(EndpointError, match=r"cannot be opened: .*expected tcp://host:port"):
        tee(**endpoints, max_message_bytes=1000, is_stopped=lambda: True)


def test_an_endpoint_that_is_taken_is_refused():
    endpoint = free_endpoint()
    with pytest.raises(EndpointError, match=f"endpoint '{endpoint}' cannot be opened"):
        tee(free_endpoint(), endpoint, endpoint, max_message_bytes=1000, is_stopped=lambda: True)
