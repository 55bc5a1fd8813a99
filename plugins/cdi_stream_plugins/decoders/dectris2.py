"""DECTRIS stream v2: one CBOR map a message (SIMPLON API, ``stream/api/1.8.0``, format cbor)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from cdi_stream.errors import WireError
from cdi_stream.messages import Box, DetectorFrame, SeriesEnd, SeriesStart, WireMessage
from cdi_stream_plugins.decoders.arrays import read_array
from cdi_stream_plugins.decoders.cbor import CborReader, Tag


class Dectris2Decoder:
    """Decodes start, image and end messages; images are cut to ``roi`` as they are decoded.

    With several thresholds the first channel of the data is taken, or the one named.  The data type comes
    from the array's own tag, never from the start message.  The start message's flat field is left alone: the
    detector has applied it already, unless told otherwise.
    """

    def __init__(self, *, roi: Box | None = None, channel: str | None = None, max_pixels: int = 40_000_000) -> None:
        self._roi = roi
        self._channel = channel
        self._max_pixels = max_pixels

    def decode(self, parts: Sequence[bytes | memoryview]) -> WireMessage | None:
        """Decode one message; raises `WireError` if it is malformed."""
        if len(parts) != 1:
            raise WireError(f"expected one part, got {len(parts)}: is the detector set to format cbor?")
        item = CborReader(memoryview(parts[0])).read()
        while isinstance(item, Tag) and item.number == 55799:
            item = item.value
        if not isinstance(item, dict):
            raise WireError(f"expected a CBOR map, got {type(item).__name__}")
        match item.get("type"):
            case "start":
                return self._start(item)
            case "image":
                return self._image(item)
            case "end":
                return SeriesEnd(series=_series(item))
            case other:
                raise WireError(f"expected a start, image or end message, got type {other!r:.40}")

    def _image(self, item: Mapping[str, Any]) -> DetectorFrame:
        image_id = item.get("image_id")
        if not isinstance(image_id, int) or image_id < 0:
            raise WireError(f"expected image_id, a count from 0, got {image_id!r:.40}")
        pixels = self._cut(read_array(self._of_channel(item.get("data")), self._max_pixels))
        exposure = item.get("real_time")
        return DetectorFrame(series=_series(item), image_id=image_id, pixels=pixels, exposure_s=_ratio(exposure))

    def _of_channel(self, channels: Any) -> Any:
        if not isinstance(channels, dict) or not channels:
            raise WireError("image message without data")
        if self._channel is None:
            return next(iter(channels.values()))
        if self._channel not in channels:
            raise WireError(f"expected channel {self._channel!r}, got {sorted(map(str, channels))}")
        return channels[self._channel]

    def _start(self, item: Mapping[str, Any]) -> SeriesStart:
        rows, cols = _positive(item, "image_size_y"), _positive(item, "image_size_x")
        translation = item.get("detector_translation")
        mask = self._map_of(item.get("pixel_mask"))
        n_images = item.get("number_of_images")
        return SeriesStart(
            series=_series(item),
            n_images=n_images if isinstance(n_images, int) and n_images > 0 else None,
            image_shape=(int(rows), int(cols)) if rows and cols else None,
            roi=self._roi,
            pixel_mask=None if mask is None else mask == 0,
            goniometer=_goniometer(item.get("goniometer")),
            photon_energy_ev=_positive(item, "incident_energy"),
            pixel_row_m=_positive(item, "pixel_size_y"),
            pixel_col_m=_positive(item, "pixel_size_x"),
            distance_m=_distance(translation),
            beam_row=_number(item.get("beam_center_y")),
            beam_col=_number(item.get("beam_center_x")),
            saturation_counts=_positive(item, "saturation_value"),
            count_time_s=_positive(item, "count_time"),
            user_data=item.get("user_data"),
        )

    def _map_of(self, channels: Any) -> NDArray[Any] | None:
        """Mask of our channel; one that is not an array is as good as none."""
        try:
            if channels is None:
                return None
            return self._cut(read_array(self._of_channel(channels), self._max_pixels))
        except WireError:
            return None

    def _cut(self, image: NDArray[Any]) -> NDArray[Any]:
        if self._roi is None:
            return image
        row, row_stop, col, col_stop = self._roi
        if row_stop > image.shape[0] or col_stop > image.shape[1]:
            raise WireError(f"region of interest {self._roi} does not fit an image of {image.shape}")
        return image[row:row_stop, col:col_stop]


def _series(item: Mapping[str, Any]) -> int | str:
    series = item.get("series_id", item.get("series_unique_id"))
    if not isinstance(series, int | str):
        raise WireError(f"expected series_id, got {series!r:.40}")
    return series


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _positive(item: Mapping[str, Any], key: str) -> float | None:
    value = _number(item.get(key))
    return value if value is not None and value > 0 else None


def _ratio(value: Any) -> float | None:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) for n in value) and value[1] > 0:
        return value[0] / value[1]
    return None


def _distance(translation: Any) -> float | None:
    if isinstance(translation, list) and len(translation) == 3:
        distance = _number(translation[2])
        return distance if distance and distance > 0 else None
    return None


def _goniometer(value: Any) -> dict[str, tuple[float, float]]:
    if not isinstance(value, dict):
        return {}
    axes = {}
    for name, axis in value.items():
        if isinstance(axis, dict):
            start, increment = _number(axis.get("start")), _number(axis.get("increment"))
            if start is not None and increment is not None:
                axes[str(name)] = (start, increment)
    return axes
