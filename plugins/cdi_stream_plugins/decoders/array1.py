"""Decode ``array-1.0`` (PSI htypes), the format in which ADZMQ sends images of areaDetector cameras.

A message is a JSON header and a blob.  The format has no series, start or end: frames have ``series=None`` and a
running number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cdi_stream.errors import WireError
from cdi_stream.messages import Box, DetectorFrame, WireMessage
from cdi_stream_plugins.decoders import fields
from cdi_stream_plugins.decoders.arrays import Compression, image_of

_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")
_CODECS: dict[str, Compression] = {"": "raw", "raw": "raw", "none": "raw", "lz4": "lz4", "bslz4": "bslz4"}


class Array1Decoder:
    """Decoder of one image for each message; images are cut to ``roi``.

    ``shape`` is [rows, cols].  ADZMQ before 1.4.0 sent [cols, rows]; such messages have ``htype`` as a list, and
    ``ndattr``.
    """

    def __init__(self, *, roi: Box | None = None, channel: str | None = None, max_pixels: int = 40_000_000) -> None:
        del channel  # the format has one channel
        self._roi = roi
        self._max_pixels = max_pixels

    def decode(self, parts: Sequence[bytes | memoryview]) -> Iterator[WireMessage]:
        """Decode one message; raises `WireError` if it is malformed."""
        header = fields.read_json(parts[0]) if parts else {}
        if fields.htype(header) != "array-1.0" or len(parts) < 2:
            raise WireError(f"expected htype array-1.0 and pixels, got {header.get('htype')!r:.40}, {len(parts)} parts")
        dtype, codec = _dtype(header), header.get("encoding") or ""
        if not isinstance(codec, str) or codec not in _CODECS:
            raise WireError(
                f"expected an encoding out of raw, lz4, bslz4, got {codec!r:.40}: change the NDCodec plugin"
            )
        image = image_of(parts[1], _shape(header), dtype, _CODECS[codec], self._max_pixels)
        frame = fields.image_id(header.get("frame"), "frame")
        pixels = fields.cut(image, self._roi)
        yield DetectorFrame(series=None, image_id=frame, pixels=pixels, wire=(parts[0], parts[1]))


def _shape(header: Mapping[str, Any]) -> tuple[int, int]:
    shape = header.get("shape")
    if not (isinstance(shape, list) and len(shape) >= 2 and all(fields.count(n) for n in shape)):
        raise WireError(f"expected the shape of an image, got {shape!r:.60}")
    if isinstance(header["htype"], list) and "ndattr" in header:
        shape = shape[::-1]
    if any(n != 1 for n in shape[:-2]):
        raise WireError(f"expected a two-dimensional image, got shape {shape!r:.60}")
    return shape[-2], shape[-1]


def _dtype(header: Mapping[str, Any]) -> np.dtype[Any]:
    kind = header.get("type")
    if kind not in _DTYPES:
        raise WireError(f"expected a type out of {', '.join(_DTYPES)}, got {kind!r:.40}")
    result: np.dtype[Any] = np.dtype(kind).newbyteorder(">" if header.get("endianness") == "big" else "<")
    return result
