"""Binary messages for browsers: a header in JSON, then arrays of numbers.

A message is the length of the header (32 bits, little-endian), the header, and the arrays one after another, each at a
place that is a multiple of four bytes.  ``arrays`` in the header lists ``name``, ``dtype`` (for example ``uint8``),
``shape`` and ``start``, the place behind the header [bytes].
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = ("uint8", "int8", "uint16", "uint32")
"""Data types of the arrays."""

MEDIA_TYPE = "application/vnd.cdi-stream.arrays"
"""Media type of a message over HTTP."""

_ALIGNMENT = 4


def to_bytes(header: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Return a message; raises `ValueError` for infinite numbers, and for an array of another data type."""
    blocks = {name: np.ascontiguousarray(array).tobytes() for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise ValueError(f"array {name}: expected a data type out of {', '.join(DTYPES)}, got {array.dtype.name}")
    places = _places(blocks)
    entries = [
        {"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "start": places[name]}
        for name, array in arrays.items()
    ]
    text = json.dumps({**header, "arrays": entries}, allow_nan=False).encode()
    text += b" " * (-(len(text) + 4) % _ALIGNMENT)
    padded = [block + bytes(-len(block) % _ALIGNMENT) for block in blocks.values()]
    return b"".join((struct.pack("<I", len(text)), text, *padded))


def from_bytes(message: bytes) -> tuple[dict[str, Any], dict[str, NDArray[np.generic]]]:
    """Return header and arrays of a message from `to_bytes`."""
    (n_header,) = struct.unpack_from("<I", message)
    header = json.loads(message[4 : 4 + n_header])
    arrays = {}
    for entry in header.pop("arrays"):
        count = int(np.prod(entry["shape"]))
        flat = np.frombuffer(message, np.dtype(entry["dtype"]), count, 4 + n_header + entry["start"])
        arrays[entry["name"]] = flat.reshape(entry["shape"])
    return header, arrays


def _places(blocks: Mapping[str, bytes]) -> dict[str, int]:
    """Return the place of each block behind the header [bytes]."""
    places, end = {}, 0
    for name, block in blocks.items():
        places[name] = end
        end += len(block) + -len(block) % _ALIGNMENT
    return places
