"""``array-1.0`` against messages built here with foreign codecs, bitshuffle and lz4."""

from __future__ import annotations

import json
import struct
from typing import Any

import bitshuffle
import lz4.block
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdi_stream.errors import WireError
from cdi_stream.messages import DetectorFrame
from cdi_stream_plugins.decoders.array1 import Array1Decoder
from sim_beamline import wire1

pytestmark = pytest.mark.usefixtures("backend")

REPEATABLE = settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
PIXELS = np.arange(40, dtype=np.uint16).reshape(5, 8) * 700
ROI = (1, 4, 2, 7)
CUT = (slice(1, 4), slice(2, 7))
HUGE = 10**400
DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")


def short(value: Any) -> str:
    return f"{value!r:.30}"


def decode(parts: list[bytes], **options: Any) -> DetectorFrame:
    (frame,) = Array1Decoder(**options).decode(parts)
    return frame


def packed(pixels: np.ndarray, codec: str, order: str = "<") -> bytes:
    content = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    if codec == "lz4":
        return lz4.block.compress(content, store_size=False)
    if codec == "bslz4":
        item = pixels.dtype.itemsize
        elements = np.frombuffer(content, f"u{item}")
        return struct.pack(">QI", len(content), 8192) + bitshuffle.compress_lz4(elements, 8192 // item).tobytes()
    return content


def image(pixels: np.ndarray = PIXELS, codec: Any = "", blob: bytes | None = None, **entries: Any) -> list[bytes]:
    """Both parts of an image; ``entries`` replace those of the header."""
    header = {"htype": "array-1.0", "type": pixels.dtype.name, "shape": list(pixels.shape), "frame": 3}
    return [
        json.dumps(header | {"encoding": codec, "ndattr": {}} | entries).encode(),
        packed(pixels, str(codec)) if blob is None else blob,
    ]


# --- images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 8), (1, 3), (131, 71)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("codec", ["", "raw", "none", "lz4", "bslz4"])
def test_an_image_arrives_as_it_was_sent(codec, dtype, shape):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    frame = decode(image(pixels, codec))
    assert (frame.series, frame.image_id, frame.exposure_s) == (None, 3, None)
    assert frame.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(frame.pixels, pixels)


@pytest.mark.parametrize("codec", ["raw", "lz4", "bslz4"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_an_image_of_the_simulated_beamline_arrives(dtype, codec):
    frame = decode(wire1.array_parts(frame=9, pixels=PIXELS.astype(dtype), codec=codec))
    assert frame.image_id == 9
    np.testing.assert_array_equal(frame.pixels, PIXELS.astype(dtype))


@pytest.mark.parametrize("endianness", ["little", "big"])
@pytest.mark.parametrize("codec", ["", "lz4", "bslz4"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_types_come_in_either_order_of_bytes(dtype, codec, endianness):
    pixels = (PIXELS.astype(np.int64) % 100 - 50).astype(dtype)
    blob = packed(pixels, codec, ">" if endianness == "big" else "<")
    frame = decode(image(pixels, codec, blob, endianness=endianness))
    assert frame.pixels.dtype.newbyteorder("=") == pixels.dtype
    np.testing.assert_array_equal(frame.pixels, pixels)


@pytest.mark.parametrize("entry", [{}, {"endianness": None}, {"endianness": "little"}, {"endianness": ["big"]}])
def test_bytes_are_little_endian_unless_told_otherwise(entry):
    np.testing.assert_array_equal(decode(image(**entry)).pixels, PIXELS)


def test_the_encoding_may_be_absent_or_null():
    np.testing.assert_array_equal(decode(image(encoding=None)).pixels, PIXELS)
    header = {"htype": "array-1.0", "type": "uint16", "shape": [5, 8], "frame": 3}
    np.testing.assert_array_equal(decode([json.dumps(header).encode(), PIXELS.tobytes()]).pixels, PIXELS)


@pytest.mark.parametrize("header", [b"", bytes(12), struct.pack(">QI", 0, 8192)])
def test_a_bitshuffled_image_may_lack_its_header_or_have_it_zero(header):
    frame = decode(image(codec="bslz4", blob=header + packed(PIXELS, "bslz4")[12:]))
    np.testing.assert_array_equal(frame.pixels, PIXELS)


def test_the_shape_of_old_senders_is_columns_by_rows():
    """ADZMQ before 1.4.0 is known by its type in a list, beside attributes; both together."""
    frame = decode(image(htype=["array-1.0"], shape=[8, 5]))
    np.testing.assert_array_equal(frame.pixels, PIXELS)
    np.testing.assert_array_equal(decode(image(htype=["array-1.0"], shape=[8, 5, 1])).pixels, PIXELS)
    np.testing.assert_array_equal(decode(image(htype="array-1.0", shape=[5, 8])).pixels, PIXELS)


def test_a_type_in_a_list_alone_does_not_turn_the_shape():
    header = {"htype": ["array-1.0"], "type": "uint16", "shape": [5, 8], "frame": 3}
    np.testing.assert_array_equal(decode([json.dumps(header).encode(), PIXELS.tobytes()]).pixels, PIXELS)


def test_further_axes_of_one_element_are_borne():
    np.testing.assert_array_equal(decode(image(shape=[1, 1, 5, 8])).pixels, PIXELS)
    with pytest.raises(WireError, match="two-dimensional"):
        decode(image(shape=[2, 5, 4]))


def test_further_parts_are_not_read():
    np.testing.assert_array_equal(decode([*image(), b"{", b""]).pixels, PIXELS)


def test_a_raw_image_is_a_view_of_its_message():
    parts = image()
    assert np.shares_memory(decode(parts).pixels, np.frombuffer(parts[1], np.uint8))


def test_parts_may_be_views():
    np.testing.assert_array_equal(decode([memoryview(part) for part in image(codec="lz4")]).pixels, PIXELS)


@pytest.mark.parametrize("codec", ["", "lz4", "bslz4"])
def test_the_region_of_interest_is_cut_from_the_image(codec):
    np.testing.assert_array_equal(decode(image(codec=codec), roi=ROI).pixels, PIXELS[CUT])


@pytest.mark.parametrize("roi", [(0, 6, 0, 8), (0, 5, 0, 9), (5, 7, 0, 1)])
def test_a_region_of_interest_beyond_the_image_is_refused(roi):
    with pytest.raises(WireError, match="does not fit"):
        decode(image(), roi=roi)


def test_an_image_above_the_limit_is_refused_before_it_is_unpacked():
    huge = image(codec="bslz4", blob=struct.pack(">QI", 2**41, 8192) + bytes(8), shape=[2**20, 2**20])
    with pytest.raises(WireError, match="exceeds the limit of 40000000"):
        decode(huge)
    assert decode(image(codec="bslz4"), max_pixels=40).pixels.size == 40
    with pytest.raises(WireError, match="5 x 8 pixels exceeds the limit of 39"):
        decode(image(codec="bslz4"), max_pixels=39)


# --- malformed messages raise WireError and nothing else ----------------------------------------------------

NESTED = b"[" * 100_000
MALFORMED_HEADERS = {
    "nothing": b"",
    "a brace": b"{",
    "no JSON": b"\x00\x01\x02\x03",
    "no UTF-8": b'{"htype": "\xff"}',
    "an array": b"[]",
    "a text": b'"array-1.0"',
    "null": b"null",
    "empty": b"{}",
    "another type": image(htype="array-2.0")[0],
    "a type of DECTRIS": image(htype="dimage-1.0")[0],
    "two types": image(htype=["array-1.0", "array-1.0"])[0],
    "a type in two lists": image(htype=[["array-1.0"]])[0],
    "a type that is no text": image(htype=1)[0],
    "a type that is an object": image(htype={"array-1.0": 1})[0],
    "digits without end": b'{"htype": ' + b"9" * 5000 + b"}",
    "nested": b'{"htype": ' + NESTED,
    "nested objects": b'{"a":' * 100_000,
    "nested to the brim": b'{"htype": ' + b"[" * 900 + b"]" * 900 + b"}",
    "cut short": image()[0][:-1],
    "more behind": image()[0] + b"x",
    "too long": image(ndattr={"x": "x" * 1_000_000})[0],
}


@pytest.mark.parametrize("part", MALFORMED_HEADERS.values(), ids=MALFORMED_HEADERS)
def test_what_is_no_message_is_refused(part):
    for parts in ([part], [part, PIXELS.tobytes()]):
        with pytest.raises(WireError):
            decode(parts)


@pytest.mark.parametrize("n_parts", [0, 1])
def test_a_message_that_lacks_parts_is_refused(n_parts):
    with pytest.raises(WireError, match=f"{n_parts} parts"):
        decode(image()[:n_parts])


@pytest.mark.parametrize("frame", [None, True, -1, 1.0, "1", [], {}, HUGE, 2**63, float("nan")], ids=short)
def test_an_image_needs_a_count_from_zero(frame):
    with pytest.raises(WireError, match="expected frame"):
        decode(image(frame=frame))


NO_SHAPES = [None, True, 40, "5x8", {}, [], [40], [0, 8], [5, 0], [-5, -8], [5, -8], [5.0, 8.0], ["5", "8"]]
NO_SHAPES += [[True, 40], [None, None], [[5], [8]], [float("nan"), 8], [0, 5, 8], [HUGE, 1], [HUGE, HUGE], [6, 8]]
NO_SHAPES += [[2**32, 2**32], [2**62, 4], [5, 7], [1] * 5000]


@pytest.mark.parametrize("shape", NO_SHAPES, ids=short)
@pytest.mark.parametrize("codec", ["", "lz4", "bslz4"])
@pytest.mark.parametrize("htype", ["array-1.0", ["array-1.0"]])
def test_a_shape_that_does_not_fit_is_refused(htype, codec, shape):
    with pytest.raises(WireError):
        decode(image(codec=codec, htype=htype, shape=shape))


@pytest.mark.parametrize("kind", [None, True, 2, [], {}, "", "uint24", "U1", "O", "u1,u1", "<u2", "uint32", "uint8"])
def test_a_type_that_does_not_fit_is_refused(kind):
    with pytest.raises(WireError):
        decode(image(type=kind))


@pytest.mark.parametrize("codec", [True, 1, 1.5, [1], ["lz4"], {"a": 1}, "gzip", "jpeg", "blosc", "LZ4", "lz4<"])
def test_an_encoding_that_is_not_known_is_refused(codec):
    with pytest.raises(WireError, match="expected an encoding"):
        decode(image(codec=codec, blob=PIXELS.tobytes()))


@pytest.mark.parametrize("codec", ["", "lz4", "bslz4"])
@pytest.mark.parametrize("wrong", [b"", b"\0", b"\0" * 11, b"\0" * 12, b"\0" * 79, b"\0" * 81, b"\xff" * 100])
def test_a_blob_of_something_else_is_refused(wrong, codec):
    with pytest.raises(WireError):
        decode(image(codec=codec, blob=wrong))


@pytest.mark.parametrize("codec", ["", "lz4", "bslz4"])
@given(at=st.floats(0, 1, exclude_max=True))
@REPEATABLE
def test_a_blob_cut_short_is_refused(codec, at):
    blob = packed(PIXELS, codec)
    with pytest.raises(WireError):
        decode(image(codec=codec, blob=blob[: int(at * len(blob))]))


@pytest.mark.parametrize("announced", [1, 79, 81, 160, 2**32, 2**63, 2**64 - 1])
def test_an_announced_size_that_does_not_fit_is_refused(announced):
    with pytest.raises(WireError):
        decode(image(codec="bslz4", blob=struct.pack(">QI", announced, 8192) + packed(PIXELS, "bslz4")[12:]))


@pytest.mark.parametrize("codec", ["lz4", "bslz4"])
def test_a_blob_of_more_pixels_than_told_is_refused(codec):
    with pytest.raises(WireError):
        decode(image(codec=codec, blob=packed(np.tile(PIXELS, (3, 1)), codec)))
