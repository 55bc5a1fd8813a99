"""Section ``[detector]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from cdi_stream import addresses
from cdi_stream.config.section import Section, require_plugin
from cdi_stream.config.values import Address, Bytes, Counts, ExistingFile, Images, Name, Pixels

MAX_SIDE = 1_000_000
"""Most rows or columns of a detector."""


class DetectorConfig(Section):
    """Where frames come from, and what is known of the pixels.

    ``bad_pixels`` and ``white_field`` are npy or tif files of the full image; in the first, anything but
    0 is bad.
    """

    endpoint: Address
    socket: Literal["pull", "sub"] = "pull"
    bind: bool = Field(default=False, validate_default=True)
    format: str = "dectris2"
    channel: Name | None = None
    roi: tuple[int, int, int, int] | None = None
    max_pixels: Pixels = 40_000_000
    max_message_bytes: Bytes = 400_000_000
    max_queue_bytes: Bytes = 1 << 30
    max_images: Images = 20_000
    max_series_bytes: Bytes = 8 << 30
    bad_pixels: ExistingFile | None = None
    white_field: ExistingFile | None = None
    saturation_counts: Counts | None = None

    @field_validator("bind")
    @classmethod
    def _fits_the_address(cls, bind: bool, info: ValidationInfo) -> bool:
        address = addresses.parse(info.data["endpoint"]) if "endpoint" in info.data else None
        if address is None or not address.is_tcp:
            return bind
        if address.port is None:
            raise ValueError(f"expected a port in detector.endpoint, got {address.text!r}: the detector must know it")
        if address.is_wildcard and not bind:
            raise ValueError(
                f"expected detector.endpoint to name the detector's host, got {address.text!r}; set bind = true if the "
                "detector connects to this machine"
            )
        return bind

    @field_validator("format")
    @classmethod
    def _installed(cls, name: str) -> str:
        return require_plugin("cdi_stream.decoder", name)

    @field_validator("roi")
    @classmethod
    def _ordered(cls, roi: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        if roi is not None and not (0 <= roi[0] < roi[1] <= MAX_SIDE and 0 <= roi[2] < roi[3] <= MAX_SIDE):
            raise ValueError(
                "expected [first row, row after the last, first col, col after the last], "
                f"each pair growing, from 0 to {MAX_SIDE}"
            )
        return roi
