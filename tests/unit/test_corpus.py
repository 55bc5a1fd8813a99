"""The corpus of foreign messages: kinds in their order, and images as bitshuffle, lz4 and cbor2 decode them."""

from __future__ import annotations

import json
import lzma
import math
import struct
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import bitshuffle
import cbor2
import lz4.block
import msgpack
import numpy as np
import pytest
from numpy.typing import NDArray

from cdi_stream.errors import WireError
from cdi_stream.messages import DetectorFrame, SeriesEnd, SeriesStart, WireMessage
from cdi_stream_plugins.decoders.dectris1 import Dectris1Decoder
from cdi_stream_plugins.decoders.dectris2 import Dectris2Decoder

pytestmark = pytest.mark.usefixtures("backend")

CORPUS = Path(__file__).parents[1] / "data" / "wire"
RECORDED = "begin begin image image image end"
EXPECTED = {
    **{
        f"libertem_rust_{dtype}_{codec}": RECORDED
        for dtype in ("uint8", "uint16", "uint32")
        for codec in ("lz4", "bslz4")
    },
    "libertem_rust_mock": RECORDED,
    "libertem_live_exte": RECORDED,
    "libertem_live_no_end": "begin begin image image image",
    "tickit_v1_none": "begin refused refused end end",
    "tickit_v1_basic": "begin refused refused end end",
    "tickit_v1_basic_images": "begin image image end end",
    "tickit_v1_all": "begin refused end end",
    "tickit_v1_joined": "begin refused refused end end",
    "tickit_v1_aborted": "begin end",
    "tickit_v2_basic": "begin refused refused end end",
    "tickit_v2_basic_images": "begin image image end end",
    "tickit_v2_joined_images": "begin image image end end",
    "tickit_v2_all_images": "begin image end end",
}
"""What each file decodes to; ``refused`` are messages whose large image was left out of the corpus."""

SHA_256 = "14a1f573dc4f84c94011dec7c3d3ca6672dab2834b4b8ff9600672540c27ea86"
IMAGES = sorted(name for name, kinds in EXPECTED.items() if "image" in kinds.split())
OURS = sorted(name for name in IMAGES if name.startswith("libertem") and name != "libertem_rust_mock")


def read(name: str) -> list[list[bytes]]:
    """Messages of a file; what was left out is an empty part."""
    (path,) = CORPUS.glob(f"{name}.msgpack*")
    content = path.read_bytes()
    messages = msgpack.unpackb(lzma.decompress(content) if path.suffix == ".xz" else content)
    return [[part or b"" for part in parts] for parts in messages]


def decoded(name: str, messages: list[list[bytes]]) -> Iterator[WireMessage | WireError]:
    """All that a decoder makes of them, as a receiver would see it."""
    decoder = Dectris2Decoder() if "_v2_" in name else Dectris1Decoder()
    for parts in messages:
        try:
            yield from decoder.decode(parts)
        except WireError as error:
            yield error


def frames_of(name: str) -> list[DetectorFrame]:
    return [found for found in decoded(name, read(name)) if isinstance(found, DetectorFrame)]


@pytest.mark.parametrize("name", IMAGES)
def test_each_frame_is_decoded_again_from_its_own_parts(name):
    for frame in frames_of(name):
        (again,) = decoded(name, [[bytes(part) for part in frame.wire]])
        assert isinstance(again, DetectorFrame)
        assert (again.series, again.image_id, again.exposure_s) == (frame.series, frame.image_id, frame.exposure_s)
        np.testing.assert_array_equal(again.pixels, frame.pixels)


# --- a decoder of its own ---------------------------------------------------------------------------------------


