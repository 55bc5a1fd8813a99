"""Sections ``[publish]``, ``[feed]`` and ``[dashboard]``: where results go, and who may watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from cdi_stream import addresses
from cdi_stream.config.section import Section
from cdi_stream.config.values import (
    Address,
    Bytes,
    Name,
    PossibleFile,
    PossibleFolder,
    Seconds,
    TiledServer,
    VolumeAxis,
    within,
)


class PublishConfig(Section):
    """Where results go; ``tiled`` is a server's address, ``local`` to start one with a SQLite catalog, or ``none``.

    ``tiled_port`` and ``tiled_api_key`` are those of the server; of one of our own, those of the last start are kept
    where they are not given.  ``copied_keys`` are further keys of the raw start document that our own one copies.
    """

    directory: PossibleFolder = Path("cdi-stream-results")
    lab_shape: tuple[VolumeAxis, VolumeAxis, VolumeAxis] = (96, 96, 96)
    tiled: TiledServer | None = "local"
    tiled_port: Annotated[int, within(1, 65535, "as a port")] | None = None
    tiled_api_key: Name | None = None
    copied_keys: tuple[Name, ...] = ()
    json_lines: PossibleFile | None = None
    preview_every_s: Seconds = 1.0
    max_waiting_bytes: Bytes = 4 << 30

    @field_validator("tiled")
    @classmethod
    def _none(cls, tiled: str | None) -> str | None:
        return None if tiled == "none" else tiled


class FeedConfig(Section):
    """Where the service tells its onlookers (0MQ address to bind), and how often it shows a frame.

    The feed knows no password: whoever can connect sees frames and results.  It is bound to this machine alone unless
    ``allow_other_machines`` says otherwise.
    """

    endpoint: Address | None = None
    allow_other_machines: bool = Field(default=False, validate_default=True)
    frame_every_s: Seconds = 0.25

    @field_validator("allow_other_machines")
    @classmethod
    def _guarded(cls, is_allowed: bool, info: ValidationInfo) -> bool:
        endpoint = info.data.get("endpoint")
        if endpoint is not None and not is_allowed and not addresses.parse(endpoint).is_loopback:
            raise ValueError(
                f"expected feed.endpoint on this machine, as tcp://127.0.0.1:5580, got {endpoint!r}: nothing "
                "guards the feed; set allow_other_machines = true if everybody on the network may watch"
            )
        return is_allowed


class DashboardConfig(Section):
    """Where the operators' page is served; a host beyond loopback needs a token."""

    host: Name = "127.0.0.1"
    port: Annotated[int, within(0, 65535, "as a port; 0 takes a free one")] = 8056
    token: Name | None = Field(default=None, validate_default=True)

    @field_validator("token")
    @classmethod
    def _guarded(cls, token: str | None, info: ValidationInfo) -> str | None:
        host = info.data.get("host", "localhost")
        if token is None and not addresses.is_loopback(host):
            raise ValueError(f"expected a token to serve other machines than this (dashboard.host is {host!r})")
        return token
