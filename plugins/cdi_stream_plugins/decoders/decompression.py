"""Decompression of images behind HDF5's header of 12 bytes, by the fastest backend that is installed.

Backends: ``compiled`` (`cdi_stream_plugins.decoders.lz4_images`, always there) and ``dectris`` (the package
``dectris-compression``, extra ``fast``).  Both refuse the same input; figures are in decision record 0014.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Literal

from cdi_stream_plugins.decoders import lz4_images

Algorithm = Literal["lz4", "bslz4"]
Bytes = bytes | memoryview
Backend = Callable[[Bytes, Algorithm, int, int], Bytes]
"""Function from packed bytes, algorithm, element size [bytes] and image size [bytes] to the image's bytes.

It raises `ValueError`, `RuntimeError` or `MemoryError` for input that does not decode to the image."""

HEADER_BYTES = 12
"""Length of HDF5's header [bytes]: image size (8 bytes) and block size (4 bytes), both big-endian."""


def decompress_compiled(packed: Bytes, algorithm: Algorithm, element_bytes: int, n_bytes: int) -> Bytes:
    """Return the bytes of an image by the kernels of this package; raises `ValueError`."""
    (block_bytes,) = struct.unpack_from(">I", packed, HEADER_BYTES - 4)
    blocks = memoryview(packed)[HEADER_BYTES:]
    if algorithm == "lz4":
        return lz4_images.decompress_plain(blocks, n_bytes, block_bytes)
    return lz4_images.decompress_shuffled(blocks, n_bytes, element_bytes, block_bytes)


def _installed() -> Mapping[str, Backend]:
    """Return the backends of this environment by name, the fastest on sparse images first."""
    try:
        from dectris.compression import decompress
    except ImportError:
        return {"compiled": decompress_compiled}

    def decompress_dectris(packed: Bytes, algorithm: Algorithm, element_bytes: int, n_bytes: int) -> Bytes:
        """Return the bytes of an image by the package of the detector's maker."""
        content: bytes = decompress(packed, algorithm, elem_size=element_bytes)
        return content

    return {"dectris": decompress_dectris, "compiled": decompress_compiled}


BACKENDS = _installed()
"""Backends of this environment by name; the first is the default."""

_default = next(iter(BACKENDS.values()))


def decompress(packed: Bytes, algorithm: Algorithm, element_bytes: int, n_bytes: int) -> Bytes:
    """Return the bytes of an image by the default backend; ``packed`` begins with HDF5's header.

    Raises
    ------
    ValueError, RuntimeError, MemoryError
        If the input does not decode to the image.
    """
    return _default(packed, algorithm, element_bytes, n_bytes)
