"""One detector socket on loopback: messages received, messages dropped, and addresses that cannot be opened."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
import zmq

from cdi_stream.errors import EndpointError, WireError
from cdi_stream.messages import DetectorFrame, SeriesEnd, WireMessage
from cdi_stream.stream.receive import Receiver, SocketKind, open_socket
from cdi_stream_plugins.decoders.dectris2 import Dectris2Decoder
from sim_beamline import wire

PATIENCE_MS = 20_000
PIXELS = np.arange(40, dtype=np.uint16).reshape(5, 8)
IMAGE = wire.image_message(series=7, image_id=3, pixels=PIXELS, count_time_s=0.25, codec="raw")
END = wire.end_message(series=7)


class Loopback:
    """Both ends of a connection, which are closed at the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._context = self._stack.enter_context(zmq.Context())

    def bound_detector(self, kind: int = zmq.PUSH, sndhwm: int = 1000) -> tuple[zmq.Socket[bytes], str]:
        detector = self._stack.enter_context(self._context.socket(kind))
        detector.linger = 0
        detector.sndhwm = sndhwm
        return detector, f"tcp://127.0.0.1:{detector.bind_to_random_port('tcp://127.0.0.1')}"

    def connected_detector(self, endpoint: str) -> zmq.Socket[bytes]:
        detector = self._stack.enter_context(self._context.socket(zmq.PUSH))
        detector.linger = 0
        detector.connect(endpoint)
        return detector

    def receiver(self, endpoint: str, kind: SocketKind = "pull", *, bind: bool = False) -> Receiver:
        socket = open_socket(self._context, endpoint, kind, bind=bind, max_message_bytes=1000)
        receiver = Receiver(socket, Dectris2Decoder())
        self._stack.callback(receiver.close)
        return receiver

    def bound_receiver(self) -> tuple[Receiver, str]:
        receiver = self.receiver("tcp://127.0.0.1:*", bind=True)
        return receiver, receiver.socket.get_string(zmq.LAST_ENDPOINT)

    def close(self) -> None:
        """Close the context; blocks if a socket is still open."""
        self._stack.close()


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    loopback = Loopback()
    yield loopback
    loopback.close()


def next_message(receiver: Receiver) -> WireMessage | None:
    assert receiver.socket.poll(PATIENCE_MS), "nothing arrived"
    return next(receiver.messages(at_most=1), None)


def test_messages_arrive_in_their_order(loopback):
    detector, endpoint = loopback.bound_detector()
    receiver = loopback.receiver(endpoint)
    for message in (IMAGE, END):
        detector.send(message)
    frame = next_message(receiver)
    assert isinstance(frame, DetectorFrame)
    assert frame.image_id == 3
    np.testing.assert_array_equal(frame.pixels, PIXELS)
    assert next_message(receiver) == SeriesEnd(series=7)
    assert (receiver.n_messages, receiver.n_malformed) == (2, 0)


def test_nothing_is_waited_for(loopback):
    receiver, _ = loopback.bound_receiver()
    assert list(receiver.messages()) == []
    assert (receiver.n_messages, receiver.n_malformed) == (0, 0)


def test_malformed_messages_are_counted_logged_and_dropped(loopback, caplog):
    detector, endpoint = loopback.bound_detector()
    receiver = loopback.receiver(endpoint)
    detector.send(b"not cbor")
    detector.send_multipart([b'{"htype": "dheader-1.0"}', b"{}"])
    detector.send(END)
    with caplog.at_level(logging.WARNING, logger="cdi_stream"):
        assert next_message(receiver) is None
        assert next_message(receiver) is None
        assert next_message(receiver) == SeriesEnd(series=7)
    assert (receiver.n_messages, receiver.n_malformed) == (3, 2)
    assert all(message.startswith("message dropped (") for message in caplog.messages)
    assert "format cbor" in caplog.messages[1]


def test_a_message_refused_later_counts_as_malformed(loopback, caplog):
    receiver, _ = loopback.bound_receiver()
    with caplog.at_level(logging.WARNING, logger="cdi_stream"):
        receiver.refuse(WireError("frame 3 is beyond the limits"))
    assert (receiver.n_messages, receiver.n_malformed) == (0, 1)
    assert caplog.messages == ["message dropped (1 of this kind so far): frame 3 is beyond the limits"]


def test_the_receiver_may_be_the_side_that_binds(loopback):
    receiver, endpoint = loopback.bound_receiver()
    loopback.connected_detector(endpoint).send(END)
    assert next_message(receiver) == SeriesEnd(series=7)


def test_a_publishing_detector_is_subscribed_to_whole(loopback):
    detector, endpoint = loopback.bound_detector(zmq.XPUB)
    receiver = loopback.receiver(endpoint, "sub")
    assert detector.poll(PATIENCE_MS)
    assert detector.recv() == b"\x01", "expected a subscription to everything"
    detector.send(END)
    assert next_message(receiver) == SeriesEnd(series=7)


def test_a_message_above_the_limit_never_arrives_and_the_connection_is_made_anew(loopback, caplog):
    detector, endpoint = loopback.bound_detector()
    receiver = loopback.receiver(endpoint)
    detector.send(b"\0" * 1001)
    with caplog.at_level(logging.WARNING, logger="cdi_stream"):
        for now_s in range(PATIENCE_MS // 100):
            receiver.reconnect_if_cut(float(now_s))
            if not receiver.socket.poll(100) and caplog.messages:
                detector.send(END, zmq.NOBLOCK)
            if received := list(receiver.messages()):
                break
    assert received[0] == SeriesEnd(series=7)
    assert "above the limit" in caplog.messages[0]


def test_few_messages_wait_in_a_queue(loopback):
    detector, endpoint = loopback.bound_detector(sndhwm=1)
    socket = open_socket(loopback._context, endpoint, "pull", bind=False, max_message_bytes=10**7)
    receiver = Receiver(socket, Dectris2Decoder(), max_queue_bytes=3 * 10**6)
    loopback._stack.callback(receiver.close)
    detector.send(b"\0" * 10**6)
    assert receiver.socket.poll(PATIENCE_MS)
    assert list(receiver.messages()) == []
    n_taken = 0
    while n_taken < 200 and detector.poll(500, zmq.POLLOUT):
        detector.send(b"\0" * 10**6)
        n_taken += 1
    assert n_taken < 50  # some of ours, one of the sender's, and what the system's own buffers hold


@pytest.mark.parametrize("bind", [True, False])
@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://", "tcp://127.0.0.1", "http://127.0.0.1:80", ""])
def test_an_endpoint_that_is_none_is_refused(loopback, endpoint, bind):
    with pytest.raises(EndpointError, match=r"cannot be opened: .*expected tcp://host:port"):
        loopback.receiver(endpoint, bind=bind)


def test_an_endpoint_that_is_taken_is_refused(loopback):
    _, endpoint = loopback.bound_receiver()
    with pytest.raises(EndpointError, match=f"detector endpoint '{endpoint}' cannot be opened"):
        loopback.receiver(endpoint, bind=True)
