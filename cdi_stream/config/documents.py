"""Section ``[documents]``."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationInfo, field_validator

from cdi_stream import addresses
from cdi_stream.config.section import Section
from cdi_stream.config.values import BusPeer, Name, Prefix


class BusConfig(Section):
    """How to listen to Bluesky's documents: ``subscribe`` is the proxy's out address.

    ``series_readings`` and ``image_readings`` are ends of the data keys by which events name a detector's series and
    its images.
    """

    subscribe: BusPeer
    prefix: Prefix = ""
    serializer: Literal["msgpack", "json", "pickle"] = "msgpack"
    series_readings: tuple[Name, ...] = ("series_id", "series", "sequence_id")
    image_readings: tuple[Name, ...] = ("image_id", "frame_id", "unique_id")


class DocumentsConfig(BusConfig):
    """The Bluesky bus, both ways: ``publish`` is the proxy's in address."""

    publish: BusPeer

    @field_validator("publish")
    @classmethod
    def _another_port(cls, publish: str, info: ValidationInfo) -> str:
        subscribe = info.data.get("subscribe")
        if subscribe is not None and addresses.parse(publish).place == addresses.parse(subscribe).place:
            raise ValueError(
                "expected the proxy's in address, which differs from documents.subscribe, its out address: "
                "with one address documents would go round in a loop"
            )
        return publish
