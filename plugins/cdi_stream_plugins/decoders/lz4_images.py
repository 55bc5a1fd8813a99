"""Decompression of LZ4 images, bitshuffled or not, compiled by numba: no C compiler is needed to install it.

An image is a row of blocks, each behind its packed length (4 bytes, big-endian).  A plain block is one LZ4 block, or
the bytes themselves where the packed length is the unpacked length (HDF5's LZ4 filter).  A bitshuffled block is one LZ4
block, which decodes to bit planes: plane ``8 j + b`` holds bit ``b`` of byte ``j`` of every element of the block.
Elements beyond the last multiple of eight follow uncompressed.  Source of bitshuffle: Masui et al., Astronomy and
Computing 12 (2015) 181-190, doi:10.1016/j.ascom.2015.07.002; of LZ4: its block format description.

Every length in the input is checked against the end of the input and the end of the block before bytes are copied.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, int64, types, uint8, uint16, uint32, uint64, void
from numpy.typing import NDArray

from cdi_stream.numerics.compiled import compile_loop

Words = NDArray[np.uint64]
Octets = NDArray[np.uint8]
Elements = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32] | NDArray[np.uint64]

_INPUT = types.Array(uint8, 1, "C", readonly=True)
_ELEMENTS = (uint8, uint16, uint32, uint64)
_LEAST_MATCH = 4
"""Length of the shortest match of LZ4 [bytes], by its block format."""

_LAST_LITERALS = 5
"""Number of bytes at the end of an LZ4 block that are never part of a match, by its block format."""

_LAST_MATCH = 12
"""Smallest distance of the start of a match from the end of an LZ4 block [bytes], by its block format."""

_NIBBLES, _PAIRS, _BITS = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x3333333333333333), np.uint64(0x5555555555555555)
_HALVES, _QUARTERS, _BYTES = np.uint64(0x00000000FFFFFFFF), np.uint64(0x0000FFFF0000FFFF), np.uint64(0x00FF00FF00FF00FF)


def decompress_plain(packed: bytes | memoryview, n_bytes: int, block_bytes: int) -> memoryview:
    """Return the ``n_bytes`` bytes of an image from its plain blocks; ``packed`` begins with the first block.

    ``block_bytes`` is the length of an unpacked block [bytes].  The result is read-only.

    Raises
    ------
    ValueError
        If lengths of the input do not fit one another, the input or the image.
    """
    if block_bytes <= 0:
        raise ValueError(f"expected blocks of at least a byte, got {block_bytes}")
    image = np.empty(n_bytes, dtype=np.uint8)
    block = _decompress_plain(_octets(packed), image, min(block_bytes, n_bytes))
    if block >= 0:
        raise ValueError(f"block {block} does not decode to its length of at most {block_bytes} bytes")
    return image.data.toreadonly()


def decompress_shuffled(packed: bytes | memoryview, n_bytes: int, element_bytes: int, block_bytes: int) -> memoryview:
    """Return the ``n_bytes`` bytes of an image from its bitshuffled blocks; ``packed`` begins with the first block.

    ``element_bytes`` is the size of an element, ``block_bytes`` the length of an unpacked block [bytes].  The result is
    read-only.

    Raises
    ------
    ValueError
        If lengths of the input do not fit one another, the input or the image.
    """
    if element_bytes not in (1, 2, 4, 8) or n_bytes % element_bytes:
        raise ValueError(f"expected elements of 1, 2, 4 or 8 bytes in {n_bytes} bytes, got {element_bytes}")
    n_block, remainder = divmod(block_bytes, element_bytes)
    if n_block <= 0 or n_block % 8 or remainder:
        raise ValueError(f"expected blocks of a multiple of {8 * element_bytes} bytes, got {block_bytes}")
    image = np.empty(n_bytes // element_bytes, dtype=f"u{element_bytes}")
    n_block = min(n_block, -(-image.size // 8) * 8)
    planes = np.empty(-(-n_block // 64) * 8 * element_bytes, dtype=np.uint64)
    block = _decompress_shuffled(_octets(packed), image, n_block, planes)
    if block >= 0:
        raise ValueError(f"block {block} does not decode to its {n_block} elements of {element_bytes} bytes")
    return image.data.cast("B").toreadonly()


def _octets(packed: bytes | memoryview) -> Octets:
    content = np.frombuffer(packed, dtype=np.uint8)
    content.flags.writeable = False
    return content


@compile_loop
def _copy(target: Octets, source: Octets) -> None:  # pragma: no cover - compiled
    for k in range(target.shape[0]):
        target[k] = source[k]


@compile_loop
def _swap(
    a: np.uint64, b: np.uint64, shift: np.uint64, mask: np.uint64
) -> tuple[np.uint64, np.uint64]:  # pragma: no cover - compiled
    """Exchange the bits of ``a`` under ``mask << shift`` with the bits of ``b`` under ``mask``."""
    difference = ((a >> shift) ^ b) & mask
    return a ^ (difference << shift), b ^ difference


@compile_loop([int64(_INPUT, int64)])
def _packed_length(packed: Octets, at: int) -> int:  # pragma: no cover - compiled
    """Return the length of the block whose header begins at ``at``, or -1 if the input ends before."""
    if packed.shape[0] - at < 4:
        return -1
    length = int64(packed[at]) << 24 | int64(packed[at + 1]) << 16
    result: int = length | int64(packed[at + 2]) << 8 | int64(packed[at + 3])
    return result


@compile_loop
def _length(packed: Octets, at: int, end: int, nibble: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return a length that begins with ``nibble`` of a token and the place behind it, which is -1 if the input ends."""
    length, extra = nibble, int64(255 if nibble == 15 else 0)
    while extra == 255:
        if at >= end:
            return length, -1
        extra = int64(packed[at])
        at += 1
        length += extra
    return length, at


