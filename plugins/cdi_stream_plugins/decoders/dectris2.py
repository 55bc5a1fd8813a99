"""Decode DECTRIS stream v2: one CBOR map for each message (SIMPLON API, ``stream/api/1.8.0``, format cbor)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from cdi_stream.errors import WireError
from cdi_stream.messages import Box, DetectorFrame, SeriesEnd, SeriesStart, WireMessage
from cdi_stream_plugins.decoders import fields
from cdi_stream_plugins.decoders.arrays import read_array
from cdi_stream_plugins.decoders.cbor import CborReader, Tag


class Dectris2Decoder:
    """Decoder of start, image and end messages; images are cut to ``roi``.

    With several thresholds the first channel is used, or ``channel``.  The data type comes from the tag of the array,
    not from the start message.  The flat field in the start message is not used, since the detector
    applies it by default.
    """

    def __init__(self, *, roi: Box | None = None, channel: str | None = None, max_pixels: int = 40_000_000) -> None:
        self._roi = roi
        self._channel = channel
        self._max_pixels = max_pixels

    def decode(self, parts: Sequence[bytes | memoryview]) -> Iterator[WireMessage]:
        """Yield the messages in one multipart; raises `WireError` at the first malformed message."""
        if not parts:
            raise WireError("expected a CBOR map, got an empty message")
        for part in parts:
            if bytes(part[:1]) == b"{":
                raise WireError(
                    "expected a CBOR map, got JSON: set the detector to format cbor, or detector.format to dectris1"
                )
            yield self._message(CborReader(memoryview(part)).read(), part)

    def _message(self, item: Any, part: bytes | memoryview) -> WireMessage:
        while isinstance(item, Tag) and item.number == 55799:
            item = item.value
        if not isinstance(item, dict):
            raise WireError(f"expected a CBOR map, got {type(item).__name__}")
        match item.get("type"):
            case "start":
                return self._start(item)
            case "image":
                return self._image(item, part)
            case "end":
                return SeriesEnd(series=_series(item))
            case other:
                raise WireError(f"expected a start, image or end message, got type {other!r:.40}")

    def _image(self, item: Mapping[str, Any], part: bytes | memoryview) -> DetectorFrame:
        image_id = fields.image_id(item.get("image_id"), "image_id")
        pixels = fields.cut(read_array(self._of_channel(item.get("data")), self._max_pixels), self._roi)
        exposure_s = _ratio(item.get("real_time"))
        return DetectorFrame(
            series=_series(item), image_id=image_id, pixels=pixels, exposure_s=exposure_s, wire=(part,)
        )

    def _of_channel(self, channels: Any) -> Any:
        if not isinstance(channels, dict) or not channels:
            raise WireError("image message without data")
        if self._channel is None:
            return next(iter(channels.values()))
        if self._channel not in channels:
            raise WireError(f"expected channel {self._channel!r}, got {sorted(map(str, channels))!s:.200}")
        return channels[self._channel]

    def _start(self, item: Mapping[str, Any]) -> SeriesStart:
        mask = self._map_of(item.get("pixel_mask"))
        return SeriesStart(
            series=_series(item),
            n_images=fields.count(item.get("number_of_images")) or None,
            image_shape=fields.image_shape(item.get("image_size_y"), item.get("image_size_x"), self._max_pixels),
            image_dtype=fields.image_dtype(item.get("image_dtype")),
            roi=self._roi,
            pixel_mask=None if mask is None else mask == 0,
            goniometer=_goniometer(item.get("goniometer")),
            photon_energy_ev=fields.positive(item.get("incident_energy")),
            pixel_row_m=fields.positive(item.get("pixel_size_y")),
            pixel_col_m=fields.positive(item.get("pixel_size_x")),
            distance_m=_distance(item.get("detector_translation")),
            beam_row=fields.number(item.get("beam_center_y")),
            beam_col=fields.number(item.get("beam_center_x")),
            saturation_counts=fields.positive(item.get("saturation_value")),
            count_time_s=fields.positive(item.get("count_time")),
            user_data=item.get("user_data"),
        )

    def _map_of(self, channels: Any) -> NDArray[Any] | None:
        """Return the mask of the decoded channel; None for a mask that is not an array."""
        try:
            if channels is None:
                return None
            return fields.cut(read_array(self._of_channel(channels), self._max_pixels), self._roi)
        except WireError:
            return None


def _series(item: Mapping[str, Any]) -> int | str:
    return fields.series_id(item.get("series_id", item.get("series_unique_id")), "series_id")


def _ratio(value: Any) -> float | None:
    """Return [numerator, timebase] as seconds."""
    if isinstance(value, list) and len(value) == 2:
        top, bottom = fields.count(value[0]), fields.positive(value[1])
        return None if top is None or bottom is None else fields.number(top / bottom)
    return None


def _distance(translation: Any) -> float | None:
    """Return the detector distance [m], or None; some detectors count it against their own z axis."""
    along_beam = fields.number(translation[2]) if isinstance(translation, list) and len(translation) == 3 else None
    return abs(along_beam) if along_beam else None


def _goniometer(value: Any) -> dict[str, tuple[float, float]]:
    axes = value.items() if isinstance(value, dict) else ()
    return fields.goniometer({str(k): (a.get("start"), a.get("increment")) for k, a in axes if isinstance(a, dict)})
