"""The fault menu of the simulated beamline: what each stage does to the messages and documents of a scan."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import zmq

from cdi_stream.errors import WireError
from cdi_stream.messages import DetectorFrame, RecordedScan, SeriesStart
from cdi_stream_plugins.decoders import array1, dectris1, dectris2
from sim_beamline.detector import StreamingDetector
from sim_beamline.faults.menu import MENU, Faults

N = 32
FRAMES = np.random.default_rng(1).poisson(200.0, (N, 24, 40)).astype(np.uint32)
SCAN = RecordedScan(
    name="scan", frames=FRAMES, beamline=None, scanned={"theta": np.arange(N, dtype=float)}, baseline={}, units={}
)
DECODERS = {"array1": array1.Array1Decoder, "dectris1": dectris1.Dectris1Decoder, "dectris2": dectris2.Dectris2Decoder}


def sent(name, wire_format="dectris2", seed=0):
    """Decoded messages of a series with one fault, and the number of messages that cannot be decoded."""
    decoder = DECODERS[wire_format](roi=None, channel=None, max_pixels=10_000)
    with zmq.Context() as context, context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
        pull.connect(f"tcp://127.0.0.1:{push.bind_to_random_port('tcp://127.0.0.1')}")
        detector = StreamingDetector(SCAN, push, "bslz4", wire_format, first_series=7)
        detector.handle({"command": "arm", "n_images": N, "faults": [name], "fault_seed": seed})
        for point in range(N):
            detector.handle({"command": "trigger", "point": point})
        detector.handle({"command": "disarm"})
        detector.handle({"command": "over"})
        messages, n_bad = [], 0
        while pull.poll(200):
            try:
                messages += decoder.decode(pull.recv_multipart())
            except WireError:
                n_bad += 1
    return messages, n_bad


def ids_of(messages):
    return [message.image_id for message in messages if isinstance(message, DetectorFrame)]


@pytest.mark.parametrize("wire_format", DECODERS)
def test_faults_act_in_every_wire_format(wire_format):
    hit = Faults(names=("drop",), seed=3, n_points=N).points("drop")
    messages, n_bad = sent("drop", wire_format, seed=3)
    assert ids_of(messages) == [k for k in range(N) if k not in hit]
    assert n_bad == 0
    assert sorted(ids_of(sent("reorder", wire_format)[0])) == list(range(N))
    messages, n_bad = sent("truncate", wire_format)
    assert (len(ids_of(messages)), n_bad) == (N - 3, 3)


ON_TIMES = {"stall", "stall_long", "burst", "documents_before", "clock_skew", "clock_jump"}
"""Faults that change only when messages come, or times that no decoder reads."""


@pytest.mark.parametrize("name", [name for name, fault in MENU.items() if fault.frames and name not in ON_TIMES])
def test_every_fault_of_the_stream_changes_what_comes(name):
    clean, _ = sent("tiled_restart")
    messages, n_bad = sent(name)
    assert n_bad > 0 or described(messages) != described(clean)


@pytest.mark.parametrize("name", ["stall", "burst", "documents_before", "clock_skew"])
def test_a_fault_of_times_changes_no_message(name):
    assert described(sent(name)[0]) == described(sent("tiled_restart")[0])


def described(messages):
    return [
        (message.image_id, message.pixels.tobytes()) if isinstance(message, DetectorFrame) else type(message).__name__
        for message in messages
    ]


def test_an_interleaved_series_has_a_start_and_an_end_of_its_own():
    messages, _ = sent("interleave")
    assert [message.series for message in messages if isinstance(message, SeriesStart)] == [7, 500_007]
    foreign = [m for m in messages if isinstance(m, DetectorFrame) and m.series == 500_007]
    assert [frame.image_id for frame in foreign] == list(range(N // 2, N))
    np.testing.assert_array_equal(foreign[0].pixels, FRAMES[N // 2][::-1])


def events(n):
    yield "start", {"uid": "run", "time": 100.0}
    yield "descriptor", {"uid": "primary", "name": "primary", "run_start": "run", "time": 100.0}
    for k in range(n):
        yield (
            "event",
            {"descriptor": "primary", "seq_num": k + 1, "time": 101.0 + k, "timestamps": {"theta": 101.0 + k}},
        )
    yield "stop", {"run_start": "run", "time": 200.0}


def heard(name):
    stage = Faults(names=(name,), n_points=N).on_documents()
    return [out for named in events(N) for out in stage(named)]


def test_faults_of_the_documents():
    lost = Faults(names=("events_lost",), n_points=N).points("events_lost")
    left = [doc["seq_num"] - 1 for kind, doc in heard("events_lost") if kind == "event"]
    assert left == [k for k in range(N) if k not in lost]
    assert heard("documents_lost") == []
    assert heard("documents_after") == list(events(N))
    assert [kind for kind, _ in heard("start_lost")] == ["event"] * N + ["stop"]
    assert [kind for kind, _ in heard("stop_lost")] == ["start", "descriptor"] + ["event"] * N
    assert [doc["time"] for _, doc in heard("clock_skew")] == [doc["time"] + 900 for _, doc in events(N)]
    off = [doc["time"] - before["time"] for (_, doc), (_, before) in zip(heard("clock_jump"), events(N), strict=True)]
    assert off == [0.0] * (2 + N // 2) + [-120.0] * (N // 2 + 1)


def test_the_help_of_the_plan_tells_every_fault():
    command = [sys.executable, "-m", "sim_beamline", "plan", "--help"]
    text = " ".join(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert not [fault.name for fault in MENU.values() if fault.sentence not in text]
