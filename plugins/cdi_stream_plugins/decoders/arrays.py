"""Arrays on the wire: RFC 8746 typed arrays, multi-dimensional tags and DECTRIS compression."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from dectris.compression import decompress
from numpy.typing import NDArray

from cdi_stream.errors import WireError
from cdi_stream_plugins.decoders.cbor import Tag

ROW_MAJOR, COLUMN_MAJOR, COMPRESSED = 40, 1040, 56500

_DTYPES = {64: "u1", 65: ">u2", 66: ">u4", 67: ">u8", 68: "u1", 69: "<u2", 70: "<u4", 71: "<u8"}
_DTYPES |= {72: "i1", 73: ">i2", 74: ">i4", 75: ">i8", 77: "<i2", 78: "<i4", 79: "<i8"}
_DTYPES |= {81: ">f4", 82: ">f8", 85: "<f4", 86: "<f8"}


def read_array(item: Any, max_pixels: int) -> NDArray[Any]:
    """Turn a tagged two-dimensional array into numpy; uncompressed ones are views of the message.

    Raises
    ------
    WireError
        If tags, shape and bytes do not agree, or the shape exceeds ``max_pixels``.
    """
    if not (isinstance(item, Tag) and item.number in (ROW_MAJOR, COLUMN_MAJOR)):
        raise WireError(f"expected an array (tag 40), got {_kind(item)}")
    shape, typed = _pair(item.value)
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape)):
        raise WireError(f"expected the shape of an image, got {shape!r:.80}")
    if math.prod(shape) > max_pixels:
        raise WireError(f"image of {shape[0]} x {shape[1]} pixels exceeds the limit of {max_pixels}")
    if not (isinstance(typed, Tag) and typed.number in _DTYPES):
        raise WireError(f"expected a typed array (tags 64-87), got {_kind(typed)}")
    dtype = np.dtype(_DTYPES[typed.number])
    content = _bytes_of(typed.value, dtype, math.prod(shape) * dtype.itemsize)
    flat = np.frombuffer(content, dtype=dtype)
    return flat.reshape(shape) if item.number == ROW_MAJOR else flat.reshape(shape[::-1]).T


def _bytes_of(value: Any, dtype: np.dtype[Any], n_bytes: int) -> bytes | memoryview:
    if isinstance(value, Tag) and value.number == COMPRESSED:
        value = inflate(value.value, dtype, n_bytes)
    if not isinstance(value, bytes | memoryview) or len(value) != n_bytes:
        raise WireError(f"expected {n_bytes} bytes of pixels, got {_kind(value)}")
    return value


def inflate(parts: Any, dtype: np.dtype[Any], n_bytes: int) -> bytes:
    """Decompress [algorithm, element size, bytes] after holding its announced size against ``n_bytes``."""
    if not (isinstance(parts, list) and len(parts) == 3 and isinstance(parts[2], memoryview)):
        raise WireError(f"expected [algorithm, element size, bytes], got {_kind(parts)}")
    algorithm, element_size, packed = parts
    if algorithm not in ("lz4", "bslz4") or element_size != dtype.itemsize:
        raise WireError(f"compression {algorithm!r:.20} of {element_size!r:.20}-byte elements does not fit {dtype}")
    if len(packed) < 12 or struct.unpack_from(">Q", packed)[0] != n_bytes:
        raise WireError(f"compressed image does not announce the expected {n_bytes} bytes")
    try:
        return decompress(packed, algorithm, elem_size=dtype.itemsize)
    except (RuntimeError, ValueError, MemoryError) as error:
        raise WireError(f"{algorithm} image cannot be decompressed: {error}") from error


def _pair(value: Any) -> tuple[Any, Any]:
    if not (isinstance(value, list) and len(value) == 2):
        raise WireError(f"expected [shape, array], got {_kind(value)}")
    return value[0], value[1]


def _kind(value: Any) -> str:
    if isinstance(value, Tag):
        return f"tag {value.number}"
    size = f" of length {len(value)}" if hasattr(value, "__len__") else ""
    return type(value).__name__ + size
