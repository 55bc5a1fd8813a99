"""The configuration file: one TOML file for each deployment, read once."""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from cdi_stream import addresses
from cdi_stream.config.detector import DetectorConfig
from cdi_stream.config.documents import DocumentsConfig
from cdi_stream.config.geometry import GeometryConfig
from cdi_stream.config.outputs import DashboardConfig, FeedConfig, PublishConfig
from cdi_stream.config.reconstruction import AssembleConfig, NetworkConfig, PhaseConfig, PrepareConfig, RefineConfig
from cdi_stream.config.retention import RetentionConfig
from cdi_stream.config.secrets import with_secrets
from cdi_stream.config.section import Section
from cdi_stream.config.values import Threads
from cdi_stream.errors import ConfigError, describe_error

FORMER_NAMES = {"polish": "phase"}
"""Former names of tables, each with the present name."""


class Config(Section):
    """Whole configuration file: the tables, and the keys above them."""

    detector: DetectorConfig = Field(
        description="Stream of the detector.",
    )
    documents: DocumentsConfig = Field(
        description="Bluesky's document bus.",
    )
    geometry: GeometryConfig = Field(
        description="Diffractometer, detector position and energy.",
    )
    assemble: AssembleConfig = Field(
        default=AssembleConfig(),
        description="How frames and readings become a rocking curve.",
    )
    prepare: PrepareConfig = Field(
        default=PrepareConfig(),
        description="Limits of the volume that is inverted.",
    )
    network: NetworkConfig = Field(
        default=NetworkConfig(),
        description="Network that gives the first crystal.",
    )
    phase: PhaseConfig = Field(
        default_factory=PhaseConfig,
        description="Live phase retrieval.",
    )
    publish: PublishConfig = Field(
        default=PublishConfig(),
        description="Where results go.",
    )
    refine: RefineConfig = Field(
        default_factory=RefineConfig,
        description="Refinement behind the live path.",
    )
    feed: FeedConfig = Field(
        default=FeedConfig(),
        description="Stream of pictures and numbers for the operators' page.",
    )
    dashboard: DashboardConfig = Field(
        default=DashboardConfig(),
        description="Web server of the operators' page.",
    )
    retention: RetentionConfig = Field(
        default=RetentionConfig(),
        description="How long results are kept, and the space that refinement leaves free.",
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu",
        description="Where the network runs: cpu or cuda, a GPU of NVIDIA.",
    )
    threads: Threads = Field(
        default=2,
        description="Number of threads that torch takes in the service.",
    )

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, tables: Any) -> Any:
        """Refuse a table under a former name; the error gives the present name."""
        for former, present in FORMER_NAMES.items():
            if isinstance(tables, dict) and former in tables:
                raise ValueError(
                    f"expected [{present}], got [{former}]: the table has a new name, its keys are the same"
                )
        return tables

    @model_validator(mode="after")
    def _apart(self) -> Config:
        """Refuse one address for two sockets."""
        keys: dict[tuple[str, int | None], str] = {}
        for key, text in (
            ("detector.endpoint", self.detector.endpoint),
            ("documents.subscribe", self.documents.subscribe),
            ("documents.publish", self.documents.publish),
            ("feed.endpoint", self.feed.endpoint),
        ):
            address = None if text is None else addresses.parse(text)
            if address is None or (address.is_tcp and address.port is None):
                continue
            if (first_key := keys.setdefault(address.place, key)) != key:
                raise ValueError(f"{key}: expected an address of its own, got {text!r}, which {first_key} has already")
        return self

    def sha256(self, network_sha256: str) -> str:
        """Return the hash of all settings that decide a result.

        Files count by their content; addresses and folders do not count.
        """
        fields: Any = {
            "geometry": True,
            "assemble": {"late_grace_s", "reading_timeout_s", "idle_timeout_s", "monitor"},
            "prepare": True,
            "phase": True,
            "detector": {"format", "channel", "roi", "saturation_counts"},
            "publish": {"lab_shape"},
        }
        digest = hashlib.sha256(self.model_dump_json(include=fields).encode() + network_sha256.encode())
        for path in (self.detector.bad_pixels, self.detector.white_field):
            digest.update(path.read_bytes() if path is not None else b"none")
        return digest.hexdigest()


def read_config(path: Path) -> Config:
    """Read and check a configuration file; secrets in the environment replace those of the file.

    Raises
    ------
    ConfigError
        With one line for each key that is wrong: expected, received, where.
    """
    try:
        return Config.model_validate(with_secrets(tomllib.loads(path.read_text(encoding="utf-8")), os.environ))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; deploy/beamline.toml is an example to start from") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}:\n" + "\n".join(describe_error(e) for e in error.errors())) from error


def prepare_folder(directory: Path) -> Path:
    """Make the folder for results, check that files can be written into it, and return its full path.

    Raises
    ------
    ConfigError
        If no file can be written, with the reason.
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
