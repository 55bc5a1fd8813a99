"""Log of the frames of a series: each whole record is read again, also if the end of the file is damaged."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from cdi_stream.errors import WireError
from cdi_stream.messages import DetectorFrame
from cdi_stream.stream.frame_log import FrameLog
from cdi_stream_plugins.decoders.array1 import Array1Decoder
from cdi_stream_plugins.decoders.dectris2 import Dectris2Decoder
from sim_beamline import wire

PIXELS = np.arange(20, dtype=np.uint16).reshape(4, 5)


def plain(image_id):
    return DetectorFrame(series="s", image_id=image_id, pixels=(PIXELS + image_id).T, exposure_s=0.5)


def nothing(parts):
    raise WireError("no message")


def read(path, decode=nothing):
    return list(FrameLog(path).frames(decode))


def written(path, n=3):
    log = FrameLog(path)
    for image_id in range(n):
        log.append(plain(image_id), 1e9 + image_id)
    log.close()
    return path.stat().st_size


def test_frames_come_back_with_pixels_exposure_and_time(tmp_path):
    written(tmp_path / "log")
    frames = read(tmp_path / "log")
    assert [(frame.series, frame.image_id, frame.exposure_s, received_s) for frame, received_s in frames] == [
        ("s", k, 0.5, 1e9 + k) for k in range(3)
    ]
    for frame, _ in frames:
        np.testing.assert_array_equal(frame.pixels, (PIXELS + frame.image_id).T)


def array1_parts():
    header = {"htype": "array-1.0", "frame": 8, "type": "uint16", "shape": [4, 5]}
    return [json.dumps(header).encode(), PIXELS.tobytes()]


@pytest.mark.parametrize(
    ("decoder", "parts"),
    [
        (Dectris2Decoder(), [wire.image_message(series=1, image_id=8, pixels=PIXELS, count_time_s=0.1, codec="bslz4")]),
        (Array1Decoder(), array1_parts()),
    ],
)
def test_frames_are_kept_as_they_came_over_the_wire(tmp_path, decoder, parts):
    log = FrameLog(tmp_path / "log")
    (frame,) = decoder.decode([memoryview(part) for part in parts])
    log.append(frame, 5.0)
    log.close()
    ((again, received_s),) = read(tmp_path / "log", decoder.decode)
    assert (again.image_id, again.exposure_s, received_s) == (8, frame.exposure_s, 5.0)
    np.testing.assert_array_equal(again.pixels, PIXELS)
    assert parts[-1] in (tmp_path / "log").read_bytes()


@pytest.mark.parametrize("n_before", [1, 40])
def test_a_torn_record_is_cut_off_and_the_log_goes_on(tmp_path, n_before):
    size = written(tmp_path / "log")
    os.truncate(tmp_path / "log", size - n_before)
    log = FrameLog(tmp_path / "log")
    assert [frame.image_id for frame, _ in log.frames(nothing)] == [0, 1]
    log.append(plain(7), 1.0)
    log.close()
    assert [frame.image_id for frame, _ in read(tmp_path / "log")] == [0, 1, 7]


@pytest.mark.parametrize("content", [b"\xc1\xc1\xc1", b"\x93\x01", b"\x93\x01\x02\x03", os.urandom(300)])
def test_a_file_of_something_else_gives_no_frames(tmp_path, content):
    (tmp_path / "log").write_bytes(content)
    assert read(tmp_path / "log") == []


def test_a_message_that_cannot_be_decoded_any_more_is_left_out(tmp_path, caplog):
    log = FrameLog(tmp_path / "log")
    log.append(DetectorFrame(series=1, image_id=0, pixels=PIXELS, wire=(b"abc",)), 1.0)
    log.append(plain(1), 2.0)
    log.close()
    assert [frame.image_id for frame, _ in read(tmp_path / "log")] == [1]
    assert "cannot be decoded" in caplog.text


def test_a_full_disk_leaves_the_records_before(tmp_path, monkeypatch):
    written(tmp_path / "log")
    log = FrameLog(tmp_path / "log")
    monkeypatch.setattr(os, "writev", lambda handle, pieces: os.write(handle, b"\x93half"))
    with pytest.raises(OSError, match="No space left"):
        log.append(plain(3), 1.0)
    log.close()
    assert [frame.image_id for frame, _ in read(tmp_path / "log")] == [0, 1, 2]
