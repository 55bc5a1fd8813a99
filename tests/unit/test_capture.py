"""Capture of a detector's stream into a file, through real sockets, in every format."""

from __future__ import annotations

import contextlib
import errno
import logging
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import zmq

from cdi_stream.assemble import capture as capture_module
from cdi_stream.assemble.capture import CaptureSettings, capture
from cdi_stream.config import BusConfig, DetectorConfig
from cdi_stream.disk.growing import GrowingFile
from cdi_stream.documents.bus import writer
from cdi_stream.errors import ConfigError, EndpointError
from cdi_stream.files.recording import read_scan
from cdi_stream.stream import receive as receive_module
from cdi_stream.stream.message_log import MessageLog, read_log
from sim_beamline import wire, wire1
from tests.endpoints import free_endpoint

PATIENCE_S = 300.0
N = 5
STACK = np.random.default_rng(0).poisson(3, (N, 5, 8)).astype(np.uint16)
HEADER = {"pixel_row_m": 55e-6, "pixel_col_m": 75e-6, "count_time_s": 0.25}


def dectris2(series=1, codec="bslz4"):
    about = {"n_images": N, "shape": (5, 8), "header": HEADER, "mask": None, "user_data": "run", "dtype": "uint16"}
    yield [wire.start_message(series=series, **about)]
    for k, pixels in enumerate(STACK):
        yield [wire.image_message(series=series, image_id=k, pixels=pixels, count_time_s=0.25, codec=codec)]
    yield [wire.end_message(series=series)]


def dectris1(series=1, codec="bslz4"):
    about = {"n_images": N, "shape": (5, 8), "header": HEADER, "mask": None, "user_data": "run"}
    yield wire1.start_parts(series=series, **about)
    for k, pixels in enumerate(STACK):
        yield wire1.image_parts(series=series, image_id=k, pixels=pixels, count_time_s=0.25, codec=codec)
    yield wire1.end_parts(series=series)


def array1(first=0, codec="bslz4"):
    for k, pixels in enumerate(STACK):
        yield wire1.array_parts(frame=first + k, pixels=pixels, codec=codec)


FORMATS = {"dectris2": dectris2, "dectris1": dectris1, "array1": array1}


