"""The compiled decompression against bitshuffle, lz4 and dectris-compression, on real and on hostile input."""

from __future__ import annotations

import struct

import bitshuffle
import lz4.block
import numpy as np
import pytest

from cdi_stream_plugins.decoders.decompression import BACKENDS, decompress_compiled
from cdi_stream_plugins.decoders.lz4_images import decompress_plain, decompress_shuffled

ITEMS = (1, 2, 4, 8)


def counts(n: int, item: int, mean: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(mean, n).astype(f"u{item}")


def shuffled(elements: np.ndarray, block: int) -> bytes:
    return bitshuffle.compress_lz4(elements, block).tobytes()


def plain(content: bytes, block: int) -> bytes:
    """Blocks of HDF5's LZ4 filter; a block that does not shrink is stored as it is."""
    parts = []
    for start in range(0, len(content), block):
        part = content[start : start + block]
        packed = lz4.block.compress(part, store_size=False)
        packed = packed if len(packed) < len(part) else part
        parts.append(struct.pack(">I", len(packed)) + packed)
    return b"".join(parts)


@pytest.mark.parametrize("mean", [0, 0.01, 1, 90])
@pytest.mark.parametrize("block", [8, 40, 512, 2048])
@pytest.mark.parametrize("item", ITEMS)
def test_bitshuffled_elements_come_back(item, block, mean):
    for n in (1, 7, 8, 63, 64, 65, 520, 5000, 5003):
        elements = counts(n, item, mean)
        content = decompress_shuffled(shuffled(elements, block), elements.nbytes, item, block * item)
        assert content.readonly
        np.testing.assert_array_equal(np.frombuffer(content, elements.dtype), elements)


@pytest.mark.parametrize("block", [1, 100, 4096, 20_000])
@pytest.mark.parametrize("mean", [0, 1, 90])
def test_plain_blocks_come_back(block, mean):
    elements = counts(9001, 1, mean)
    content = decompress_plain(plain(elements.tobytes(), block), elements.nbytes, block)
    assert content.readonly
    assert bytes(content) == elements.tobytes()


def test_repeated_patterns_of_every_period_come_back():
    for period in range(1, 70):
        content = (np.random.default_rng(period).bytes(period) * 8000)[:8000]
        assert bytes(decompress_plain(plain(content, 8000), 8000, 8000)) == content


@pytest.mark.parametrize("item", ITEMS)
def test_every_prefix_is_refused(item):
    elements = counts(203, item, 3)
    packed, unpacked = shuffled(elements, 64), plain(elements.tobytes(), 64)
    for n in range(len(packed)):
        with pytest.raises(ValueError, match="does not decode"):
            decompress_shuffled(packed[:n], elements.nbytes, item, 64 * item)
    for n in range(len(unpacked)):
        with pytest.raises(ValueError, match="does not decode"):
            decompress_plain(unpacked[:n], elements.nbytes, 64)


HOSTILE = {
    "a length beyond the input": b"\xff\xff\xff\xff" + bytes(20),
    "a length beyond a signed number": b"\x80\x00\x00\x00" + bytes(20),
    "no block": b"",
    "an empty block": bytes(4),
    "literals beyond the block": b"\x00\x00\x00\x04\xf0\xff\xff\x00",
    "literals without end": b"\x00\x00\x00\x04\xf0\xff\xff\xff",
    "an offset of zero": b"\x00\x00\x00\x05\x1f\x41\x00\x00\x10",
    "an offset before the block": b"\x00\x00\x00\x05\x1f\x41\x02\x00\x10",
    "half an offset": b"\x00\x00\x00\x03\x1f\x41\x01",
    "a match beyond the block": b"\x00\x00\x00\x07\x1f\x41\x01\x00\xff\xff\x00",
    "a match without end": b"\x00\x00\x00\x06\x1f\x41\x01\x00\xff\xff",
    "a match at the end": b"\x00\x00\x00\x05\x1f\x41\x01\x00\x2c",
}


@pytest.mark.parametrize("packed", HOSTILE.values(), ids=HOSTILE)
def test_malformed_blocks_are_refused(packed):
    with pytest.raises(ValueError, match="block 0 does not decode"):
        decompress_shuffled(packed, 64, 1, 64)
    with pytest.raises(ValueError, match="block 0 does not decode"):
        decompress_plain(packed, 64, 64)


@pytest.mark.parametrize("block_bytes", [0, 4, 12, 8191])
def test_blocks_of_no_whole_number_of_bytes_a_plane_are_refused(block_bytes):
    with pytest.raises(ValueError, match="expected blocks of a multiple"):
        decompress_shuffled(b"", 80, 2, block_bytes)


def test_elements_of_unknown_size_are_refused():
    for item, n_bytes in ((3, 9), (16, 32), (2, 9)):
        with pytest.raises(ValueError, match="expected elements"):
            decompress_shuffled(b"", n_bytes, item, 8192)
    with pytest.raises(ValueError, match="expected blocks of at least"):
        decompress_plain(b"", 9, 0)


def test_a_huge_block_takes_no_more_memory_than_the_image():
    with pytest.raises(ValueError, match="does not decode"):
        decompress_shuffled(bytes(20), 80, 2, 2**32 - 16)
    with pytest.raises(ValueError, match="does not decode"):
        decompress_plain(bytes(20), 80, 2**32 - 1)


def damaged(packed: bytes, rng: np.random.Generator) -> bytes:
    """The input with a few bytes overwritten, cut short or followed by others."""
    content = bytearray(packed)
    for at in rng.integers(0, len(content), rng.integers(0, 4)):
        content[at] = rng.integers(256)
    kind = rng.integers(4)
    return bytes(content[: rng.integers(len(content))] if kind == 0 else content + bytes(int(kind == 1)))


@pytest.mark.skipif("dectris" not in BACKENDS, reason="dectris-compression is not installed: run 'make fast'")
@pytest.mark.parametrize("algorithm", ["lz4", "bslz4"])
def test_damaged_input_gives_the_same_as_dectris_compression(algorithm):
    rng = np.random.default_rng(7)
    n_decoded = 0
    for case in range(3000):
        item, block = int(rng.choice(ITEMS)), 8 * int(rng.integers(1, 200))
        elements = counts(rng.integers(1, 2000), item, 10 ** rng.uniform(-2, 1.5), seed=case)
        packed = shuffled(elements, block) if algorithm == "bslz4" else plain(elements.tobytes(), block * item)
        message = struct.pack(">QI", elements.nbytes, block * item) + damaged(packed, rng)
        answers = []
        for decompress in (BACKENDS["dectris"], decompress_compiled):
            try:
                answers.append(bytes(decompress(message, algorithm, item, elements.nbytes)))
            except (ValueError, RuntimeError):
                answers.append(b"refused")
        assert answers[0] == answers[1], f"case {case}"
        n_decoded += answers[0] != b"refused"
    assert 400 < n_decoded < 3600
