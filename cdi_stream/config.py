"""The configuration: one TOML file a deployment, read once, unknown keys refused, units in names."""

from __future__ import annotations

import hashlib
import math
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from cdi_stream import addresses
from cdi_stream.config_values import (
    Address,
    Budget,
    BusPeer,
    Bytes,
    Counts,
    Degrees,
    ExistingFile,
    Images,
    Metres,
    Name,
    PhotonEnergy,
    PixelPlace,
    Pixels,
    PixelSize,
    PossibleFile,
    PossibleFolder,
    Prefix,
    RecipeText,
    Seconds,
    Threads,
    TiledServer,
    VolumeAxis,
    describe_error,
    within,
)
from cdi_stream.errors import ConfigError, GeometryError, PluginError
from cdi_stream.geometry import Beamline, Circle, direction
from cdi_stream.networks.packaged import DEFAULT_NETWORK, network_file
from cdi_stream.registry import load, names


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DetectorConfig(_Section):
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
        if address.is_anywhere and not bind:
            raise ValueError(
                f"expected detector.endpoint to name the detector's host, got {address.text!r}; set bind = true if the "
                "detector connects to this machine"
            )
        return bind

    @field_validator("format")
    @classmethod
    def _installed(cls, name: str) -> str:
        return _plugin("cdi_stream.decoder", name)

    @field_validator("roi")
    @classmethod
    def _ordered(cls, roi: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        if roi is not None and not (0 <= roi[0] < roi[1] <= MAX_SIDE and 0 <= roi[2] < roi[3] <= MAX_SIDE):
            raise ValueError(
                "expected [first row, row after the last, first col, col after the last], "
                f"each pair growing, from 0 to {MAX_SIDE}"
            )
        return roi


MAX_IMAGE_PIXELS = 1_000_000_000
"""Largest image of bad pixels or a white field; sixty times a detector of 16 million pixels."""

MAX_SIDE = 1_000_000
"""Most rows or columns of a detector."""


def _plugin(group: str, name: str) -> str:
    if name not in names(group):
        raise ValueError(f"unknown name; installed are: {', '.join(names(group)) or 'none'}")
    return name


class BusConfig(_Section):
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


class InlineBeamline(_Section):
    """A beamline written out: circles outermost first, each as [name, signed axis, further motor names].

    ``energy_readings`` and ``distance_readings`` are pairs of a name in the documents and the unit to assume where the
    documents state none.  deploy/docs/geometry.md explains frame and senses.
    """

    name: Name
    sample_circles: list[list[str]]
    detector_circles: list[list[str]]
    row_direction: str
    col_direction: str
    energy_readings: tuple[tuple[Name, Literal["eV", "keV"]], ...] = (("energy", "eV"),)
    distance_readings: tuple[tuple[Name, Literal["m", "cm", "mm", "um"]], ...] = (("detector_distance", "m"),)

    @field_validator("sample_circles", "detector_circles")
    @classmethod
    def _readable(cls, circles: list[list[str]]) -> list[list[str]]:
        for entry in circles:
            _in_words(_circle, entry)
        return circles

    @field_validator("row_direction", "col_direction")
    @classmethod
    def _across_the_beam(cls, axis: str) -> str:
        if _in_words(direction, axis)[2]:
            raise ValueError("expected x+, x-, y+ or y-: the detector stands across the beam, which goes along z+")
        return axis

    @model_validator(mode="after")
    def _consistent(self) -> InlineBeamline:
        if self.row_direction[0] == self.col_direction[0]:
            raise ValueError(
                f"expected row_direction and col_direction across each other, got {self.row_direction!r} and "
                f"{self.col_direction!r}"
            )
        motors = [name for circle in self.sample_circles + self.detector_circles for name in {circle[0], *circle[2:]}]
        if doubled := sorted({name for name in motors if motors.count(name) > 1}):
            raise ValueError(f"expected each motor in one circle, got {', '.join(doubled)} in several")
        return self

    def beamline(self) -> Beamline:
        """Return it as the value that plugins provide."""
        return Beamline(
            name=self.name,
            sample_circles=tuple(_circle(c) for c in self.sample_circles),
            detector_circles=tuple(_circle(c) for c in self.detector_circles),
            row_direction=direction(self.row_direction),
            col_direction=direction(self.col_direction),
            energy_readings=self.energy_readings,
            distance_readings=self.distance_readings,
        )


def _in_words(read: Any, value: Any) -> Any:
    """What ``read`` makes of a value; its errors as pydantic wants them."""
    try:
        return read(value)
    except (ConfigError, GeometryError, PluginError) as error:
        raise ValueError(str(error)) from error


def _circle(entry: list[str]) -> Circle:
    if len(entry) < 2 or not all(entry):
        raise ConfigError(f"expected a circle as [name, signed axis, motors ...], got {entry}")
    return Circle(name=entry[0], axis=direction(entry[1]), motors=tuple(entry[2:]))


class GeometryConfig(_Section):
    """Beamline by plugin name or written out, and numbers that override documents and wire."""

    beamline: str | None = None
    inline: InlineBeamline | None = None
    distance_m: Metres | None = None
    pixel_row_m: PixelSize | None = None
    pixel_col_m: PixelSize | None = None
    beam_row: PixelPlace | None = None
    beam_col: PixelPlace | None = None
    photon_energy_ev: PhotonEnergy | None = None
    circles_deg: dict[str, Degrees] = Field(default_factory=dict)

    @field_validator("beamline")
    @classmethod
    def _installed(cls, name: str | None) -> str | None:
        return None if name is None else _plugin("cdi_stream.beamline", name)

    @model_validator(mode="after")
    def _known(self) -> GeometryConfig:
        if (self.beamline is None) == (self.inline is None):
            raise ValueError("expected either 'beamline', the name of a plugin, or a table 'inline'")
        circles = [circle.name for circle in _circles(_in_words(GeometryConfig.value, self))]
        if unknown := [name for name in self.circles_deg if name not in circles]:
            raise ValueError(f"expected circles_deg of {circles}, got {', '.join(unknown)}")
        return self

    def value(self) -> Beamline:
        """The beamline as a value; raises `PluginError` if there is no plugin of its name."""
        if self.inline is not None:
            return self.inline.beamline()
        assert self.beamline is not None
        return load("cdi_stream.beamline", self.beamline)


def _circles(beamline: Beamline) -> tuple[Circle, ...]:
    return beamline.sample_circles + beamline.detector_circles


class AssembleConfig(_Section):
    """How long to wait for what [s]; ``monitor`` names the events' monitor counter.

    ``directory`` holds frames and documents of scans under way, so that a restarted service goes on with them; it is
    ``incoming`` in the results folder unless it is named, and belongs on a fast local disk.
    """

    directory: PossibleFolder | None = None

    late_grace_s: Seconds = 0.5
    reading_timeout_s: Seconds = 10.0
    idle_timeout_s: Seconds = 120.0
    monitor: Name | None = None


class PrepareConfig(_Section):
    """Limits of the volume that is phased."""

    max_shape: tuple[VolumeAxis, VolumeAxis, VolumeAxis] = (128, 128, 128)
    min_counts: Annotated[int, within(0, 1e12, "counts")] = 5_000


class NetworkConfig(_Section):
    """The network, by its file or by the name of one that comes with the package."""

    file: Path = DEFAULT_NETWORK

    @field_validator("file", mode="before")
    @classmethod
    def _found(cls, value: object) -> object:
        try:
            return network_file(value) if isinstance(value, str) else value
        except ConfigError as error:  # pydantic wants to be told in its own way
            raise ValueError(str(error)) from error


class PolishConfig(_Section):
    """How the network's crystal is polished: by a short search, in which it competes if sure, or by a recipe if given.

    ``budget_s`` is the most that it may take; volumes of more than ``most_voxels`` voxels are not searched, but go from
    the network's crystal and are compared with others.
    """

    budget_s: Budget = 30.0
    most_voxels: Annotated[int, within(0, 512**3, "voxels")] = 300_000
    recipe: RecipeText | None = None


class PublishConfig(_Section):
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


class RefineConfig(_Section):
    """Refinement behind the live path: every reconstruction is queued for each of the methods; none switches it off.

    ``auto`` searches anew and keeps the live crystal as a candidate; ``recipe`` goes on from it, and so does
    ``object``, by gradients; ``hybrid`` runs the recipe from the network's answer; ``network`` changes the network's
    weights for the volume, for ``network_steps``, and polishes by ``network_recipe``.  ``budget_s`` is processor time
    for each.  The worker process is niced and has ``threads``.
    """

    methods: tuple[Literal["auto", "recipe", "object", "network", "hybrid"], ...] = ("auto",)
    budget_s: Budget = 60.0
    recipe: RecipeText = "SW[every=10,after=0]+SUPPORT[border]+150*HIO+150*ER"
    network_steps: Annotated[int, within(1, 1e6, "steps")] = 150
    network_recipe: RecipeText = "SW[every=10,after=0]+SUPPORT[border]+30*ER"
    threads: Threads = 1


class FeedConfig(_Section):
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


class DashboardConfig(_Section):
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


class Config(_Section):
    """The whole of it."""

    detector: DetectorConfig
    documents: DocumentsConfig
    geometry: GeometryConfig
    assemble: AssembleConfig = AssembleConfig()
    prepare: PrepareConfig = PrepareConfig()
    network: NetworkConfig = NetworkConfig()
    polish: PolishConfig = Field(default_factory=PolishConfig)
    publish: PublishConfig = PublishConfig()
    refine: RefineConfig = Field(default_factory=RefineConfig)
    feed: FeedConfig = FeedConfig()
    dashboard: DashboardConfig = DashboardConfig()
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Threads = 2

    @model_validator(mode="after")
    def _apart(self) -> Config:
        """Refuse one address for two sockets."""
        used: dict[tuple[str, int | None], str] = {}
        for key, text in (
            ("detector.endpoint", self.detector.endpoint),
            ("documents.subscribe", self.documents.subscribe),
            ("documents.publish", self.documents.publish),
            ("feed.endpoint", self.feed.endpoint),
        ):
            address = None if text is None else addresses.parse(text)
            if address is None or (address.is_tcp and address.port is None):
                continue
            if (other := used.setdefault(address.place, key)) != key:
                raise ValueError(f"{key}: expected an address of its own, got {text!r}, which {other} has already")
        return self

    def sha256(self, network_sha256: str) -> str:
        """Hash of what decides a result, files by their content; addresses and folders do not."""
        deciding: Any = {
            "geometry": True,
            "assemble": {"late_grace_s", "reading_timeout_s", "idle_timeout_s", "monitor"},
            "prepare": True,
            "polish": True,
            "detector": {"format", "channel", "roi", "saturation_counts"},
            "publish": {"lab_shape"},
        }
        digest = hashlib.sha256(self.model_dump_json(include=deciding).encode() + network_sha256.encode())
        for path in (self.detector.bad_pixels, self.detector.white_field):
            digest.update(path.read_bytes() if path is not None else b"none")
        return digest.hexdigest()


def read_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises
    ------
    ConfigError
        With one line for each key that is wrong: expected, received, where.
    """
    try:
        return Config.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; deploy/beamline.toml is an example to start from") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}:\n" + "\n".join(describe_error(e) for e in error.errors())) from error


def prepare_folder(directory: Path) -> Path:
    """Make the folder for results, and try whether files can be written into it; returns its full path.

    Raises
    ------
    ConfigError
        If they cannot, with the reason.
    """
    directory = directory.resolve()
    probe = directory / f".probe.{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"cdi-stream")
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"publish.directory: expected a folder that can be written, got {directory} ({error.strerror}); "
            "name another, or give this user the right to write there"
        ) from error
    return directory


def read_image(path: Path) -> NDArray[np.generic]:
    """Read a detector image ``(rows, cols)`` from npy or tif.

    Raises
    ------
    ConfigError
        If the file holds no image, or one above `MAX_IMAGE_PIXELS`.
    """
    try:
        image = _npy(path) if path.suffix == ".npy" else _tif(path)
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(f"{path}: expected an image as npy or tif: {error}") from error
    if image.ndim != 2 or image.dtype.kind not in "biuf":
        raise ConfigError(f"{path}: expected an image of rows and columns, got {image.shape} of {image.dtype}")
    return image


def _npy(path: Path) -> NDArray[np.generic]:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # takes no memory for what a header claims
    if mapped.size > MAX_IMAGE_PIXELS:
        raise ValueError(f"{mapped.shape} are more than {MAX_IMAGE_PIXELS} pixels")
    return np.array(mapped)


def _tif(path: Path) -> NDArray[np.generic]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        if math.prod(page.shape) > MAX_IMAGE_PIXELS:
            raise ValueError(f"{page.shape} are more than {MAX_IMAGE_PIXELS} pixels")
        return np.asarray(page.asarray())
