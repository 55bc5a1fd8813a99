"""Read arrays from messages: RFC 8746 typed arrays, multi-dimensional tags and compressed blobs."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Literal

import lz4.block
import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import WireError
from cdi_stream_plugins.decoders import decompression
from cdi_stream_plugins.decoders.cbor import Tag

ROW_MAJOR, COLUMN_MAJOR, COMPRESSED = 40, 1040, 56500

_DTYPES = {64: "u1", 65: ">u2", 66: ">u4", 67: ">u8", 68: "u1", 69: "<u2", 70: "<u4", 71: "<u8"}
_DTYPES |= {72: "i1", 73: ">i2", 74: ">i4", 75: ">i8", 77: "<i2", 78: "<i4", 79: "<i8"}
_DTYPES |= {81: ">f4", 82: ">f8", 85: "<f4", 86: "<f8"}

_BLOCK_BYTES = 8192
"""Default block size of bitshuffle [bytes], for headers without one."""

Compression = Literal["raw", "lz4", "bslz4"]
Bytes = bytes | memoryview


def read_array(item: object, max_pixels: int) -> NDArray[Any]:
    """Return a tagged two-dimensional array as a NumPy array; an uncompressed array is a view of the message.

    Raises
    ------
    WireError
        If tags, shape and bytes do not agree, or the shape exceeds ``max_pixels``.
    """
    if not (isinstance(item, Tag) and item.number in (ROW_MAJOR, COLUMN_MAJOR)):
        raise WireError(f"expected an array (tag 40), got {_kind(item)}")
    shape, typed_array = _pair(item.value)
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape)):
        raise WireError(f"expected the shape of an image, got {shape!r:.80}")
    _check_size(shape, max_pixels)
    if not (isinstance(typed_array, Tag) and typed_array.number in _DTYPES):
        raise WireError(f"expected a typed array (tags 64-87), got {_kind(typed_array)}")
    dtype = np.dtype(_DTYPES[typed_array.number])
    content = _bytes_of(typed_array.value, dtype, math.prod(shape) * dtype.itemsize)
    flat = np.frombuffer(content, dtype=dtype)
    return flat.reshape(shape) if item.number == ROW_MAJOR else flat.reshape(shape[::-1]).T


def image_of(
    blob: Bytes, shape: tuple[int, int], dtype: np.dtype[Any], compression: Compression, max_pixels: int
) -> NDArray[Any]:
    """Return the image ``(rows, cols)`` of a blob with a separate header; a raw image is a view of the message.

    Parameters
    ----------
    blob
        Pixels.  ``lz4`` is a bare block; ``bslz4`` may start with HDF5's header of 12 bytes, which may be zero.
    shape, dtype, compression
        Entries of the header.
    max_pixels
        Largest number of pixels.

    Raises
    ------
    WireError
        If shape and bytes do not agree, or the shape exceeds ``max_pixels``.
    """
    _check_size(shape, max_pixels)
    n_bytes = math.prod(shape) * dtype.itemsize
    match compression:
        case "raw":
            content: Bytes = blob
        case "lz4":
            content = _inflate_block(blob, n_bytes)
        case "bslz4":
            content = _decompress(_with_header(blob, n_bytes), "bslz4", dtype, n_bytes)
    if len(content) != n_bytes:
        raise WireError(f"expected {n_bytes} bytes of pixels for {shape[0]} x {shape[1]} {dtype}, got {len(content)}")
    return np.frombuffer(content, dtype=dtype).reshape(shape)


def _check_size(shape: Sequence[int], max_pixels: int) -> None:
    if math.prod(shape) > max_pixels:
        raise WireError(f"image of {shape[0]} x {shape[1]} pixels exceeds the limit of {max_pixels}")


def _inflate_block(blob: Bytes, n_bytes: int) -> bytes:
    try:
        result: bytes = lz4.block.decompress(blob, uncompressed_size=n_bytes)
        return result
    except (lz4.block.LZ4BlockError, ValueError, OverflowError, MemoryError) as error:
        raise WireError(f"lz4 image cannot be decompressed to {n_bytes} bytes: {error}") from error


def _with_header(blob: Bytes, n_bytes: int) -> Bytes:
    """Return a bitshuffled blob with its header, also where the sender set the header to zero or left it out."""
    n_announced, block_bytes = struct.unpack_from(">QI", blob) if len(blob) >= 12 else (n_bytes, 0)
    if n_announced == n_bytes:
        return blob
    content = blob[12:] if n_announced == 0 else blob  # no block has length 0, so the header was left zero
    return struct.pack(">QI", n_bytes, block_bytes if n_announced == 0 < block_bytes else _BLOCK_BYTES) + bytes(content)


def _bytes_of(value: object, dtype: np.dtype[Any], n_bytes: int) -> Bytes:
    if isinstance(value, Tag) and value.number == COMPRESSED:
        value = inflate(value.value, dtype, n_bytes)
    if not isinstance(value, bytes | memoryview) or len(value) != n_bytes:
        raise WireError(f"expected {n_bytes} bytes of pixels, got {_kind(value)}")
    return value


def inflate(parts: object, dtype: np.dtype[Any], n_bytes: int) -> Bytes:
    """Decompress [algorithm, element size, bytes], after a check that its announced size is ``n_bytes``."""
    if not (isinstance(parts, list) and len(parts) == 3 and isinstance(parts[2], memoryview)):
        raise WireError(f"expected [algorithm, element size, bytes], got {_kind(parts)}")
    algorithm, element_size, packed = parts
    if algorithm not in ("lz4", "bslz4") or element_size != dtype.itemsize:
        raise WireError(f"compression {algorithm!r:.20} of {element_size!r:.20}-byte elements does not fit {dtype}")
    content = _with_header(packed, n_bytes) if algorithm == "bslz4" else packed
    return _decompress(content, algorithm, dtype, n_bytes)


def _decompress(packed: Bytes, algorithm: decompression.Algorithm, dtype: np.dtype[Any], n_bytes: int) -> Bytes:
    if len(packed) < 12 or struct.unpack_from(">Q", packed)[0] != n_bytes:
        raise WireError(f"compressed image does not announce the expected {n_bytes} bytes")
    try:
        return decompression.decompress(packed, algorithm, dtype.itemsize, n_bytes)
    except (RuntimeError, ValueError, MemoryError) as error:
        raise WireError(f"{algorithm} image cannot be decompressed: {error}") from error


def _pair(value: object) -> tuple[object, object]:
    if not (isinstance(value, list) and len(value) == 2):
        raise WireError(f"expected [shape, array], got {_kind(value)}")
    return value[0], value[1]


def _kind(value: object) -> str:
    if isinstance(value, Tag):
        return f"tag {value.number}"
    size = f" of length {len(value)}" if hasattr(value, "__len__") else ""
    return type(value).__name__ + size
