"""DECTRIS stream v1 against messages built here with foreign codecs, bitshuffle and lz4."""

from __future__ import annotations

import json
import struct
import time
from typing import Any

import bitshuffle
import lz4.block
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdi_stream.errors import WireError
from cdi_stream.messages import DetectorFrame, SeriesEnd, SeriesStart, WireMessage
from cdi_stream_plugins.decoders.dectris1 import Dectris1Decoder
from sim_beamline import wire1

pytestmark = pytest.mark.usefixtures("backend")

REPEATABLE = settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
SHAPE = (5, 8)
PIXELS = np.arange(40, dtype=np.uint16).reshape(SHAPE) * 700
MASK = (np.arange(40).reshape(SHAPE) % 3 > 0) & (np.arange(40).reshape(SHAPE) != 20)
ROI = (1, 4, 2, 7)
CUT = (slice(1, 4), slice(2, 7))
HUGE = 10**400


def short(value: Any) -> str:
    return f"{value!r:.30}"


def text(**entries: Any) -> bytes:
    return json.dumps(entries).encode()


def decode(parts: list[bytes], **options: Any) -> list[WireMessage]:
    return list(Dectris1Decoder(**options).decode(parts))


def decode_one(parts: list[bytes], **options: Any) -> WireMessage:
    (message,) = decode(parts, **options)
    return message


def plain(pixels: np.ndarray, order: str) -> bytes:
    return pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()