@compile_loop
def _copy_match(block: Octets, n_filled: int, offset: int, length: int) -> None:  # pragma: no cover - compiled
    """Repeat the last ``offset`` of ``n_filled`` bytes until ``length`` bytes are added."""
    start, n_copied = n_filled - offset, 0
    while n_copied < length:  # the source grows as bytes are added, so that no copy overlaps its source
        step = min(offset + n_copied, length - n_copied)
        _copy(block[n_filled + n_copied : n_filled + n_copied + step], block[start : start + step])
        n_copied += step


@compile_loop([int64(_INPUT, int64, int64, uint8[::1])])
def _decode_lz4(packed: Octets, at: int, end: int, block: Octets) -> int:  # pragma: no cover - compiled
    """Return the number of bytes that the LZ4 block ``packed[at:end]`` fills in ``block``; -1 if malformed."""
    n, n_filled = block.shape[0], 0
    while at < end:
        token = int64(packed[at])
        at += 1
        length, at = _length(packed, at, end, token >> 4)
        if at < 0 or length > end - at or length > n - n_filled:
            return -1
        _copy(block[n_filled : n_filled + length], packed[at : at + length])
        at += length
        n_filled += length
        if at == end:
            return n_filled
        if end - at < 2 or n_filled > n - _LAST_MATCH:
            return -1
        offset = int64(packed[at]) | int64(packed[at + 1]) << 8
        at += 2
        length, at = _length(packed, at, end, token & 15)
        length += _LEAST_MATCH
        if at < 0 or offset == 0 or offset > n_filled or length > n - _LAST_LITERALS - n_filled:
            return -1
        _copy_match(block, n_filled, offset, length)
        n_filled += length
    return -1


@compile_loop([boolean(uint64[::1], uint64[::1])])
def _bytes_of_planes(planes: Words, lane: Words) -> bool:  # pragma: no cover - compiled
    """Fill ``lane`` with one byte an element from eight bit planes; return False, and leave ``lane``, if all are 0."""
    n = lane.shape[0] // 8
    bits = np.uint64(0)
    for k in range(planes.shape[0]):
        bits |= planes[k]
    if bits == 0:
        return False
    for k in range(n):
        a, b, c, d = planes[k], planes[n + k], planes[2 * n + k], planes[3 * n + k]
        e, f, g, h = planes[4 * n + k], planes[5 * n + k], planes[6 * n + k], planes[7 * n + k]
        if a | b | c | d | e | f | g | h:
            a, e = _swap(a, e, np.uint64(4), _NIBBLES)
            b, f = _swap(b, f, np.uint64(4), _NIBBLES)
            c, g = _swap(c, g, np.uint64(4), _NIBBLES)
            d, h = _swap(d, h, np.uint64(4), _NIBBLES)
            a, c = _swap(a, c, np.uint64(2), _PAIRS)
            b, d = _swap(b, d, np.uint64(2), _PAIRS)
            e, g = _swap(e, g, np.uint64(2), _PAIRS)
            f, h = _swap(f, h, np.uint64(2), _PAIRS)
            a, b = _swap(a, b, np.uint64(1), _BITS)
            c, d = _swap(c, d, np.uint64(1), _BITS)
            e, f = _swap(e, f, np.uint64(1), _BITS)
            g, h = _swap(g, h, np.uint64(1), _BITS)
            a, e = _swap(a, e, np.uint64(32), _HALVES)
            b, f = _swap(b, f, np.uint64(32), _HALVES)
            c, g = _swap(c, g, np.uint64(32), _HALVES)
            d, h = _swap(d, h, np.uint64(32), _HALVES)
            a, c = _swap(a, c, np.uint64(16), _QUARTERS)
            b, d = _swap(b, d, np.uint64(16), _QUARTERS)
            e, g = _swap(e, g, np.uint64(16), _QUARTERS)
            f, h = _swap(f, h, np.uint64(16), _QUARTERS)
            a, b = _swap(a, b, np.uint64(8), _BYTES)
            c, d = _swap(c, d, np.uint64(8), _BYTES)
            e, f = _swap(e, f, np.uint64(8), _BYTES)
            g, h = _swap(g, h, np.uint64(8), _BYTES)
        row = lane[8 * k : 8 * k + 8]
        row[0], row[1], row[2], row[3] = a, b, c, d
        row[4], row[5], row[6], row[7] = e, f, g, h
    return True


