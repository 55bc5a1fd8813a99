"""Playback of a message log: at its pace, over real sockets, and without a receiver."""

from __future__ import annotations

import threading

import pytest
import zmq

from cdi_stream.errors import EndpointError, RecordingError, ServiceError
from cdi_stream.stream import playback
from cdi_stream.stream.message_log import MessageLog
from cdi_stream.stream.playback import keep_pace, play_log
from tests.endpoints import free_endpoint

PATIENCE_MS = 20_000
SENT = [[b"header", b"", b"\x00" * 5000], *([b"image", bytes([k])] for k in range(40)), [b"end"]]


class Time:
    """Clock that advances only when `sleep` is called."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.slept = []

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def messages(*times_s):
    return [(1_700_000_000 * 10**9 + round(time_s * 1e9), [b"%d" % k]) for k, time_s in enumerate(times_s)]


@pytest.fixture
def log(tmp_path):
    log = MessageLog(tmp_path / "raw.log")
    for k, parts in enumerate(SENT):
        log.write(parts, k * 10**6)
    log.close()
    return tmp_path / "raw.log"


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context


def sink_socket(context, kind, endpoint=None):
    socket = context.socket(kind)
    socket.linger = 0
    if kind == zmq.SUB:
        socket.subscribe(b"")
    if endpoint is not None:
        socket.connect(endpoint)
        return socket, endpoint
    return socket, f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


def played(log, endpoint, socket, n, **how):
    """Play a log in a thread; return its result and the first ``n`` messages received."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(play_log(log, endpoint, **how)))
    thread.start()
    received = []
    while len(received) < n and socket.poll(PATIENCE_MS):
        received.append(socket.recv_multipart())
    thread.join(PATIENCE_MS / 1000)
    assert not socket.poll(50), "more came than was played"
    return answers[0], received


@pytest.mark.parametrize(("speed", "pace"), [(1.0, 1.0), (2.0, 0.5), (0.25, 4.0)])
def test_messages_go_out_at_the_recorded_pace(speed, pace):
    time = Time()
    sent = keep_pace(messages(0, 0.5, 0.5, 2.0), speed, time.clock, time.sleep)
    out = [(parts, time.now_s - 50.0) for parts in sent]
    assert [parts for parts, _ in out] == [[b"0"], [b"1"], [b"2"], [b"3"]]
    assert [when for _, when in out] == pytest.approx([0, 0.5 * pace, 0.5 * pace, 2 * pace])


def test_time_lost_in_sending_is_made_up_for():
    time, out = Time(), []
    for _ in keep_pace(messages(0, 1, 2, 3), 1.0, time.clock, time.sleep):
        out.append(time.now_s - 50.0)
        time.now_s += 1.5 if len(out) == 1 else 0.1
    assert out == pytest.approx([0, 1.5, 2.0, 3.0])
    assert min(time.slept) == 0


def test_without_a_speed_nothing_is_waited_for():
    time = Time()
    assert len(list(keep_pace(messages(0, 100, 200), None, time.clock, time.sleep))) == 3
    assert time.slept == []


def test_a_clock_that_was_set_back_while_recording_does_not_stop_the_playback():
    time = Time()
    assert len(list(keep_pace(messages(5, 1, 6), 1.0, time.clock, time.sleep))) == 3
    assert time.now_s == pytest.approx(51.0)


@pytest.mark.parametrize("bind", [True, False])
def test_a_puller_gets_every_message_as_it_was(log, context, bind):
    socket, endpoint = sink_socket(context, zmq.PULL, free_endpoint() if bind else None)
    answer, received = played(log, endpoint, socket, len(SENT), kind="push", bind=bind, speed=None)
    assert received == SENT
    assert answer == {"messages": len(SENT)}
    socket.close()


@pytest.mark.parametrize("bind", [True, False])
def test_a_subscriber_gets_every_message_as_it_was(log, context, bind):
    socket, endpoint = sink_socket(context, zmq.SUB, free_endpoint() if bind else None)
    answer, received = played(log, endpoint, socket, len(SENT), kind="pub", bind=bind, speed=100.0)
    assert received == SENT
    assert answer == {"messages": len(SENT)}
    socket.close()


@pytest.mark.parametrize("bind", [True, False])
def test_a_puller_that_nobody_runs_is_an_error(log, monkeypatch, bind):
    monkeypatch.setattr(playback, "SEND_TIMEOUT_MS", 200)
    with pytest.raises(ServiceError, match="expected a receiver at tcp://127"):
        play_log(log, free_endpoint(), kind="push", bind=bind, speed=None)


def test_a_publisher_needs_no_listener(log):
    assert play_log(log, free_endpoint(), kind="pub", bind=True, speed=None) == {"messages": len(SENT)}


@pytest.mark.parametrize("kind", ["push", "pub"])
@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://", "tcp://127.0.0.1", "http://127.0.0.1:80", ""])
def test_an_endpoint_that_is_none_is_refused(log, kind, endpoint):
    with pytest.raises(EndpointError, match=r"cannot be opened: .*expected tcp://host:port"):
        play_log(log, endpoint, kind=kind, bind=False, speed=None)


def test_an_endpoint_that_is_taken_is_refused(log, context):
    socket, endpoint = sink_socket(context, zmq.PULL)
    with pytest.raises(EndpointError, match=f"endpoint '{endpoint}' cannot be opened"):
        play_log(log, endpoint, kind="push", bind=True, speed=None)
    socket.close()


def test_a_file_that_is_no_log_is_refused(tmp_path):
    (tmp_path / "raw.log").write_bytes(b"no log")
    with pytest.raises(RecordingError):
        play_log(tmp_path / "raw.log", free_endpoint(), kind="push", bind=True, speed=None)
