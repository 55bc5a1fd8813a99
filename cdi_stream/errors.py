"""Errors of cdi-stream.

CdiStreamError            expected, received, where and remedy, in one sentence
|-- InputError            bad input or usage: exit code 2
|   |-- ConfigError       a configuration file or option
|   |-- EndpointError     an address of a socket that cannot be opened
|   |-- GeometryError     circles, angles, distances or energies that make no volume
|   |-- PluginError       an unknown, doubled or broken plugin
|   |-- RecordingError    a recorded scan that cannot be read
|   |-- IntensitiesError  a file of intensities that cannot be read, or not be phased
|   `-- NetworkFileError  a network file without a valid contract
|-- WireError             a malformed message: counted, logged, dropped
|-- CurveError            a rocking curve that cannot be reconstructed: published as failed
`-- ServiceError          a server, bus or process of ours that did not answer: exit code 1
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class CdiStreamError(Exception):
    """Root of all errors raised on purpose."""


class InputError(CdiStreamError):
    """Bad input or usage."""


class ConfigError(InputError):
    """A configuration file or option is wrong."""


class EndpointError(InputError):
    """An address cannot be opened as a socket."""


class GeometryError(InputError):
    """Circles, angles, distances or energies do not make a volume of q."""


class PluginError(InputError):
    """A plugin is unknown, doubled or broken."""


class RecordingError(InputError):
    """A recorded scan cannot be read."""


class IntensitiesError(InputError):
    """A file of intensities cannot be read, or holds nothing to phase."""


class NetworkFileError(InputError):
    """A network file has no valid contract."""


class WireError(CdiStreamError):
    """A message from a detector is malformed."""


class CurveError(CdiStreamError):
    """A rocking curve cannot be reconstructed."""


class ServiceError(CdiStreamError):
    """A server, bus or process did not answer."""


def describe_error(error: Any) -> str:
    """One line for one error of pydantic's: key, what was expected, what came."""
    entry = dict(error)
    where = ".".join(map(str, entry["loc"]))
    text = entry["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if entry["type"] == "extra_forbidden":
        text = "unknown key; deploy/beamline.toml explains those that there are"
    is_told = entry["type"] in ("missing", "extra_forbidden") or isinstance(entry["input"], dict) or ", got " in text
    return f"  {where}{': ' if where else ''}{text}" + ("" if is_told else f", got {_short(entry['input'])}")


def _short(value: object) -> str:
    text = str(value) if isinstance(value, Path) else repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
