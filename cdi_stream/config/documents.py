"""Section ``[documents]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from cdi_stream import addresses
from cdi_stream.addresses import CurveKeys
from cdi_stream.config.section import Section, require_both, require_plugin
from cdi_stream.config.values import BusPeer, Name, Prefix


class BusConfig(Section):
    """Subscription of the service to Bluesky's documents."""

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
    curve_secret: Path | None = Field(
        default=None,
        description=(
            "File with the service's secret key, for a proxy with CurveZMQ; 'cdi-stream keys' makes a set. By default "
            "the bus is open to everybody who reaches it."
        ),
    )
    curve_server: Path | None = Field(
        default=None,
        description="File with the proxy's public key; needed with documents.curve_secret.",
    )
    series_readings: tuple[Name, ...] = Field(
        default=("series_id", "series", "sequence_id"),
        description="Ends of the data keys by which an event names the detector's series.",
    )
    image_readings: tuple[Name, ...] = Field(
        default=("image_id", "frame_id", "unique_id"),
        description="Ends of the data keys by which an event names a detector image.",
    )

    @model_validator(mode="after")
    def _both_keys(self) -> Self:
        require_both(curve_secret=self.curve_secret, curve_server=self.curve_server)
        return self

    @property
    def curve(self) -> CurveKeys | None:
        """Keys for a proxy with CurveZMQ, None without."""
        return CurveKeys.of(self.curve_secret, self.curve_server)


def _source(name: str) -> str:
    return require_plugin("cdi_stream.source", name)


OWN_ADDRESSES = {"subscribe": "tcp://127.0.0.1:5578", "publish": "tcp://127.0.0.1:5577"}
"""Addresses of the service's own proxy, where the configuration names none."""


class DocumentsConfig(BusConfig):
    """Source of Bluesky's documents, and the document bus on which results appear."""

    source: Annotated[str, AfterValidator(_source)] = Field(
        default="zmq",
        description=(
            "Plugin by which the documents of the RunEngine come: zmq (a proxy, at documents.subscribe), process "
            "(CdiStream in the RunEngine's process) or another one that 'cdi-stream plugins' lists. Results always go "
            "to the bus."
        ),
    )
    address: str | None = Field(
        default=None,
        description="Address of the source, for a source other than zmq; which form it has depends on the source.",
    )
    options: dict[str, str] = Field(
        default={},
        description="Further options of the source, for a source other than zmq.",
    )
    own_proxy: bool = Field(
        default=False,
        description=(
            "Whether the service starts a document proxy itself, at documents.subscribe and documents.publish. By "
            "default it does for every source but zmq; then the addresses need not be given."
        ),
    )

    publish: BusPeer = Field(
        description=(
            "ZeroMQ address of the document proxy's in side, where results are published, for example tcp://proxy:5577."
        ),
    )

    proxy_secret: Path | None = Field(
        default=None,
        description=(
            "File with the secret key of the service's own proxy; then only clients whose public keys lie in the same "
            "folder are let in. Needed with an address that other machines reach."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _with_own_proxy(cls, values: object) -> object:
        """Add the addresses of a proxy of the service's own, where documents come by another way."""
        if not isinstance(values, dict) or values.get("source", "zmq") == "zmq":
            return values
        if not values.get("address"):
            raise ValueError(f"address: expected the address of the source {values['source']!r}, got none")
        is_own = not values.keys() & OWN_ADDRESSES.keys()
        return {"own_proxy": is_own, **(OWN_ADDRESSES if is_own else {}), **values}

    @property
    def source_address(self) -> str:
        """Address at which the documents of the RunEngine come."""
        return self.address if self.source != "zmq" and self.address is not None else self.subscribe

    @property
    def source_options(self) -> dict[str, str]:
        """Options of the source."""
        if self.source != "zmq":
            return self.options
        options = {"prefix": self.prefix, "serializer": self.serializer}
        if (keys := self.curve) is not None:
            options |= {"curve_secret": str(keys.secret), "curve_server": str(keys.server)}
        return options

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
