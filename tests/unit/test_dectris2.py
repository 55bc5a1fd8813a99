"""DECTRIS stream v2 against messages of foreign encoders: cbor2, bitshuffle and lz4."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdi_stream.errors import WireError
from cdi_stream.messages import DetectorFrame, SeriesEnd, SeriesStart, WireMessage
from cdi_stream_plugins.decoders.dectris2 import Dectris2Decoder
from sim_beamline import wire

pytestmark = pytest.mark.usefixtures("backend")

REPEATABLE = settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
CODECS = ("raw", "lz4", "bslz4")
SHAPE = (5, 8)
PIXELS = np.arange(40, dtype=np.uint16).reshape(SHAPE) * 700
MASK = (np.arange(40).reshape(SHAPE) % 3 > 0) & (np.arange(40).reshape(SHAPE) != 20)
WHITE = np.linspace(0.5, 1.5, 40, dtype=np.float32).reshape(SHAPE)
ROI = (1, 4, 2, 7)
CUT = (slice(1, 4), slice(2, 7))


def decode(message: bytes, **options: Any) -> WireMessage:
    (decoded,) = Dectris2Decoder(**options).decode([message])
    return decoded


def start(**entries: Any) -> bytes:
    return cbor2.dumps({"type": "start", "series_id": 7} | entries)


def image(data: Any = None, **entries: Any) -> bytes:
    data = {"threshold_1": wire.array(PIXELS)} if data is None else data
    return cbor2.dumps({"type": "image", "series_id": 7, "image_id": 3, "data": data} | entries)


def image_of(shape: Any, content: Any, *, order: int = 40, elements: int = 64) -> bytes:
    return image({"threshold_1": cbor2.CBORTag(order, [shape, cbor2.CBORTag(elements, content)])})


def compressed(codec: str, element_size: int, packed: bytes) -> cbor2.CBORTag:
    return cbor2.CBORTag(56500, [codec, element_size, packed])


def real_start() -> bytes:
    header = {"pixel_row_m": 55e-6, "pixel_col_m": 75e-6, "beam_row": -3.5, "beam_col": 2.25, "count_time_s": 0.1}
    return wire.start_message(
        series=7,
        n_images=61,
        shape=SHAPE,
        header=header | {"saturation_counts": 65534},
        mask=MASK,
        user_data={"run": "abc", "list": [1, 2.5, None]},
        dtype="uint16",
    )


def real_image(codec: str) -> bytes:
    return wire.image_message(series=7, image_id=3, pixels=PIXELS, count_time_s=0.25, codec=codec)


REAL_MESSAGES = (real_start(), *map(real_image, CODECS), wire.end_message(series=7))


# --- images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 8), (1, 3), (131, 71)])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
@pytest.mark.parametrize("codec", CODECS)
def test_an_image_arrives_as_it_was_sent(codec, dtype, shape):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    message = wire.image_message(series=7, image_id=3, pixels=pixels, count_time_s=0.25, codec=codec)
    frame = decode(message)
    assert isinstance(frame, DetectorFrame)
    assert (frame.series, frame.image_id, frame.exposure_s) == (7, 3, 0.25)
    assert frame.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(frame.pixels, pixels)


def test_a_raw_image_is_a_view_of_its_message():
    message = real_image("raw")
    assert np.shares_memory(decode(message).pixels, np.frombuffer(message, np.uint8))


@pytest.mark.parametrize("codec", CODECS)
def test_the_region_of_interest_is_cut_from_the_image(codec):
    np.testing.assert_array_equal(decode(real_image(codec), roi=ROI).pixels, PIXELS[CUT])


@pytest.mark.parametrize("roi", [(0, 6, 0, 8), (0, 5, 0, 9), (5, 7, 0, 1)])
def test_a_region_of_interest_beyond_the_image_is_refused(roi):
    with pytest.raises(WireError, match="does not fit"):
        decode(real_image("raw"), roi=roi)


def test_big_endian_and_column_major_images_are_understood():
    big, columns = PIXELS.astype(">u2").tobytes(), PIXELS.tobytes(order="F")
    for message in (image_of([5, 8], big, elements=65), image_of([5, 8], columns, order=1040, elements=69)):
        np.testing.assert_array_equal(decode(message).pixels, PIXELS)


def test_the_first_channel_is_taken_unless_one_is_named():
    channels = {"threshold_2": wire.array(PIXELS), "threshold_1": wire.array(PIXELS + 1)}
    message = image(channels, channels=["something_else"])
    np.testing.assert_array_equal(decode(message).pixels, PIXELS)
    np.testing.assert_array_equal(decode(message, channel="threshold_1").pixels, PIXELS + 1)
    with pytest.raises(WireError, match=r"'something_else', got .*threshold_1.*threshold_2"):
        decode(message, channel="something_else")


@pytest.mark.parametrize("exposure", [None, 0.1, [1], [1, 0], ["1", 2], {}])
def test_an_exposure_that_is_no_ratio_is_unknown(exposure):
    assert decode(image(real_time=exposure)).exposure_s is None


@pytest.mark.parametrize("image_id", [None, -1, 1.0, "1", []])
def test_an_image_needs_a_count_from_zero(image_id):
    with pytest.raises(WireError, match="image_id"):
        decode(image(image_id=image_id))


@pytest.mark.parametrize("data", [{}, [], 1, {"a": None}, {"a": b"1"}, {"a": cbor2.CBORTag(41, [1])}])
def test_an_image_needs_data(data):
    with pytest.raises(WireError):
        decode(image(data))


@pytest.mark.parametrize(
    "shape", [[], [4], [1, 2, 2], [0, 4], [-1, -4], [4, 0.5], [2, 3], [2**40, 2**40], ["2", 2], None, [True, 4]]
)
def test_a_shape_that_does_not_fit_its_bytes_is_refused(shape):
    with pytest.raises(WireError):
        decode(image_of(shape, b"abcd"))


def test_an_image_above_the_limit_is_refused_before_it_is_unpacked():
    huge = compressed("bslz4", 1, struct.pack(">QI", 2**40, 8192) + b"\0" * 8)
    with pytest.raises(WireError, match="exceeds the limit of 40000000"):
        decode(image_of([2**20, 2**20], huge))
    assert decode(real_image("bslz4"), max_pixels=40).pixels.size == 40
    with pytest.raises(WireError, match="5 x 8 pixels exceeds the limit of 39"):
        decode(real_image("bslz4"), max_pixels=39)


@pytest.mark.parametrize("announced", [79, 81, 160, 2**63, 2**64 - 1])
@pytest.mark.parametrize("codec", ["lz4", "bslz4"])
def test_an_announced_size_that_does_not_fit_the_shape_is_refused(codec, announced):
    whole = wire.array(PIXELS, codec).value[1].value.value[2]
    message = image_of([5, 8], compressed(codec, 2, struct.pack(">Q", announced) + whole[8:]), elements=69)
    with pytest.raises(WireError, match=r"announce the expected 80 bytes|bslz4 image cannot be decompressed"):
        decode(message)


@pytest.mark.parametrize("header", [b"", b"\0" * 12, struct.pack(">QI", 0, 8192)])
def test_a_bitshuffled_image_may_lack_its_header_or_have_it_zero(header):
    whole = wire.array(PIXELS, "bslz4").value[1].value.value[2]
    message = image_of([5, 8], compressed("bslz4", 2, header + whole[12:]), elements=69)
    np.testing.assert_array_equal(decode(message).pixels, PIXELS)


@pytest.mark.parametrize(
    "content",
    [
        compressed("zstd", 2, b"\0" * 20),
        compressed("lz4", 4, struct.pack(">QI", 80, 80)),
        compressed("lz4", 2, b"short"),
        compressed("bslz4", 2, struct.pack(">QI", 80, 0)),
        compressed("bslz4", 2, struct.pack(">QI", 80, 2**32 - 1) + b"\xff" * 30),
        cbor2.CBORTag(56500, b"not a list"),
        cbor2.CBORTag(56500, ["lz4", 2, "text"]),
        "text",
        None,
    ],
)
def test_bytes_that_cannot_be_unpacked_are_refused(content):
    with pytest.raises(WireError):
        decode(image_of([5, 8], content, elements=69))


# --- start and end ------------------------------------------------------------------------------------------


def test_a_start_message_arrives_as_it_was_sent():
    begun = decode(real_start())
    assert isinstance(begun, SeriesStart)
    assert (begun.series, begun.n_images, begun.image_shape, begun.roi) == (7, 61, (5, 8), None)
    assert (begun.pixel_row_m, begun.pixel_col_m) == (55e-6, 75e-6)
    assert (begun.beam_row, begun.beam_col) == (-3.5, 2.25)
    assert (begun.count_time_s, begun.saturation_counts) == (0.1, 65534)
    assert begun.user_data == {"run": "abc", "list": [1, 2.5, None]}
    np.testing.assert_array_equal(begun.pixel_mask, MASK)


def test_the_region_of_interest_is_cut_from_the_mask():
    begun = decode(real_start(), roi=ROI)
    assert (begun.roi, begun.image_shape) == (ROI, (5, 8))
    np.testing.assert_array_equal(begun.pixel_mask, MASK[CUT])


def test_a_start_message_of_the_series_alone_leaves_all_else_unknown():
    assert decode(start()) == SeriesStart(series=7)


@pytest.mark.parametrize("value", [None, {}, [], 0, {"threshold_1": None}, {"threshold_1": [1, 2]}])
def test_masks_that_are_none_are_left_out(value):
    assert decode(start(pixel_mask=value)).pixel_mask is None


def test_the_mask_is_that_of_the_named_channel():
    masks = {"a": wire.array(np.ones(SHAPE, np.uint32)), "b": wire.array(np.where(MASK, 0, 8).astype(np.uint32))}
    np.testing.assert_array_equal(decode(start(pixel_mask=masks), channel="b").pixel_mask, MASK)
    assert not decode(start(pixel_mask=masks)).pixel_mask.any()


@pytest.mark.parametrize("value", [None, 0, -1, -(2**64), float("nan"), float("inf"), "1", [], {}])
def test_a_number_that_cannot_be_is_unknown(value):
    keys = ("incident_energy", "pixel_size_x", "pixel_size_y", "count_time", "saturation_value", "image_size_x")
    entries = dict.fromkeys((*keys, "image_size_y", "number_of_images"), value)
    assert decode(start(**entries)) == SeriesStart(series=7)


@pytest.mark.parametrize("value", [None, 0, float("nan"), float("inf"), "1", [], {}])
def test_a_distance_that_cannot_be_is_unknown(value):
    assert decode(start(detector_translation=[0, 0, value])).distance_m is None


def test_a_distance_may_be_counted_against_the_beam():
    assert decode(start(detector_translation=[0.0, 0.0, -0.237])).distance_m == 0.237


def test_energy_distance_and_goniometer_are_read():
    goniometer = {
        "omega": {"start": 12.5, "increment": 0.01},
        "chi": {"start": 90, "increment": 0.0},
        "phi": {"start": None, "increment": 1.0},
        "kappa": None,
        "two_theta": {"start": 30.0},
    }
    begun = decode(start(incident_energy=9000, detector_translation=[0.0, 0.0, 1.25], goniometer=goniometer))
    assert (begun.photon_energy_ev, begun.distance_m) == (9000, 1.25)
    assert begun.goniometer == {"omega": (12.5, 0.01), "chi": (90.0, 0.0)}


def test_an_end_message_arrives():
    assert decode(wire.end_message(series=7)) == SeriesEnd(series=7)


def test_the_unique_id_stands_in_for_a_series_without_number():
    assert decode(cbor2.dumps({"type": "end", "series_unique_id": "01ABC"})) == SeriesEnd(series="01ABC")
    with pytest.raises(WireError, match="series_id"):
        decode(cbor2.dumps({"type": "end"}))


# --- envelopes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_prefixes", [0, 1, 2])
def test_the_self_described_prefix_may_be_missing_or_repeated(n_prefixes):
    bare = wire.end_message(series=7).removeprefix(bytes.fromhex("d9d9f7"))
    assert decode(bytes.fromhex("d9d9f7") * n_prefixes + bare) == SeriesEnd(series=7)


def test_a_multipart_may_hold_several_messages():
    found = list(Dectris2Decoder().decode([real_image("bslz4"), wire.end_message(series=7)]))
    assert [type(message) for message in found] == [DetectorFrame, SeriesEnd]


@pytest.mark.parametrize(("parts", "remedy"), [([], "empty"), ([b"{}", b"{}"], "dectris1")])
def test_what_is_no_cbor_is_refused(parts, remedy):
    with pytest.raises(WireError, match=remedy):
        list(Dectris2Decoder().decode(parts))


@pytest.mark.parametrize("item", [[], 1, None, "start", {}, {"type": None}, {"type": "middle"}, {"type": ["start"]}])
def test_what_is_no_message_is_refused(item):
    with pytest.raises(WireError):
        decode(cbor2.dumps(item))


# --- malformed messages raise WireError and nothing else ----------------------------------------------------


def decoded_or_refused(message: bytes, **options: Any) -> bool:
    """Whether the message was decoded; anything raised but WireError goes through."""
    try:
        return isinstance(decode(message, **options), WireMessage)
    except WireError:
        return True


EDITS = st.tuples(st.sampled_from(("flip", "cut", "insert")), st.floats(0, 1), st.binary(min_size=1, max_size=9))


def edited(message: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, content in edits:
        at = int(where * len(message))
        match kind:
            case "flip":
                message = message[:at] + bytes(b ^ content[0] for b in message[at : at + 1]) + message[at + 1 :]
            case "cut":
                message = message[:at] + message[at + len(content) :]
            case _:
                message = message[:at] + content + message[at:]
    return message


@given(st.binary(max_size=80))
@REPEATABLE
def test_random_bytes_are_decoded_or_refused(message):
    assert decoded_or_refused(message)


@pytest.mark.parametrize("message", REAL_MESSAGES, ids=["start", *CODECS, "end"])
@given(edits=st.lists(EDITS, min_size=1, max_size=4), roi=st.sampled_from((None, ROI)))
@REPEATABLE
def test_real_messages_with_bytes_edited_are_decoded_or_refused(message, edits, roi):
    assert decoded_or_refused(edited(message, edits), roi=roi)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=90),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
        | st.builds(cbor2.CBORTag, st.sampled_from((40, 64, 69, 70, 85, 86, 1040, 55799, 56500)), inner)
    ),
    max_leaves=4,
)


def paths(item: Any) -> Iterator[tuple[Any, ...]]:
    """Every way from the root of a message to something in it."""
    yield ()
    children = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
    if isinstance(item, cbor2.CBORTag):
        children = [("value", item.value)]
    for key, child in children:
        yield from ((key, *rest) for rest in paths(child))


def with_junk(item: Any, path: tuple[Any, ...], junk: Any) -> Any:
    if not path:
        return junk
    key, *rest = path
    if isinstance(item, cbor2.CBORTag):
        return cbor2.CBORTag(item.tag, with_junk(item.value, tuple(rest), junk))
    changed = item.copy()
    changed[key] = with_junk(item[key], tuple(rest), junk)
    return changed


GONIOMETER = {"goniometer": {"omega": {"start": 1.0, "increment": 0.1}}, "detector_translation": [0, 0, 1.0]}
TREES = (
    cbor2.loads(real_start().removeprefix(bytes.fromhex("d9d9f7"))) | GONIOMETER,
    *(cbor2.loads(real_image(codec).removeprefix(bytes.fromhex("d9d9f7"))) for codec in CODECS),
)


@pytest.mark.parametrize("tree", TREES, ids=["start", *CODECS])
@given(data=st.data(), junk=JUNK)
@REPEATABLE
def test_real_messages_with_anything_anywhere_are_decoded_or_refused(tree, data, junk):
    path = data.draw(st.sampled_from(list(paths(tree))))
    assert decoded_or_refused(cbor2.dumps(with_junk(tree, path, junk)), roi=ROI)
