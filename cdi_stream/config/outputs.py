"""Sections ``[publish]``, ``[feed]`` and ``[dashboard]``: outputs of the service, and access to them."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator

from cdi_stream import addresses
from cdi_stream.addresses import CurveKeys
from cdi_stream.config.section import Section, in_words, require_both
from cdi_stream.config.values import (
    Address,
    Bytes,
    Fraction,
    Name,
    PossibleFile,
    PossibleFolder,
    Seconds,
    TiledServer,
    VolumeAxis,
    within,
)
from cdi_stream.disk.result_folder import ResultFolder, keys_of


class PublishConfig(Section):
    """Outputs of the service: files, the Tiled catalog and the start document."""

    directory: PossibleFolder = Field(
        default=Path("cdi-stream-results"),
        description="Folder for result files, journals and the queue.",
    )
    folder: str = Field(
        default="",
        description=(
            "Folder of a run's result files inside publish.directory, with keys of its start document in braces, for "
            "example {cycle}/{proposal}; a missing value becomes unknown. By default publish.directory itself."
        ),
    )
    folder_mode: Annotated[str, StringConstraints(pattern=r"^[0-7]{3,4}$")] | None = Field(
        default=None,
        description="Permissions of these folders as for chmod, for example 2770; by default those of the service.",
    )
    folder_group: Name | None = Field(
        default=None,
        description="Group of these folders; with folder_mode 2770 their files have it too. By default the service's.",
    )
    lab_shape: tuple[VolumeAxis, VolumeAxis, VolumeAxis] = Field(
        default=(96, 96, 96),
        description="Shape (z, y, x) of the published arrays, in voxels.",
    )
    tiled: TiledServer | None = Field(
        default="local",
        description=(
            "Tiled catalog: local starts a server with a SQLite catalog, an address starting with http names a running "
            "server, none switches the catalog off."
        ),
    )
    tiled_port: Annotated[int, within(1, 65535, "as a port")] | None = Field(
        default=None,
        description="Port of the local Tiled server; by default the port of its last start, at first a free one.",
    )
    tiled_api_key: Name | None = Field(
        default=None,
        description=(
            "Key of the Tiled server; by default, for the local server, the key of its last start, kept in tiled.json."
        ),
    )
    copied_keys: tuple[Name, ...] = Field(
        default=(),
        description="Further keys of the raw run's start document that the start document of the result copies.",
    )
    json_lines: PossibleFile | None = Field(
        default=None,
        description="File that gets a copy of all published documents, one JSON object a line; by default none.",
    )
    epics_prefix: Annotated[str, StringConstraints(pattern=r"^[\w:.-]{1,40}$")] | None = Field(
        default=None,
        description=(
            "Begin of the names of EPICS variables that show the newest result over Channel Access, for example "
            "34IDC:CDI:; by default none are served."
        ),
    )
    epics_interfaces: Annotated[tuple[IPv4Address, ...], Field(min_length=1)] = Field(
        default=(IPv4Address("127.0.0.1"),),
        description=(
            "Addresses of this machine at which EPICS clients are served; by default this machine alone. The variables "
            "are read-only, and have no password."
        ),
    )
    epics_port: Annotated[int, within(1, 65535, "as a port")] | None = Field(
        default=None,
        description="Port of Channel Access; by default that of EPICS_CA_SERVER_PORT, or 5064.",
    )
    preview_every_s: Seconds = Field(
        default=1.0,
        description="Time between two events of the stream progress while a scan is measured, in seconds.",
    )
    preview_fractions: tuple[Fraction, ...] = Field(
        default=(0.5, 0.75),
        description=(
            "Fractions of a curve's frames at which the network's crystal of the frames so far is published, in the "
            "stream preview; an empty list switches previews off."
        ),
    )
    max_waiting_bytes: Bytes = Field(
        default=4 << 30,
        description=(
            "Memory for curves that wait for their phase retrieval, in bytes; beyond it no frames are taken until "
            "there is room."
        ),
    )

    @field_validator("folder")
    @classmethod
    def _template(cls, folder: str) -> str:
        in_words(keys_of, folder)
        return folder

    @field_validator("preview_fractions")
    @classmethod
    def _ascending(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if list(fractions) != sorted(set(fractions)):
            raise ValueError(f"expected fractions in ascending order, each once, got {list(fractions)}")
        return fractions

    @property
    def results(self) -> ResultFolder:
        """Folder of the result files."""
        mode = None if self.folder_mode is None else int(self.folder_mode, 8)
        return ResultFolder(base=self.directory.resolve(), template=self.folder, mode=mode, group=self.folder_group)

    @field_validator("tiled")
    @classmethod
    def _none(cls, tiled: str | None) -> str | None:
        return None if tiled == "none" else tiled


class FeedConfig(Section):
    """Stream of frames and results for the operators' page.

    Without keys the feed has no password: a program that can connect sees frames and results.  It is bound to this
    machine alone unless it has a ``secret`` or ``allow_other_machines`` is true.
    """

    endpoint: Address | None = Field(
        default=None,
        description=(
            "ZeroMQ address that the service binds for the operators' page, for example tcp://127.0.0.1:5580; by "
            "default there is no feed."
        ),
    )
    secret: Path | None = Field(
        default=None,
        description=(
            "File with the secret key of the feed (CurveZMQ), of 'cdi-stream keys'; then only dashboards whose public "
            "keys lie in the same folder are let in. By default everybody who reaches the feed may watch."
        ),
    )
    curve_secret: Path | None = Field(
        default=None,
        description="File with the secret key of a dashboard, for a feed with feed.secret.",
    )
    curve_server: Path | None = Field(
        default=None,
        description="File with the public key of the feed; needed with feed.curve_secret.",
    )
    allow_other_machines: bool = Field(
        default=False,
        validate_default=True,
        description=(
            "Whether a feed without feed.secret may be bound to an address that other machines reach: it has no "
            "password."
        ),
    )
    frame_every_s: Seconds = Field(
        default=0.25,
        description="Shortest time between two detector frames on the page, in seconds.",
    )

    @field_validator("allow_other_machines")
    @classmethod
    def _guarded(cls, is_allowed: bool, info: ValidationInfo) -> bool:
        endpoint, is_open = info.data.get("endpoint"), info.data.get("secret") is None
        if endpoint is not None and is_open and not is_allowed and not addresses.parse(endpoint).is_loopback:
            raise ValueError(
                f"expected feed.endpoint on this machine, as tcp://127.0.0.1:5580, got {endpoint!r}: nothing "
                "guards the feed; give it keys (feed.secret), or set allow_other_machines = true if everybody on the "
                "network may watch"
            )
        return is_allowed

    @model_validator(mode="after")
    def _both_keys(self) -> Self:
        require_both(curve_secret=self.curve_secret, curve_server=self.curve_server)
        return self

    @property
    def curve(self) -> CurveKeys | None:
        """Keys of a dashboard for a feed with CurveZMQ, None without."""
        return CurveKeys.of(self.curve_secret, self.curve_server)


class DashboardConfig(Section):
    """Web server of the operators' page; an address beyond this machine needs a token."""

    host: Name = Field(
        default="127.0.0.1",
        description="Address at which the page is served; an address beyond this machine needs a token.",
    )
    port: Annotated[int, within(0, 65535, "as a port; 0 takes a free one")] = Field(
        default=8056,
        description="Port at which the page is served; 0 takes a free port.",
    )
    token: Name | None = Field(
        default=None,
        validate_default=True,
        description="Password of the page; needed where host is reached by other machines.",
    )

    @field_validator("token")
    @classmethod
    def _guarded(cls, token: str | None, info: ValidationInfo) -> str | None:
        host = info.data.get("host", "localhost")
        if token is None and not addresses.is_loopback(host):
            raise ValueError(f"expected a token to serve other machines than this (dashboard.host is {host!r})")
        return token
