"""Decode DECTRIS stream v1 ("legacy"): JSON headers and blobs as parts of multipart messages (SIMPLON API 1.8).

Shapes in the messages are [width, height]; decoded shapes are (rows, cols).  The decoder accepts deviations of real
senders: header and configuration as separate messages, several messages in one multipart, images without ``dconfig``,
bitshuffled blobs whose 12-byte header is zero or missing, wrong sizes and hashes.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import WireError
from cdi_stream.messages import Box, DetectorFrame, SeriesEnd, SeriesStart, WireMessage
from cdi_stream_plugins.decoders import fields
from cdi_stream_plugins.decoders.arrays import Compression, image_of

HEADER, IMAGE, END = "dheader-1.0", "dimage-1.0", "dseries_end-1.0"
_BEGINNINGS = (HEADER, IMAGE, END)
_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")
_ENCODING = re.compile(r"(?:raw|(?:bs(8|16|32|64)-?)?(lz4)?)([<>]?)")
_AXES = ("chi", "kappa", "omega", "phi", "two_theta")

Part = bytes | memoryview


class Dectris1Decoder:
    """Decoder of header, image and end messages; images are cut to ``roi``.

    The decoder remembers the last series, because its configuration may follow in a message without its number.
    """

    def __init__(self, *, roi: Box | None = None, channel: str | None = None, max_pixels: int = 40_000_000) -> None:
        del channel  # the format has one channel
        self._roi = roi
        self._max_pixels = max_pixels
        self._series: int | str | None = None

    def decode(self, parts: Sequence[Part]) -> Iterator[WireMessage]:
        """Yield the messages in one multipart; raises `WireError` at the first malformed message."""
        queue = deque(parts)
        while queue:
            first = queue.popleft()
            header = fields.read_json(first)
            match fields.htype(header):
                case "dheader-1.0":
                    yield self._start(header, _until_next(queue, 1))
                case "dimage-1.0":
                    yield self._image(first, header, _until_next(queue, 2))
                case "dseries_end-1.0":
                    _until_next(queue, 0)
                    yield SeriesEnd(series=fields.series_id(header.get("series"), "series"))
                case None if self._series is not None and "trigger_mode" in header:
                    yield self._configured(self._series, header, _until_next(queue, 0))
                case other:
                    raise WireError(f"expected htype {', '.join(_BEGINNINGS)}, got {other!r:.40}")

    def _start(self, header: Mapping[str, Any], parts: deque[Part]) -> SeriesStart:
        self._series = fields.series_id(header.get("series"), "series")
        has_config = bool(parts) and header.get("header_detail") != "none"
        return self._configured(self._series, fields.read_json(parts.popleft()) if has_config else {}, parts)

    def _configured(self, series: int | str, config: Mapping[str, Any], parts: deque[Part]) -> SeriesStart:
        mask, appendix = self._mask_and_appendix(parts)
        values = {key: value["value"] if isinstance(value, dict) and "value" in value else value
                  for key, value in config.items()}  # fmt: skip
        rows, cols = (values.get(f"{axis}_pixels_in_detector") for axis in "yx")
        return SeriesStart(
            series=series,
            n_images=_n_images(values),
            image_shape=fields.image_shape(rows, cols, self._max_pixels),
            image_dtype=fields.image_dtype(f"uint{fields.count(values.get('bit_depth_image'))}"),
            roi=self._roi,
            pixel_mask=mask,
            goniometer=fields.goniometer(
                {axis: (values.get(f"{axis}_start"), values.get(f"{axis}_increment")) for axis in _AXES}
            ),
            photon_energy_ev=fields.positive(values.get("photon_energy")),
            pixel_row_m=fields.positive(values.get("y_pixel_size")),
            pixel_col_m=fields.positive(values.get("x_pixel_size")),
            distance_m=fields.positive(values.get("detector_distance")),
            beam_row=fields.number(values.get("beam_center_y")),
            beam_col=fields.number(values.get("beam_center_x")),
            count_time_s=fields.positive(values.get("count_time")),
            user_data=appendix,
        )

    def _mask_and_appendix(self, parts: deque[Part]) -> tuple[NDArray[np.bool_] | None, str | None]:
        """Return mask and appendix of the parts behind a configuration: (JSON, blob) pairs, then the appendix."""
        mask, appendix = None, None
        while parts:
            part = parts.popleft()
            kind = _kind(part)
            if kind is None or not parts:
                appendix = bytes(part[: fields.MAX_JSON_BYTES]).decode(errors="replace")
            elif kind.startswith("dpixelmask"):
                mask = self._mask(fields.read_json(part), parts.popleft())
            else:
                parts.popleft()
        return mask, appendix

    def _mask(self, header: Mapping[str, Any], blob: Part) -> NDArray[np.bool_] | None:
        """Return the mask, true where a pixel may be used; None for a mask that is not an image."""
        try:
            result: NDArray[np.bool_] | None = fields.cut(self._array(header, blob), self._roi) == 0
            return result
        except WireError:
            return None

    def _image(self, first: Part, header: Mapping[str, Any], parts: deque[Part]) -> DetectorFrame:
        if len(parts) < 2:
            raise WireError(
                f"image message: expected dimage_d-1.0 and pixels behind dimage-1.0, got {len(parts)} parts"
            )
        image_id = fields.image_id(header.get("frame"), "frame")
        pixels = fields.cut(self._array(fields.read_json(parts[0]), parts[1]), self._roi)
        real_time = fields.read_json(parts[2]).get("real_time") if len(parts) > 2 and _kind(parts[2]) else None
        exposure_ns = fields.positive(real_time)
        return DetectorFrame(
            series=fields.series_id(header.get("series"), "series"),
            image_id=image_id,
            pixels=pixels,
            exposure_s=None if exposure_ns is None else exposure_ns / 1e9,
            wire=(first, *parts),
        )

    def _array(self, header: Mapping[str, Any], blob: Part) -> NDArray[Any]:
        shape, kind = header.get("shape"), header.get("type")
        if not (isinstance(shape, list) and len(shape) >= 2 and all(fields.count(n) for n in shape)):
            raise WireError(f"expected shape [width, height], got {shape!r:.60}")
        if len(shape) > 2 and any(n != 1 for n in shape[2:]):
            raise WireError(f"expected a two-dimensional image, got shape {shape!r:.60}")
        if kind not in _DTYPES:
            raise WireError(f"expected a type out of {', '.join(_DTYPES)}, got {kind!r:.40}")
        compression, order = _encoding(header.get("encoding", ""))
        dtype = np.dtype(kind).newbyteorder(order)
        return image_of(blob, (shape[1], shape[0]), dtype, compression, self._max_pixels)


def _until_next(queue: deque[Part], n_positional: int) -> deque[Part]:
    """Remove and return the parts of a message: ``n_positional`` of any content, then all up to the next header."""
    message: deque[Part] = deque()
    if n_positional == 1 and queue and _kind(queue[0]) in _BEGINNINGS:
        n_positional = 0  # a header of detail "none", directly followed by the next message
    while queue and (len(message) < n_positional or _kind(queue[0]) not in _BEGINNINGS):
        message.append(queue.popleft())
    return message


def _kind(part: Part) -> str | None:
    """Return the ``htype`` of a part; None if the part is no short JSON object with an ``htype``."""
    if len(part) > 4096 or bytes(part[:1]) != b"{":
        return None
    try:
        return fields.htype(fields.read_json(part))
    except WireError:
        return None


def _encoding(text: Any) -> tuple[Compression, str]:
    """Return compression and byte order of an encoding ``[bs<bits>-][lz4][<|>]``."""
    match = _ENCODING.fullmatch(text) if isinstance(text, str) else None
    if match is None or (match[1] and not match[2]):
        raise WireError(f"expected an encoding like 'lz4<', 'bs16-lz4<' or '<', got {text!r:.40}")
    compression: Compression = "bslz4" if match[1] else "lz4" if match[2] else "raw"
    return compression, match[3] or "<"


def _n_images(config: Mapping[str, Any]) -> int | None:
    n_images, n_trigger = fields.count(config.get("nimages")), fields.count(config.get("ntrigger"))
    if not n_images:
        return n_trigger or None
    return fields.count(n_images * (n_trigger or 1))