class Rig:
    """A detector, and a capture that runs in a thread."""

    def __init__(self, folder, stack) -> None:
        self.out, self.raw = folder / "out.h5", folder / "raw.log"
        self.stop = threading.Event()
        self.reports = []
        self._stack = stack
        self._context = stack.enter_context(zmq.Context())
        self._thread = None
        self._answers = []

    def socket(self, kind, endpoint=None):
        """Return a socket that is bound to a free port, or connected."""
        socket = self._stack.enter_context(self._context.socket(kind))
        socket.linger = 0
        socket.sndtimeo = socket.rcvtimeo = int(1000 * PATIENCE_S)
        if endpoint is not None:
            socket.connect(endpoint)
            return socket, endpoint
        return socket, f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"

    def begin(self, endpoint, *, format="dectris2", socket="pull", bind=False, detector=None, tell=print, **how):
        config = DetectorConfig(endpoint=endpoint, format=format, socket=socket, bind=bind, **(detector or {}))
        settings = CaptureSettings(detector=config, out=self.out, raw=self.raw, **how)

        def run():
            self._answers.append(capture(settings, self.stop.is_set, self.reports.append, tell))

        self._thread = threading.Thread(target=run)
        self._thread.start()
        self._stack.callback(self.end)

    def is_running(self):
        return self._thread.is_alive()

    def wait_for(self, n_frames):
        """Wait until so many frames are written."""
        until_s = time.monotonic() + PATIENCE_S
        while not (self.reports and self.reports[-1] >= n_frames):
            assert time.monotonic() < until_s, "the frames do not come"
            time.sleep(0.01)

    def counts(self):
        """Return the counts of a capture that ends by itself."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the capture does not end"
        return self._answers[0]

    def end(self):
        self.stop.set()
        return self.counts()


@pytest.fixture
def rig(tmp_path, monkeypatch):
    monkeypatch.setattr(capture_module, "LINGER_S", 0.2)
    with contextlib.ExitStack() as stack:
        yield Rig(tmp_path, stack)


def send(socket, messages):
    for parts in messages:
        socket.send_multipart(parts)


def send_while_it_listens(socket, messages):
    """Send messages to a recording that ends in between, and then takes no more."""
    socket.sndtimeo = 1000
    with contextlib.suppress(zmq.Again):
        send(socket, messages)


def assert_recorded(path, number=None):
    np.testing.assert_array_equal(read_scan(path, number).frames, STACK, strict=True)


def counts(**other):
    all_there = {"expected": N, "received": N, "missing": 0, "duplicate": 0, "late": 0, "bad": 0, "series": 1}
    return all_there | other


@pytest.mark.parametrize("codec", ["raw", "lz4", "bslz4"])
@pytest.mark.parametrize("name", ["dectris2", "dectris1"])
def test_a_series_is_recorded_and_ends_the_capture(rig, name, codec):
    detector, endpoint = rig.socket(zmq.PUSH)
    messages = list(FORMATS[name](codec=codec))
    rig.begin(endpoint, format=name)
    send(detector, messages)
    assert rig.counts() == counts(messages=N + 2)
    assert_recorded(rig.out)
    assert read_scan(rig.out).detector == HEADER
    assert [parts for _, parts in read_log(rig.raw)] == messages
    assert rig.reports[-1] == N


@pytest.mark.parametrize("codec", ["raw", "lz4", "bslz4"])
def test_frames_of_no_series_are_recorded_until_nothing_comes(rig, codec):
    detector, endpoint = rig.socket(zmq.PUSH)
    messages = list(array1(first=100, codec=codec))
    rig.begin(endpoint, format="array1", timeout_s=0.5)
    send(detector, messages)
    assert rig.counts() == counts(messages=N, series=0)
    assert_recorded(rig.out)
    assert [parts for _, parts in read_log(rig.raw)] == messages


def test_a_count_that_begins_anew_ends_a_series_of_no_name(rig):
    detector, endpoint = rig.socket(zmq.PUSH)
    rig.begin(endpoint, format="array1", n_series=1)
    send(detector, [*array1(), *array1()])
    assert rig.counts() == counts(expected=2 * N, received=2 * N, messages=2 * N)
    for number in range(2):
        assert_recorded(rig.out, number)


@pytest.mark.parametrize("name", FORMATS)
def test_the_capture_may_be_the_side_that_binds(rig, name):
    endpoint = free_endpoint()
    rig.begin(endpoint, format=name, bind=True)
    detector, _ = rig.socket(zmq.PUSH, endpoint)
    send(detector, FORMATS[name]())
    rig.wait_for(N)
    assert rig.end()["received"] == N
    assert_recorded(rig.out)


def test_a_bound_capture_goes_on_listening_when_a_sender_has_left(rig, monkeypatch):
    monkeypatch.setattr(receive_module, "RECONNECT_AFTER_S", 0.2)
    endpoint = free_endpoint()
    rig.begin(endpoint, bind=True, n_series=2)
    for series in (1, 2):
        detector, _ = rig.socket(zmq.PUSH, endpoint)
        send(detector, dectris2(series))
        rig.wait_for(series * N)
        detector.close()
        time.sleep(0.6 if series == 1 else 0)
    assert rig.counts() == counts(expected=2 * N, received=2 * N, series=2, messages=2 * (N + 2))


@pytest.mark.parametrize("name", FORMATS)
def test_a_publishing_detector_is_recorded(rig, name):
    detector, endpoint = rig.socket(zmq.XPUB)
    rig.begin(endpoint, format=name, socket="sub")
    assert detector.recv() == b"\x01"
    send(detector, FORMATS[name]())
    rig.wait_for(N)
    assert rig.end()["received"] == N
    assert_recorded(rig.out)


def test_two_series_are_waited_for(rig):
    detector, endpoint = rig.socket(zmq.PUSH)
    rig.begin(endpoint, n_series=2)
    send(detector, dectris2(1))
    rig.wait_for(N)
    time.sleep(0.5)
    assert rig.is_running()
    send(detector, dectris2(2))
    assert rig.counts() == counts(expected=2 * N, received=2 * N, series=2, messages=2 * (N + 2))
    for number in range(2):
        assert_recorded(rig.out, number)


def test_a_series_whose_end_is_lost_counts_when_the_next_begins(rig):
    detector, endpoint = rig.socket(zmq.PUSH)
    rig.begin(endpoint, n_series=2)
    send(detector, [*list(dectris2(1))[:-1], *dectris2(2)])
    assert rig.counts()["series"] == 2


def test_no_number_of_series_ends_a_capture_for_which_none_is_given(rig):
    detector, endpoint = rig.socket(zmq.PUSH)
    rig.begin(endpoint, n_series=0)
    send(detector, [*dectris2(1), *dectris2(2)])
    rig.wait_for(2 * N)
    time.sleep(0.5)
    assert rig.is_running()
    assert rig.end()["series"] == 2


def test_frames_overtaken_by_the_end_are_recorded_within_the_time_that_is_left(rig, monkeypatch):
    monkeypatch.setattr(capture_module, "LINGER_S", 1.0)
    detector, endpoint = rig.socket(zmq.PUSH)
    rig.begin(endpoint)
    *messages, last, end = dectris2()
    send(detector, [*messages, end])
    rig.wait_for(N - 1)
    send(detector, [last])
    assert rig.counts() == counts(late=1, messages=N + 2)
    assert_recorded(rig.out)


def test_frames_that_grow_towards_the_peak_do_not_stop_the_stream(rig):
    """A 0MQ queue stops for ever if its limit is lowered while it is open."""
    detector, endpoint = rig.socket(zmq.PUSH)
    rig.begin(endpoint, detector={"max_queue_bytes": 10**6})
    dark = np.zeros((256, 256), np.uint16)
    peak = np.random.default_rng(1).integers(0, 2**16, (256, 256), dtype=np.uint16)
    for k in range(100):
        pixels = peak if 60 <= k < 63 else dark
        detector.send(wire.image_message(series=1, image_id=k, pixels=pixels, count_time_s=0.1, codec="bslz4"))
        rig.wait_for(k + 1)
    detector.send(wire.end_message(series=1))
    assert rig.counts()["received"] == 100


def test_silence_ends_the_capture(rig):
    detector, endpoint = rig.socket(zmq.PUSH)
    rig.begin(endpoint, timeout_s=0.4)
    send(detector, list(dectris2())[:3])
    assert rig.counts() == counts(received=2, missing=N - 2, series=0, messages=3)
    np.testing.assert_array_equal(read_scan(rig.out).frames, STACK[:2])


def test_without_any_message_the_capture_ends_too(rig):
    rig.begin(free_endpoint(), timeout_s=0.3)
    assert rig.counts()["messages"] == 0


def test_what_was_recorded_until_told_to_stop_is_whole(rig):
    detector, endpoint = rig.socket(zmq.PUSH)
    rig.begin(endpoint)
    send(detector, list(dectris2())[:-2])
    rig.wait_for(N - 1)
    assert rig.end() == counts(received=N - 1, missing=1, series=0, messages=N)
    np.testing.assert_array_equal(read_scan(rig.out).frames, STACK[:-1])
    assert len(list(read_log(rig.raw))) == N


def test_malformed_messages_are_bad_but_in_the_raw_log(rig, caplog):
    detector, endpoint = rig.socket(zmq.PUSH)
    absurd = wire.image_message(series=1, image_id=2**40, pixels=STACK[0], count_time_s=0.25, codec="raw")
    start, *rest = dectris2()
    messages = [start, [b"not cbor"], [b"", b"\x00"], [absurd], *rest]
    with caplog.at_level(logging.WARNING, logger="cdi_stream"):
        rig.begin(endpoint)
        send(detector, messages)
        found = rig.counts()
    assert found["received"] == N
    assert found["messages"] == len(messages)
    assert found["bad"] >= 3
    assert [parts for _, parts in read_log(rig.raw)] == messages
    assert_recorded(rig.out)
    assert len(caplog.messages) == 3


def test_the_region_of_interest_is_recorded(rig):
    detector, endpoint = rig.socket(zmq.PUSH)
    rig.begin(endpoint, detector={"roi": (1, 4, 2, 7)})
    send(detector, dectris2())
    rig.counts()
    np.testing.assert_array_equal(read_scan(rig.out).frames, STACK[:, 1:4, 2:7])


@pytest.mark.parametrize("name", FORMATS)
def test_documents_of_the_bus_tell_the_motors(rig, name):
    detector, endpoint = rig.socket(zmq.PUSH)
    bus, address = rig.socket(zmq.XPUB)
    documents = BusConfig(subscribe=address, prefix="raw", serializer="json")
    rig.begin(endpoint, format=name, documents=documents, beamline="aps_34idc")
    assert bus.recv() == b"\x01"

    def tell(name, doc):
        bus.send(b"raw " + name.encode() + b" " + writer("json")(doc))

    tell("start", {"uid": "run", "time": time.time()})
    tell("descriptor", {"uid": "d", "run_start": "run", "name": "primary", "data_keys": {"theta": {"units": "deg"}}})
    bus.send(b"no document")
    tell("event", {"descriptor": "d"})
    for k in range(N):
        tell("event", {"descriptor": "d", "seq_num": k + 1, "data": {"theta": 0.1 * k}})
    time.sleep(0.3)
    send(detector, FORMATS[name]())
    rig.wait_for(N)
    tell("stop", {"run_start": "run", "num_events": {"primary": N}})
    assert rig.counts()["series"] == 1
    scan = read_scan(rig.out)
    np.testing.assert_allclose(scan.scanned["theta"], 0.1 * np.arange(N))
    assert scan.units == {"theta": "deg"}
    assert scan.beamline == "aps_34idc"


def test_what_is_awaited_is_told_while_nothing_comes(rig, monkeypatch):
    monkeypatch.setattr(capture_module, "REPORT_EVERY_S", 0.3)
    told, endpoint = [], free_endpoint()
    rig.begin(endpoint, timeout_s=1.0, tell=told.append)
    rig.counts()
    assert 2 <= len(told) <= 4
    assert f"no message from {endpoint} (PULL, connecting there) for 0 s; so far 0 messages" in told[0]
    assert "is the detector's stream on" in told[0]


def test_messages_of_another_format_are_told(rig, monkeypatch):
    monkeypatch.setattr(capture_module, "REPORT_EVERY_S", 0.3)
    told = []
    detector, endpoint = rig.socket(zmq.PUSH)
    rig.begin(endpoint, format="dectris1", timeout_s=0.7, tell=told.append)
    send(detector, list(dectris2())[:3])
    rig.counts()
    assert "so far 3 messages, 3 malformed, 0 frames written: is --format right?" in told[-1]


def test_a_disk_that_fills_up_ends_the_recording_and_what_was_written_stays(rig, monkeypatch):
    def full(self, n_bytes):
        if self.root["entry/data/data"].shape[0] and rig.reports and rig.reports[-1] == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(GrowingFile, "reserve", lambda *_: None)
    detector, endpoint = rig.socket(zmq.PUSH)
    rig.begin(endpoint)
    messages = list(dectris2())
    send(detector, messages[:3])
    rig.wait_for(2)
    monkeypatch.setattr(GrowingFile, "reserve", full)
    send_while_it_listens(detector, messages[3:])
    found = rig.counts()
    assert "No space left on device" in found["stopped"]
    assert (found["received"], found["missing"]) == (2, N - 2)
    np.testing.assert_array_equal(read_scan(rig.out).frames, STACK[:2])


def test_a_raw_log_that_fills_the_disk_ends_the_recording_too(rig, monkeypatch):
    def full(self, parts, receive_time_ns):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MessageLog, "write", full)
    detector, endpoint = rig.socket(zmq.PUSH)
    rig.begin(endpoint)
    send_while_it_listens(detector, dectris2())
    assert "No space left on device" in rig.counts()["stopped"]


def test_a_recording_that_is_killed_can_be_read(tmp_path):
    with zmq.Context() as context, context.socket(zmq.PUSH) as detector:
        detector.linger = 0
        endpoint = f"tcp://127.0.0.1:{detector.bind_to_random_port('tcp://127.0.0.1')}"
        command = [sys.executable, "-m", "cdi_stream", "record", endpoint, "--out", str(tmp_path / "out.h5")]
        recording = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        about = {"n_images": 100_000, "shape": (5, 8), "header": HEADER, "mask": None, "user_data": "run"}
        detector.send(wire.start_message(series=1, dtype="uint16", **about))
        begin_s = None
        for k in range(100_000):
            pixels = STACK[k % N]
            detector.send(wire.image_message(series=1, image_id=k, pixels=pixels, count_time_s=0.25, codec="raw"))
            begin_s = time.monotonic() if k == 100 else begin_s  # more than fits into the queues: it receives
            if begin_s is not None and time.monotonic() - begin_s > 2.5 * capture_module.FLUSH_S:
                break
            time.sleep(0.002)
        recording.kill()
        recording.wait()
    scan = read_scan(tmp_path / "out.h5")
    assert 50 < len(scan.frames) <= k
    np.testing.assert_array_equal(scan.frames, STACK[np.arange(len(scan.frames)) % N])
    assert scan.detector == HEADER


def settings(folder, **how):
    detector = {"endpoint": free_endpoint(), "bind": True, **how.pop("detector", {})}
    return CaptureSettings(detector=DetectorConfig(**detector), **({"out": folder / "out.h5"} | how))


@pytest.mark.parametrize("name", ["out", "raw"])
def test_a_file_that_cannot_be_written_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="the recording cannot be written"):
        capture(settings(tmp_path, **{name: tmp_path / "absent" / "x"}), lambda: True, print)


def test_an_endpoint_that_is_none_is_refused(tmp_path):
    with pytest.raises(EndpointError, match="cannot be opened"):
        capture(settings(tmp_path, detector={"endpoint": "ipc:///absent/socket"}), lambda: True, print)
