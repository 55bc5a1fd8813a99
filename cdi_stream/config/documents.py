"""Section ``[documents]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from cdi_stream import addresses
from cdi_stream.config.section import Section
from cdi_stream.config.values import BusPeer, Name, Prefix


class BusConfig(Section):
    """How the service listens to Bluesky's documents."""

    subscribe: BusPeer = Field(
        description=(
            "ZeroMQ address of the document proxy's out side, where documents are heard, for example tcp://proxy:5578."
        ),
    )
    prefix: Prefix = Field(
        default="",
        description="Prefix of the documents on the bus, without blanks; by default none.",
    )
    serializer: Literal["msgpack", "json", "pickle"] = Field(
        default="msgpack",
        description=(
            "Encoding of the documents: msgpack, json or pickle. With msgpack and json, pickled documents are refused, "
            "counted and shown as an alarm. Take pickle only on a network where everybody may run code here: "
            "unpickling runs the sender's code."
        ),
    )
    series_readings: tuple[Name, ...] = Field(
        default=("series_id", "series", "sequence_id"),
        description="Ends of the data keys by which an event names the detector's series.",
    )
    image_readings: tuple[Name, ...] = Field(
        default=("image_id", "frame_id", "unique_id"),
        description="Ends of the data keys by which an event names a detector image.",
    )


class DocumentsConfig(BusConfig):
    """Bluesky's document bus, in both directions."""

    publish: BusPeer = Field(
        description=(
            "ZeroMQ address of the document proxy's in side, where results are published, for example tcp://proxy:5577."
        ),
    )

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
