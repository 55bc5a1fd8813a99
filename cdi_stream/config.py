"""The configuration: one TOML file a deployment, read once, unknown keys refused, units in names."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cdi_stream.errors import ConfigError
from cdi_stream.geometry import Beamline, Circle, direction
from cdi_stream.networks.packaged import DEFAULT_NETWORK, network_file
from cdi_stream.registry import load

Positive = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DetectorConfig(_Section):
    """Where frames come from, and what is known of the pixels.

    ``bad_pixels`` and ``white_field`` are npy or tif files of the full image; in the first, anything but
    0 is bad.
    """

    endpoint: str
    socket: Literal["pull", "sub"] = "pull"
    bind: bool = False
    format: str = "dectris2"
    channel: str | None = None
    roi: tuple[int, int, int, int] | None = None
    max_pixels: int = Field(default=40_000_000, gt=0)
    max_message_bytes: int = Field(default=400_000_000, gt=0)
    max_queue_bytes: int = Field(default=1 << 30, gt=0)
    max_images: int = Field(default=20_000, gt=0)
    max_series_bytes: int = Field(default=8 << 30, gt=0)
    bad_pixels: Path | None = None
    white_field: Path | None = None
    saturation_counts: Positive | None = None

    @field_validator("roi")
    @classmethod
    def _ordered(cls, roi: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        if roi is not None and not (0 <= roi[0] < roi[1] and 0 <= roi[2] < roi[3]):
            raise ValueError("roi is [first row, row after the last, first col, col after the last]")
        return roi


class DocumentsConfig(_Section):
    """The Bluesky bus: ``subscribe`` is the proxy's out address, ``publish`` its in address.

    ``series_readings`` and ``image_readings`` are ends of the data keys by which events name a detector's series and
    its images.
    """

    subscribe: str
    publish: str
    prefix: str = ""
    serializer: Literal["msgpack", "json", "pickle"] = "msgpack"
    series_readings: tuple[str, ...] = ("series_id", "series", "sequence_id")
    image_readings: tuple[str, ...] = ("image_id", "frame_id", "unique_id")

    @field_validator("subscribe", "publish")
    @classmethod
    def _with_scheme(cls, address: str) -> str:
        return address if "://" in address else f"tcp://{address}"


class InlineBeamline(_Section):
    """A beamline written out: circles outermost first, each as [name, signed axis, further motor names]."""

    name: str
    sample_circles: list[list[str]]
    detector_circles: list[list[str]]
    row_direction: str
    col_direction: str

    def beamline(self) -> Beamline:
        """Return it as the value that plugins provide."""
        return Beamline(
            name=self.name,
            sample_circles=tuple(_circle(c) for c in self.sample_circles),
            detector_circles=tuple(_circle(c) for c in self.detector_circles),
            row_direction=direction(self.row_direction),
            col_direction=direction(self.col_direction),
        )


def _circle(entry: list[str]) -> Circle:
    if len(entry) < 2:
        raise ConfigError(f"geometry.inline: expected a circle as [name, signed axis, motors ...], got {entry}")
    return Circle(name=entry[0], axis=direction(entry[1]), motors=tuple(entry[2:]))


class GeometryConfig(_Section):
    """Beamline by plugin name or written out, and numbers that override documents and wire."""

    beamline: str | None = None
    inline: InlineBeamline | None = None
    distance_m: Positive | None = None
    pixel_row_m: Positive | None = None
    pixel_col_m: Positive | None = None
    beam_row: float | None = None
    beam_col: float | None = None
    photon_energy_ev: Positive | None = None
    circles_deg: dict[str, float] = Field(default_factory=dict)

    def value(self) -> Beamline:
        """The beamline as a value; raises `ConfigError` unless exactly one way to it is given."""
        if (self.beamline is None) == (self.inline is None):
            raise ConfigError("geometry: expected either 'beamline', the name of a plugin, or a table 'inline'")
        if self.inline is not None:
            return self.inline.beamline()
        assert self.beamline is not None
        return load("cdi_stream.beamline", self.beamline)


class AssembleConfig(_Section):
    """How long to wait for what [s]; ``monitor`` names the events' monitor counter.

    ``directory`` holds frames and documents of scans under way, so that a restarted service goes on with them; it is
    ``incoming`` in the results folder unless it is named, and belongs on a fast local disk.
    """

    directory: Path | None = None

    late_grace_s: Positive = 0.5
    reading_timeout_s: Positive = 10.0
    idle_timeout_s: Positive = 120.0
    monitor: str | None = None


class PrepareConfig(_Section):
    """Limits of the volume that is phased."""

    max_shape: tuple[int, int, int] = (128, 128, 128)
    min_counts: int = 5_000


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

    budget_s: Positive = 30.0
    most_voxels: int = Field(default=300_000, ge=0)
    recipe: str | None = None


class PublishConfig(_Section):
    """Where results go; ``tiled`` is a server's address, ``local`` to start one with a SQLite catalog, or ``none``.

    ``tiled_port`` and ``tiled_api_key`` are those of the server; of one of our own, those of the last start are kept
    where they are not given.  ``copied_keys`` are further keys of the raw start document that our own one copies.
    """

    directory: Path = Path("cdi-stream-results")
    lab_shape: tuple[int, int, int] = (96, 96, 96)
    tiled: str | None = "local"
    tiled_port: int | None = Field(default=None, gt=0, le=65535)
    tiled_api_key: str | None = None
    copied_keys: tuple[str, ...] = ()
    json_lines: Path | None = None
    preview_every_s: Positive = 1.0
    max_waiting_bytes: int = Field(default=4 << 30, gt=0)

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
    budget_s: Positive = 60.0
    recipe: str = "SW[every=10,after=0]+SUPPORT[border]+150*HIO+150*ER"
    network_steps: int = Field(default=150, gt=0)
    network_recipe: str = "SW[every=10,after=0]+SUPPORT[border]+30*ER"
    threads: int = Field(default=1, gt=0)


class FeedConfig(_Section):
    """Where the service tells its onlookers (0MQ address to bind), and how often it shows a frame."""

    endpoint: str | None = None
    frame_every_s: Positive = 0.25


class DashboardConfig(_Section):
    """Where the operators' page is served; a host beyond loopback needs a token."""

    host: str = "127.0.0.1"
    port: int = Field(default=8056, ge=0, le=65535)
    token: str | None = None


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
    threads: int = Field(default=2, gt=0)

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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}:\n" + "\n".join(describe_error(e) for e in error.errors())) from error


def describe_error(error: object) -> str:
    """One line for one error of pydantic's."""
    entry = dict(error)  # type: ignore[call-overload]
    where = ".".join(map(str, entry["loc"]))
    received = "" if entry["type"] in ("missing", "extra_forbidden") else f", got {entry['input']!r}"
    return f"  {where}: {entry['msg']}{received}"


def read_image(path: Path) -> NDArray[np.generic]:
    """Read a detector image from npy or tif; raises `ConfigError`."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        import tifffile

        return tifffile.imread(path)
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(f"{path}: expected an image as npy or tif: {error}") from error