@compile_loop([void(uint8[::1], int64, int64, int64)])
def _pad(block: Octets, n_planes: int, length: int, padded: int) -> None:  # pragma: no cover - compiled
    """Move planes of ``length`` bytes apart, in place, so that each begins at a multiple of ``padded`` bytes."""
    for plane in range(n_planes - 1, -1, -1):
        for k in range(padded - 1, -1, -1):
            block[plane * padded + k] = block[plane * length + k] if k < length else 0


@compile_loop([void(uint64[::1], e[::1], uint64[::1]) for e in _ELEMENTS])
def _elements_of_planes(planes: Words, target: Elements, lane: Words) -> None:  # pragma: no cover - compiled
    """Fill ``target`` from its bit planes of ``lane.size`` bytes each; ``lane`` is working memory."""
    octets, n_words = lane.view(np.uint8), lane.shape[0]
    is_blank = True
    for j in range(planes.shape[0] // n_words):
        if _bytes_of_planes(planes[j * n_words : (j + 1) * n_words], lane):
            shift = np.uint64(8 * j)
            if is_blank:
                for k in range(target.shape[0]):
                    target[k] = np.uint64(octets[k]) << shift
            else:
                for k in range(target.shape[0]):
                    target[k] |= np.uint64(octets[k]) << shift
            is_blank = False
    if is_blank:
        target[:] = 0


@compile_loop([int64(_INPUT, e[::1], int64, uint64[::1]) for e in _ELEMENTS])
def _decompress_shuffled(
    packed: Octets, image: Elements, n_block: int, planes: Words
) -> int:  # pragma: no cover - compiled
    """Fill ``image``; return -1, or the number of the first block that cannot be decoded.

    ``planes`` is working memory for the bit planes of ``n_block`` elements, each padded to whole words.
    """
    element_bytes = image.itemsize
    octets = planes.view(np.uint8)
    lane = np.empty(planes.shape[0] // element_bytes, np.uint64)
    n, end = image.shape[0], packed.shape[0]
    at, n_filled, number = 0, 0, 0
    while n - n_filled >= 8:
        size = min(n_block, (n - n_filled) // 8 * 8)
        length = _packed_length(packed, at)
        at += 4
        if length < 0 or length > end - at:
            return number
        n_bytes = size * element_bytes
        if _decode_lz4(packed, at, at + length, octets[:n_bytes]) != n_bytes:
            return number
        n_words = (size + 63) // 64
        if size % 64:
            _pad(octets, 8 * element_bytes, size // 8, 8 * n_words)
        part = planes[: n_words * 8 * element_bytes]
        _elements_of_planes(part, image[n_filled : n_filled + size], lane[: 8 * n_words])
        at += length
        n_filled += size
        number += 1
    n_tail_bytes = (n - n_filled) * element_bytes
    if n_tail_bytes and n_tail_bytes != end - at:
        return number
    _copy(image[n_filled:].view(np.uint8), packed[at : at + n_tail_bytes])
    return -1


@compile_loop([int64(_INPUT, uint8[::1], int64)])
def _decompress_plain(packed: Octets, image: Octets, n_block: int) -> int:  # pragma: no cover - compiled
    """Fill ``image``; return -1, or the number of the first block that cannot be decoded."""
    n, end = image.shape[0], packed.shape[0]
    at, n_filled, number = 0, 0, 0
    while n_filled < n:
        size = min(n_block, n - n_filled)
        length = _packed_length(packed, at)
        at += 4
        if length < 0 or length > end - at:
            return number
        target = image[n_filled : n_filled + size]
        if length == size:
            _copy(target, packed[at : at + length])
        elif _decode_lz4(packed, at, at + length, target) != size:
            return number
        at += length
        n_filled += size
        number += 1
    return -1
