"""The simulated detector: what it sends of a recorded scan, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest
import zmq

from cdi_stream.messages import DetectorFrame, RecordedScan, SeriesEnd, SeriesStart
from cdi_stream_plugins.decoders import array1, dectris1, dectris2
from sim_beamline.detector import StreamingDetector

FRAMES = np.arange(6 * 4 * 5, dtype=np.uint16).reshape(6, 4, 5)
DECODERS = {"array1": array1.Array1Decoder, "dectris1": dectris1.Dectris1Decoder, "dectris2": dectris2.Dectris2Decoder}


def sent(scan, wire_format, n_curves=1):
    """Messages of a scan that was played over a real socket."""
    decoder = DECODERS[wire_format](roi=None, channel=None, max_pixels=100)
    with zmq.Context() as context, context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
        pull.connect(f"tcp://127.0.0.1:{push.bind_to_random_port('tcp://127.0.0.1')}")
        detector = StreamingDetector(scan, push, "raw", wire_format)
        names = []
        for _ in range(n_curves):
            detector.handle({"command": "arm", "n_images": len(scan.frames)})
            names += [detector.handle({"command": "trigger", "point": k}) for k in range(len(scan.frames))]
            detector.handle({"command": "disarm"})
        messages = []
        while pull.poll(300):
            messages += decoder.decode(pull.recv_multipart())
    return messages, names


@pytest.mark.parametrize("wire_format", DECODERS)
def test_missing_frames_are_counted_and_not_sent(wire_format):
    scan = RecordedScan(
        name="scan",
        frames=FRAMES,
        beamline=None,
        scanned={"theta": np.arange(6.0)},
        baseline={},
        units={},
        missing=(2, 3),
    )
    messages, names = sent(scan, wire_format, n_curves=2)
    frames = [message for message in messages if isinstance(message, DetectorFrame)]
    ids = [0, 1, 4, 5]
    again = [6 + k for k in ids] if wire_format == "array1" else ids  # knows no series: it counts on
    assert [frame.image_id for frame in frames] == ids + again
    for frame, point in zip(frames, ids + ids, strict=True):
        np.testing.assert_array_equal(frame.pixels, FRAMES[point])
    assert len(names) == 12
    key = "unique_id" if wire_format == "array1" else "image_id"
    assert [name[key] for name in names[:6]] == list(range(6))
    assert sum(isinstance(message, SeriesEnd) for message in messages) == (0 if wire_format == "array1" else 2)


@pytest.mark.parametrize("wire_format", ["dectris1", "dectris2"])
def test_distance_and_energy_of_the_header_are_sent(wire_format):
    header = {"distance_m": 0.5668, "photon_energy_ev": 9999.998, "beam_row": 185.6, "pixel_row_m": 55e-6}
    scan = RecordedScan(
        name="scan",
        frames=FRAMES,
        beamline=None,
        scanned={"theta": np.arange(6.0)},
        baseline={},
        units={},
        detector=header,
    )
    start = next(message for message in sent(scan, wire_format)[0] if isinstance(message, SeriesStart))
    assert {key: getattr(start, key) for key in header} == header