def shuffled(pixels: np.ndarray, order: str = "<", block_bytes: int = 8192, header: bytes | None = None) -> bytes:
    """Bitshuffled and compressed, behind HDF5's header or the one given."""
    item = pixels.dtype.itemsize
    elements = np.frombuffer(plain(pixels, order), f"u{item}")
    packed = bitshuffle.compress_lz4(elements, block_bytes // item).tobytes()
    return (struct.pack(">QI", pixels.nbytes, block_bytes) if header is None else header) + packed


def packed(pixels: np.ndarray, encoding: str) -> bytes:
    order = encoding[-1:] if encoding[-1:] in ("<", ">") else "<"
    if encoding.startswith("bs"):
        return shuffled(pixels, order)
    content = plain(pixels, order)
    return lz4.block.compress(content, store_size=False) if "lz4" in encoding else content


def image(pixels: np.ndarray = PIXELS, encoding: Any = "<", blob: bytes | None = None, **entries: Any) -> list[bytes]:
    """The three parts that an image needs; ``entries`` replace those of the second."""
    rows, cols = pixels.shape
    described = {"shape": [cols, rows], "type": pixels.dtype.name, "encoding": encoding}
    return [
        text(htype="dimage-1.0", series=7, frame=3),
        text(**{"htype": "dimage_d-1.0"} | described | entries),
        packed(pixels, str(encoding)) if blob is None else blob,
    ]


def header(detail: str = "basic", **entries: Any) -> bytes:
    return text(**{"htype": "dheader-1.0", "series": 7, "header_detail": detail} | entries)


def config(**entries: Any) -> bytes:
    return text(**{"trigger_mode": "ints"} | entries)


def table(kind: str, array: np.ndarray, **entries: Any) -> list[bytes]:
    described = {"htype": kind, "shape": list(array.shape[::-1]), "type": array.dtype.name}
    return [text(**described | entries), array.tobytes()]


FLATFIELD = table("dflatfield-1.0", np.linspace(0.5, 1.5, 40, dtype=np.float32).reshape(SHAPE))
BAD_PIXELS = table("dpixelmask-1.0", np.where(MASK, 0, 8).astype(np.uint32))
COUNTRATE = table("dcountrate_table-1.0", np.arange(2000, dtype=np.float32).reshape(1000, 2))


# --- images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 8), (1, 3), (131, 71)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("codec", ["", "raw", "<", ">", "lz4<", "lz4>", "lz4", "bs{}-lz4<", "bs{}-lz4>", "bs{}lz4"])
def test_an_image_arrives_as_it_was_sent(codec, dtype, shape):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    frame = decode_one(image(pixels, codec.format(8 * pixels.itemsize)))
    assert isinstance(frame, DetectorFrame)
    assert (frame.series, frame.image_id, frame.exposure_s) == (7, 3, None)
    assert frame.pixels.dtype.newbyteorder("=") == pixels.dtype
    np.testing.assert_array_equal(frame.pixels, pixels)


@pytest.mark.parametrize("codec", ["raw", "lz4", "bslz4"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_an_image_of_the_simulated_beamline_arrives(dtype, codec):
    pixels = PIXELS.astype(dtype)
    frame = decode_one(wire1.image_parts(series=9, image_id=4, pixels=pixels, count_time_s=0.25, codec=codec))
    assert (frame.series, frame.image_id, frame.exposure_s) == (9, 4, 0.25)
    np.testing.assert_array_equal(frame.pixels, pixels)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint64", "float32", "float64"])
def test_signed_long_and_floating_pixels_are_understood(dtype):
    pixels = (PIXELS.astype(np.int64) % 100 - 50).astype(dtype)
    np.testing.assert_array_equal(decode_one(image(pixels)).pixels, pixels)


@pytest.mark.parametrize("zeros", [b"", bytes(12)], ids=["absent", "zero"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("shape", [(5, 8), (131, 71)])
def test_the_header_of_a_bitshuffled_image_may_be_zero_or_absent(shape, dtype, zeros):
    pixels = np.random.default_rng(0).poisson(3, shape).astype(dtype)
    encoding = f"bs{8 * pixels.itemsize}-lz4<"
    frame = decode_one(image(pixels, encoding, shuffled(pixels, header=zeros)))
    np.testing.assert_array_equal(frame.pixels, pixels)


@pytest.mark.parametrize("block_bytes", [128, 1024, 65536])
@pytest.mark.parametrize("announced", [131 * 71 * 2, 0])
def test_a_header_may_announce_blocks_of_another_size(announced, block_bytes):
    pixels = np.random.default_rng(0).poisson(3, (131, 71)).astype(np.uint16)
    blob = shuffled(pixels, block_bytes=block_bytes, header=struct.pack(">QI", announced, block_bytes))
    np.testing.assert_array_equal(decode_one(image(pixels, "bs16-lz4<", blob)).pixels, pixels)


def test_the_type_counts_where_the_encoding_names_other_bits():
    pixels = PIXELS.astype(np.uint32)
    frame = decode_one(image(pixels, "bs16-lz4<", shuffled(pixels)))
    np.testing.assert_array_equal(frame.pixels, pixels)


def test_a_raw_image_is_a_view_of_its_message():
    parts = image()
    assert np.shares_memory(decode_one(parts).pixels, np.frombuffer(parts[2], np.uint8))


def test_parts_may_be_views():
    parts = [memoryview(part) for part in image(encoding="bs16-lz4<")]
    np.testing.assert_array_equal(decode_one(parts).pixels, PIXELS)


@pytest.mark.parametrize("encoding", ["<", "lz4<", "bs16-lz4<"])
def test_the_region_of_interest_is_cut_from_the_image(encoding):
    np.testing.assert_array_equal(decode_one(image(encoding=encoding), roi=ROI).pixels, PIXELS[CUT])


@pytest.mark.parametrize("roi", [(0, 6, 0, 8), (0, 5, 0, 9), (5, 7, 0, 1)])
def test_a_region_of_interest_beyond_the_image_is_refused(roi):
    with pytest.raises(WireError, match="does not fit"):
        decode(image(), roi=roi)


def test_sizes_and_hashes_are_not_believed():
    parts = image(size=-5)
    parts[0] = text(htype="dimage-1.0", series=7, frame=3, hash="-2950468630967695885")
    np.testing.assert_array_equal(decode_one(parts).pixels, PIXELS)


def test_an_encoding_that_is_not_told_is_none():
    parts = image()
    parts[1] = text(shape=[8, 5], type="uint16")
    np.testing.assert_array_equal(decode_one(parts).pixels, PIXELS)


def test_further_axes_of_one_element_are_borne():
    np.testing.assert_array_equal(decode_one(image(shape=[8, 5, 1, 1])).pixels, PIXELS)
    with pytest.raises(WireError, match="two-dimensional"):
        decode(image(shape=[4, 5, 2]))


def test_an_image_above_the_limit_is_refused_before_it_is_unpacked():
    huge = image(encoding="bs16-lz4<", blob=struct.pack(">QI", 2**41, 8192) + bytes(8), shape=[2**20, 2**20])
    with pytest.raises(WireError, match="exceeds the limit of 40000000"):
        decode(huge)
    assert decode_one(image(encoding="bs16-lz4<"), max_pixels=40).pixels.size == 40
    with pytest.raises(WireError, match="5 x 8 pixels exceeds the limit of 39"):
        decode(image(encoding="bs16-lz4<"), max_pixels=39)


@pytest.mark.parametrize("name", ["number", "text of one line", 2**64 - 1, -1])
def test_a_series_has_any_short_name(name):
    assert decode_one([text(htype="dseries_end-1.0", series=name)]) == SeriesEnd(series=name)


# --- what follows the pixels --------------------------------------------------------------------------------


def test_the_exposure_comes_from_the_parts_own_configuration():
    timed = text(htype="dconfig-1.0", start_time=0, stop_time=9, real_time=250_000_000)
    assert decode_one([*image(), timed]).exposure_s == 0.25
    assert decode_one([*image(), timed, b"appendix"]).exposure_s == 0.25


@pytest.mark.parametrize("real_time", [None, 0, -1, "1", HUGE, float("nan"), float("inf"), [], {}, True], ids=short)
def test_an_exposure_that_cannot_be_is_unknown(real_time):
    assert decode_one([*image(), text(htype="dconfig-1.0", real_time=real_time)]).exposure_s is None


@pytest.mark.parametrize("appendix", [b"", b"{", b"{}", b"\xff\xfe", b'{"run": "abc"}', b"[1]", b"{" * 5000])
def test_an_appendix_of_an_image_is_not_read(appendix):
    frame = decode_one([*image(), appendix])
    np.testing.assert_array_equal(frame.pixels, PIXELS)
    assert frame.exposure_s is None


# --- beginnings ---------------------------------------------------------------------------------------------

NUMBERS = {
    "photon_energy": 9000.0,
    "x_pixel_size": 75e-6,
    "y_pixel_size": 55e-6,
    "detector_distance": 0.85,
    "beam_center_x": 2.25,
    "beam_center_y": -3.5,
    "count_time": 0.1,
    "x_pixels_in_detector": 8,
    "y_pixels_in_detector": 5,
    "nimages": 61,
    "ntrigger": 2,
    "omega_start": 12.5,
    "omega_increment": 0.01,
    "chi_start": 90,
    "chi_increment": 0.0,
    "phi_start": 1.0,
}
BEGUN = SeriesStart(
    series=7,
    n_images=122,
    image_shape=(5, 8),
    photon_energy_ev=9000.0,
    pixel_row_m=55e-6,
    pixel_col_m=75e-6,
    distance_m=0.85,
    beam_row=-3.5,
    beam_col=2.25,
    count_time_s=0.1,
    goniometer={"omega": (12.5, 0.01), "chi": (90.0, 0.0)},
)


def test_numbers_are_read_from_the_configuration():
    assert decode_one([header(), config(**NUMBERS)]) == BEGUN


def test_numbers_may_come_as_values_with_attributes():
    values = {key: {"value": value, "unit": "?"} for key, value in NUMBERS.items()}
    assert decode_one([header(), config(**values)]) == BEGUN


def test_a_header_without_details_leaves_all_else_unknown():
    assert decode([header("none")]) == [SeriesStart(series=7)]
    assert decode([header("basic")], roi=ROI) == [SeriesStart(series=7, roi=ROI)]


@pytest.mark.parametrize("appendix", [b"my run", b'{"run_uid": "abc"}', b"{}", b'{"htype": "mine"}'])
def test_a_header_without_details_may_have_an_appendix(appendix):
    assert decode([header("none"), appendix]) == [SeriesStart(series=7, user_data=appendix.decode())]


def test_a_header_of_all_details_has_tables():
    begun = decode_one([header("all"), config(**NUMBERS), *FLATFIELD, *BAD_PIXELS, *COUNTRATE])
    np.testing.assert_array_equal(begun.pixel_mask, MASK)
    assert (begun.n_images, begun.user_data) == (122, None)


@pytest.mark.parametrize("tables", [[*BAD_PIXELS, *FLATFIELD], [*COUNTRATE, *BAD_PIXELS], BAD_PIXELS])
def test_tables_come_in_any_order_with_an_appendix_behind_them(tables):
    begun = decode_one([header("all"), config(), *tables, b"appendix"])
    np.testing.assert_array_equal(begun.pixel_mask, MASK)
    assert begun.user_data == "appendix"


def test_flat_field_and_count_rates_alone_make_no_mask():
    assert decode([header("all"), config(), *FLATFIELD, *COUNTRATE]) == [SeriesStart(series=7)]


def test_a_beginning_of_the_simulated_beamline_arrives():
    numbers = {"pixel_row_m": 55e-6, "pixel_col_m": 75e-6, "beam_row": -3.5, "beam_col": 2.25, "count_time_s": 0.1}
    known = {"series": 7, "n_images": 61, "shape": SHAPE, "header": numbers}
    begun = decode_one(wire1.start_parts(**known, mask=MASK, user_data={"run_uid": "abc"}), roi=ROI)
    assert (begun.n_images, begun.image_shape, begun.roi) == (61, (5, 8), ROI)
    assert (begun.pixel_row_m, begun.pixel_col_m) == (55e-6, 75e-6)
    assert json.loads(begun.user_data) == {"run_uid": "abc"}
    np.testing.assert_array_equal(begun.pixel_mask, MASK[CUT])


@pytest.mark.parametrize(
    "mask",
    [
        table("dpixelmask-1.0", np.zeros(40, np.uint32)),
        table("dpixelmask-1.0", np.zeros(SHAPE, np.uint32), type="uint64"),
        table("dpixelmask-1.0", np.zeros(SHAPE, np.uint32), shape=None),
        table("dpixelmask-1.0", np.zeros(SHAPE, np.uint32), shape=[8, 5, 5]),
        table("dpixelmask-1.0", np.zeros(SHAPE, np.uint32), encoding="gzip"),
        table("dpixelmask-1.0", np.zeros((2, 2), np.uint32)),
        [BAD_PIXELS[0], b""],
    ],
)
def test_a_mask_that_is_no_image_is_left_out(mask):
    assert decode([header("all"), config(), *mask], roi=ROI) == [SeriesStart(series=7, roi=ROI)]


@pytest.mark.parametrize("encoding", ["lz4<", "bs32-lz4<"])
def test_a_mask_may_be_compressed(encoding):
    flags = np.where(MASK, 0, 2).astype(np.uint32)
    mask = [text(htype="dpixelmask-1.0", shape=[8, 5], type="uint32", encoding=encoding), packed(flags, encoding)]
    np.testing.assert_array_equal(decode_one([header("all"), config(), *mask]).pixel_mask, MASK)


@pytest.mark.parametrize(
    "appendix", [b"", b"a run", b'{"run_uid": "abc"}', b"{}", b"{", b"\xff\xfe\x00", "\u00e9\u5343".encode()]
)
def test_the_appendix_is_the_users_data(appendix):
    begun = decode_one([header(), config(), appendix])
    assert begun == SeriesStart(series=7, user_data=appendix.decode(errors="replace"))


def test_an_appendix_is_read_as_far_as_the_limit():
    assert len(decode_one([header(), config(), b"x" * 3_000_000]).user_data) == 1_000_000


@pytest.mark.parametrize(
    ("entries", "n_images"),
    [
        ({"nimages": 3}, 3),
        ({"nimages": 3, "ntrigger": 4}, 12),
        ({"nimages": 1, "ntrigger": 4}, 4),
        ({"nimages": 0, "ntrigger": 4}, 4),
        ({"ntrigger": 4}, 4),
        ({"nimages": 3, "ntrigger": 0}, 3),
        ({"nimages": 2**62, "ntrigger": 2**62}, None),
        ({"nimages": 0, "ntrigger": 0}, None),
        ({"nimages": HUGE, "ntrigger": -1}, None),
    ],
)
def test_the_number_of_images_counts_all_triggers(entries, n_images):
    assert decode_one([header(), config(**entries)]).n_images == n_images


@pytest.mark.parametrize(
    "value", [None, 0, -1, -HUGE, float("nan"), float("inf"), "1", [], {}, True, {"value": None}], ids=short
)
def test_a_number_that_cannot_be_is_unknown(value):
    keys = [key for key in NUMBERS if not key.startswith(("beam", "omega", "chi", "phi"))]
    assert decode_one([header(), config(**dict.fromkeys(keys, value))]) == SeriesStart(series=7)


@pytest.mark.parametrize("value", [None, HUGE, float("nan"), float("-inf"), "1", [], {}, True], ids=short)
def test_an_angle_or_position_that_is_no_number_is_unknown(value):
    keys = [key for key in NUMBERS if key.startswith(("beam", "omega", "chi", "phi"))]
    assert decode_one([header(), config(**dict.fromkeys(keys, value))]) == SeriesStart(series=7)


def test_sides_beyond_the_limit_are_not_believed():
    sides = {"x_pixels_in_detector": 8, "y_pixels_in_detector": 5}
    assert decode_one([header(), config(**sides)], max_pixels=40).image_shape == (5, 8)
    assert decode_one([header(), config(**sides)], max_pixels=39).image_shape is None


# --- several messages in one multipart, one message in several -----------------------------------------------


def test_the_configuration_may_follow_as_a_message_of_its_own():
    decoder = Dectris1Decoder(roi=ROI)
    assert list(decoder.decode([header()])) == [SeriesStart(series=7, roi=ROI)]
    (begun,) = decoder.decode([config(**NUMBERS), *FLATFIELD, *BAD_PIXELS, b"appendix"])
    assert (begun.series, begun.n_images, begun.roi, begun.user_data) == (7, 122, ROI, "appendix")
    np.testing.assert_array_equal(begun.pixel_mask, MASK[CUT])
    list(decoder.decode([header(series="next")]))
    assert list(decoder.decode([config()])) == [SeriesStart(series="next", roi=ROI)]


@pytest.mark.parametrize("part", [config(), text(nimages=1)])
def test_a_configuration_of_no_series_is_refused(part):
    with pytest.raises(WireError, match="expected htype"):
        decode([part])


def test_what_is_neither_configuration_nor_message_is_refused_after_a_header():
    decoder = Dectris1Decoder()
    list(decoder.decode([header()]))
    with pytest.raises(WireError, match="expected htype"):
        list(decoder.decode([text(nimages=1)]))


END = text(htype="dseries_end-1.0", series=7)
JOINED = {
    "a whole series": ([header(), config(), *image(), *image(), END], "begin image image end"),
    "no details": ([header("none"), *image(encoding="lz4<"), END], "begin image end"),
    "aborted": ([header(), config(), END], "begin end"),
    "tables": ([header("all"), config(), *FLATFIELD, *BAD_PIXELS, *image(), END], "begin image end"),
    "appendices": ([header(), config(), b"a", *image(), text(htype="dconfig-1.0"), b"b", END, b"c"], "begin image end"),
    "twice the end": ([END, END], "end end"),
    "two series": ([END, header(series=8), config(), *image()], "end begin image"),
}


@pytest.mark.parametrize(("parts", "kinds"), JOINED.values(), ids=JOINED)
def test_messages_may_come_as_one_multipart(parts, kinds):
    names = {SeriesStart: "begin", DetectorFrame: "image", SeriesEnd: "end"}
    found = decode(parts)
    assert [names[type(message)] for message in found] == kinds.split()
    for message in found:
        if isinstance(message, DetectorFrame):
            np.testing.assert_array_equal(message.pixels, PIXELS)


def test_the_mask_of_a_joined_header_is_its_own():
    begun, frame = decode([header("all"), config(), *BAD_PIXELS, *image()])
    np.testing.assert_array_equal(begun.pixel_mask, MASK)
    assert begun.user_data is None
    np.testing.assert_array_equal(frame.pixels, PIXELS)


def test_what_precedes_a_malformed_message_is_kept():
    decoding = Dectris1Decoder().decode([header(), config(), *image(type="uint17")])
    assert next(decoding) == SeriesStart(series=7)
    with pytest.raises(WireError, match="uint17"):
        next(decoding)


@pytest.mark.parametrize("listed", [["dseries_end-1.0"], "dseries_end-1.0"])
def test_the_type_may_stand_in_a_list(listed):
    assert decode([text(htype=listed, series=7)]) == [SeriesEnd(series=7)]


def test_no_parts_are_no_messages():
    assert decode([]) == []


@pytest.mark.parametrize("parts", [[END], [header(), config(), *FLATFIELD]], ids=["ends", "headers"])
def test_the_time_for_many_parts_grows_no_faster_than_their_number(parts):
    def seconds(n: int) -> float:
        begin = time.thread_time()
        decode(parts * (n // len(parts)))
        return time.thread_time() - begin

    assert min(seconds(40_000) for _ in range(2)) < 40 * min(seconds(4_000) for _ in range(5))


# --- malformed messages raise WireError and nothing else ----------------------------------------------------


NESTED = b"[" * 100_000
MALFORMED_HEADERS = {
    "nothing": b"",
    "a brace": b"{",
    "no JSON": b"\x00\x01\x02\x03",
    "CBOR": b"\xd9\xd9\xf7\xa1dtypecend",
    "no UTF-8": b'{"htype": "\xff"}',
    "half of UTF-16": b"\xff\xfe{",
    "an array": b"[]",
    "a text": b'"dheader-1.0"',
    "a number": b"1",
    "null": b"null",
    "empty": b"{}",
    "no known type": text(htype="dheader-2.0", series=7),
    "two types": text(htype=["dheader-1.0", "dimage-1.0"], series=7),
    "a type that is no text": text(htype=1, series=7),
    "a type that is an object": text(htype={"a": 1}, series=7),
    "the middle of an image": image()[1],
    "digits without end": b'{"htype": ' + b"9" * 5000 + b"}",
    "nested": b'{"htype": ' + NESTED,
    "nested objects": b'{"a":' * 100_000,
    "nested to the brim": b'{"htype": ' + b"[" * 900 + b"]" * 900 + b"}",
    "cut short": header()[:-1],
    "more behind": header() + b"x",
    "too long": b'{"htype": "dheader-1.0", "series": 7, "x": "' + b"x" * 1_000_000 + b'"}',
}


@pytest.mark.parametrize("part", MALFORMED_HEADERS.values(), ids=MALFORMED_HEADERS)
def test_what_is_no_message_is_refused(part):
    decoder = Dectris1Decoder()
    list(decoder.decode([header()]))
    for parts in ([part], [part, *image()[1:]], [part, END]):
        with pytest.raises(WireError):
            list(decoder.decode(parts))


NO_SERIES = [None, True, False, 1.5, float("nan"), [], [7], {}, {"value": 7}, HUGE, -HUGE, 2**64]
NO_SERIES += ["x" * 257, "two\nlines", "\0", "\ud800"]


@pytest.mark.parametrize("series", NO_SERIES, ids=short)
@pytest.mark.parametrize("kind", ["dheader-1.0", "dimage-1.0", "dseries_end-1.0"])
def test_a_series_that_is_no_name_is_refused(kind, series):
    with pytest.raises(WireError, match="expected series"):
        decode([text(htype=kind, series=series, frame=0), *image()[1:]])


@pytest.mark.parametrize("kind", ["dheader-1.0", "dimage-1.0", "dseries_end-1.0"])
def test_a_message_without_series_is_refused(kind):
    with pytest.raises(WireError, match="expected series"):
        decode([text(htype=kind, frame=0), *image()[1:]])


@pytest.mark.parametrize("frame", [None, True, -1, 1.0, "1", [], {}, HUGE, 2**63, float("nan")], ids=short)
def test_an_image_needs_a_count_from_zero(frame):
    with pytest.raises(WireError, match="expected frame"):
        decode([text(htype="dimage-1.0", series=7, frame=frame), *image()[1:]])


@pytest.mark.parametrize("n_parts", [1, 2])
def test_an_image_that_lacks_parts_is_refused(n_parts):
    with pytest.raises(WireError, match=r"expected dimage_d-1\.0 and pixels"):
        decode(image()[:n_parts])
    with pytest.raises(WireError):
        decode([*image()[:n_parts], END])


@pytest.mark.parametrize("described", [b"", b"{", b"[]", b"\xff", NESTED, b'{"shape": ' + NESTED])
def test_an_image_described_by_no_json_is_refused(described):
    with pytest.raises(WireError, match="JSON"):
        decode([image()[0], described, image()[2]])


NO_SHAPES = [None, True, 40, "8x5", {}, [], [40], [8], [0, 5], [8, 0], [-8, -5], [8, -5], [8.0, 5.0], ["8", "5"]]
NO_SHAPES += [[True, 40], [None, None], [[8], [5]], [float("nan"), 5], [8, 5, 0], [HUGE, 1], [HUGE, HUGE], [8, 6]]
NO_SHAPES += [[2**32, 2**32], [2**62, 4], [7, 5], [1] * 5000]


@pytest.mark.parametrize("shape", NO_SHAPES, ids=short)
@pytest.mark.parametrize("encoding", ["<", "lz4<", "bs16-lz4<"])
def test_a_shape_that_does_not_fit_is_refused(encoding, shape):
    with pytest.raises(WireError):
        decode(image(encoding=encoding, blob=packed(PIXELS, encoding), shape=shape))


@pytest.mark.parametrize("kind", [None, True, 2, [], {}, "", "uint24", "U1", "O", "u1,u1", "<u2", "uint32", "uint8"])
def test_a_type_that_does_not_fit_is_refused(kind):
    with pytest.raises(WireError):
        decode(image(type=kind))


NO_ENCODINGS = [
    None,
    True,
    1,
    [],
    {},
    ["<"],
    "gzip",
    "lz4<<",
    "<lz4",
    "bs16",
    "bs16<",
    "bs7-lz4<",
    "bs16-lz4=",
    "lz4-<",
]
NO_ENCODINGS += ["LZ4<", "bszstd<", " <", "<\n", "lz4" * 10_000]


@pytest.mark.parametrize("encoding", NO_ENCODINGS, ids=short)
def test_an_encoding_that_is_not_known_is_refused(encoding):
    with pytest.raises(WireError, match="expected an encoding"):
        decode(image(encoding=encoding, blob=PIXELS.tobytes()))


@pytest.mark.parametrize("announced", [1, 79, 81, 160, 2**32, 2**63, 2**64 - 1])
def test_an_announced_size_that_does_not_fit_is_refused(announced):
    with pytest.raises(WireError):
        decode(image(encoding="bs16-lz4<", blob=struct.pack(">QI", announced, 8192) + shuffled(PIXELS)[12:]))


@pytest.mark.parametrize("block_bytes", [1, 8, 15, 17, 2**31 - 16, 2**31, 2**32 - 16, 2**32 - 1])
@pytest.mark.parametrize("announced", [0, 80])
def test_a_hostile_block_size_is_refused_or_leads_to_the_same_image(announced, block_bytes):
    blob = struct.pack(">QI", announced, block_bytes) + shuffled(PIXELS)[12:]
    try:
        frame = decode_one(image(encoding="bs16-lz4<", blob=blob))
    except WireError:
        return
    np.testing.assert_array_equal(frame.pixels, PIXELS)


@pytest.mark.parametrize("encoding", ["<", "lz4<", "bs16-lz4<", "bs16-lz4>"])
@pytest.mark.parametrize("wrong", [b"", b"\0", b"\0" * 11, b"\0" * 12, b"\0" * 79, b"\0" * 81, b"\xff" * 100])
def test_a_blob_of_something_else_is_refused(wrong, encoding):
    with pytest.raises(WireError):
        decode(image(encoding=encoding, blob=wrong))


@pytest.mark.parametrize("encoding", ["<", "lz4<", "bs16-lz4<"])
@given(at=st.floats(0, 1, exclude_max=True))
@REPEATABLE
def test_a_blob_cut_short_is_refused(encoding, at):
    blob = packed(PIXELS, encoding)
    with pytest.raises(WireError):
        decode(image(encoding=encoding, blob=blob[: int(at * len(blob))]))


@pytest.mark.parametrize("encoding", ["lz4<", "bs16-lz4<"])
def test_a_blob_of_more_pixels_than_told_is_refused(encoding):
    tall = np.tile(PIXELS, (3, 1))
    with pytest.raises(WireError):
        decode(image(encoding=encoding, blob=packed(tall, encoding)))


def test_a_configuration_of_no_json_is_refused():
    for part in (b"", b"{", b"[]", b"text", NESTED):
        with pytest.raises(WireError, match="JSON"):
            decode([header(), part])
