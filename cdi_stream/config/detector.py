"""Section ``[detector]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from cdi_stream import addresses
from cdi_stream.config.section import Section, require_plugin
from cdi_stream.config.values import Address, Bytes, Counts, ExistingFile, Images, Name, Pixels

MAX_SIDE = 1_000_000
"""Largest number of rows or columns in ``detector.roi`` [pixels]: a larger number is a mistyped one."""


class DetectorConfig(Section):
    """Stream of the detector, limits of its messages, and images of its bad pixels and its sensitivity."""

    endpoint: Address = Field(
        description="ZeroMQ address of the detector's stream, for example tcp://detector:31001.",
    )
    socket: Literal["pull", "sub"] = Field(
        default="pull",
        description=(
            "Kind of socket: pull, straight from the detector; sub, from a proxy such as cdi-stream tee. A detector "
            "sends each frame to one puller only, so a second pull takes frames away from the file writer."
        ),
    )
    bind: bool = Field(
        default=False,
        validate_default=True,
        description=(
            "Whether the service binds the address and the detector connects; by default the service connects."
        ),
    )
    format: str = Field(
        default="dectris2",
        description=(
            "Wire format, the name of a decoder plugin: dectris2 (CBOR), dectris1 (JSON, legacy), array1 "
            "(areaDetector), or the name of an installed plugin."
        ),
    )
    channel: Name | None = Field(
        default=None,
        description=(
            "Threshold channel to read where the detector sends several; by default the first of each message."
        ),
    )
    roi: tuple[int, int, int, int] | None = Field(
        default=None,
        description=(
            "Region of interest as [first row, row after the last, first column, column after the last] in pixels of "
            "the full image; by default the full image."
        ),
    )
    max_pixels: Pixels = Field(
        default=40_000_000,
        description="Largest image that a decoder accepts, in pixels; a larger image is counted as bad.",
    )
    max_message_bytes: Bytes = Field(
        default=400_000_000,
        description=(
            "Largest message that the socket accepts, in bytes; ZeroMQ drops the connection of a larger message."
        ),
    )
    max_queue_bytes: Bytes = Field(
        default=1 << 30,
        description="Memory for messages that wait in the socket, in bytes.",
    )
    max_images: Images = Field(
        default=20_000,
        description="Largest number of frames in one series; further frames are counted as bad.",
    )
    max_series_bytes: Bytes = Field(
        default=8 << 30,
        description=(
            "Memory for the frames of one series, in bytes. All open series together take at most twice this value, "
            "and at most a quarter of the machine's memory."
        ),
    )
    bad_pixels: ExistingFile | None = Field(
        default=None,
        description=(
            "Image of the full detector, npy or tif, in which any value but 0 marks a pixel not to be used; by default "
            "only the mask of the stream is used."
        ),
    )
    white_field: ExistingFile | None = Field(
        default=None,
        description=(
            "Image of the full detector, npy or tif, with the relative sensitivity of each pixel. It scales the "
            "expected counts; the data are not divided by it. By default all pixels are equal."
        ),
    )
    saturation_counts: Counts | None = Field(
        default=None,
        description=(
            "Counts from which a pixel is saturated and not used; by default the value that the detector sends, and "
            "the largest value of the data type."
        ),
    )

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