def images_1(message: list[bytes]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Number and pixels of each image in a message of stream v1."""
    number = -1
    for part, following in zip(message, [*message[1:], b""], strict=True):
        header = json.loads(part) if part.startswith(b"{") else {}
        number = header.get("frame", number)
        if header.get("htype") == "dimage_d-1.0":
            cols, rows = header["shape"]
            yield number, unpacked(header["encoding"], following, (rows, cols), np.dtype(header["type"]))


def images_2(message: list[bytes]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Number and pixels of each image in a message of stream v2, as tickit sends it."""
    for item in map(untagged, message):
        if item["type"] == "image":
            (array,) = item["data"].values()
            shape, typed = array.value
            algorithm, itemsize, blob = typed.value.value
            assert (array.tag, typed.tag, typed.value.tag, algorithm, itemsize) == (40, 69, 56500, "bslz4", 2)
            yield item["image_id"], unpacked("bs16-lz4<", blob, tuple(shape), np.dtype("<u2"))


def unpacked(encoding: str, blob: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if encoding == "lz4<":
        plain = lz4.block.decompress(blob, uncompressed_size=math.prod(shape) * dtype.itemsize)
        return np.frombuffer(plain, dtype).reshape(shape)
    assert encoding == f"bs{8 * dtype.itemsize}-lz4<"
    n_bytes, block_bytes = struct.unpack(">QI", blob[:12])
    assert n_bytes in (0, math.prod(shape) * dtype.itemsize)
    body = np.frombuffer(blob, np.uint8, offset=12)
    return bitshuffle.decompress_lz4(body, shape, dtype, block_bytes // dtype.itemsize)


def untagged(part: bytes) -> Any:
    """Outermost map of a CBOR message; older cbor2 keeps the self-describing tag around it."""
    item = cbor2.loads(part)
    return item.value if isinstance(item, cbor2.CBORTag) else item


def our_frames(dtype: np.dtype[Any], n_frames: int) -> NDArray[Any]:
    """The images that were given to LiberTEM's senders, by the rule that the corpus states."""
    frame, row, col = np.ogrid[:n_frames, :97, :163]
    values = (10_000 * frame + 163 * row + col) * (65_539 if dtype.itemsize == 4 else 1)
    return (values % 2 ** (8 * dtype.itemsize)).astype(dtype)


# --- the corpus -------------------------------------------------------------------------------------------------


def test_the_whole_corpus_is_read_here():
    assert {path.name.split(".")[0] for path in CORPUS.glob("*.msgpack*")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_messages_are_of_the_expected_kinds_in_order(name):
    kinds = {SeriesStart: "begin", DetectorFrame: "image", SeriesEnd: "end", WireError: "refused"}
    found = list(decoded(name, read(name)))
    assert [kinds[type(one)] for one in found] == EXPECTED[name].split()
    messages = [one for one in found if not isinstance(one, WireError)]
    assert len({message.series for message in messages}) == 1


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_those_that_other_libraries_decode(name):
    images_of = images_2 if "_v2_" in name else images_1
    expected = [one for parts in read(name) for one in images_of(parts)]
    frames = frames_of(name)
    assert [frame.image_id for frame in frames] == [number for number, _ in expected] == list(range(len(frames)))
    for frame, (_, pixels) in zip(frames, expected, strict=True):
        assert frame.pixels.dtype == pixels.dtype
        np.testing.assert_array_equal(frame.pixels, pixels)


@pytest.mark.parametrize("name", OURS)
def test_images_are_those_that_were_given_to_the_sender(name):
    frames = frames_of(name)
    dtype = name.split("_")[2] if "rust" in name else "uint16"
    expected = our_frames(np.dtype(dtype), n_frames=3)
    np.testing.assert_array_equal([frame.pixels for frame in frames], expected)
    assert {frame.exposure_s for frame in frames} == {0.01}


def test_made_up_frames_hold_their_number():
    frames = frames_of("libertem_rust_mock")
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.pixels, np.full((512, 512), number, np.uint16))


def test_the_captured_exposure_is_what_it_was():
    (frame, _) = frames_of("tickit_v1_basic_images")
    assert frame.pixels.shape == (4362, 4148)
    assert sha256(frame.pixels.tobytes()).hexdigest() == SHA_256
    assert np.count_nonzero(frame.pixels == 65535) == 1_253_074
    assert frame.pixels[frame.pixels < 65535].max() == 6416


@pytest.mark.parametrize("name", OURS)
def test_the_configuration_of_a_second_message_belongs_to_the_series(name):
    bare, begun = (one for one in decoded(name, read(name)) if isinstance(one, SeriesStart))
    assert bare == SeriesStart(series=7)
    assert (begun.series, begun.n_images, begun.image_shape) == (7, 3, (97, 163))
    assert (begun.photon_energy_ev, begun.distance_m, begun.count_time_s) == (9000.0, 0.85, 0.01)
    assert (begun.pixel_row_m, begun.beam_row, begun.beam_col) == (55e-6, 47.5, 80.5)


def test_the_mask_of_a_header_of_all_details_is_read():
    messages = read("tickit_v1_all")
    begun = next(decoded("tickit_v1_all", messages))
    described, content = messages[0][4:6]
    cols, rows = json.loads(described)["shape"]
    np.testing.assert_array_equal(begun.pixel_mask, np.frombuffer(content, "<u4").reshape(rows, cols) == 0)
    assert begun.user_data is None


@pytest.mark.parametrize("name", [name for name in EXPECTED if "_v2_" in name])
def test_numbers_are_those_that_another_library_reads(name):
    messages = read(name)
    begun = next(decoded(name, messages))
    sent: dict[str, Any] = untagged(messages[0][0])
    assert begun.n_images == sent["number_of_images"]
    assert begun.image_shape == (sent["image_size_y"], sent["image_size_x"])
    assert begun.photon_energy_ev == sent["incident_energy"]
    assert (begun.pixel_row_m, begun.pixel_col_m) == (sent["pixel_size_y"], sent["pixel_size_x"])
    assert begun.pixel_mask is None
