"""Errors of cdi-stream.

A message states what was expected, what was received, where, and the remedy.

CdiStreamError            base class of all errors
|-- InputError            bad input or usage: exit code 2
|   |-- ConfigError       a configuration file or option is wrong
|   |-- EndpointError     a socket cannot be opened at an address
|   |-- GeometryError     circles, angles, distances or energies span no volume
|   |-- PluginError       a plugin is unknown, installed twice or broken
|   |-- RecordingError    a recorded scan cannot be read
|   |-- IntensitiesError  a file of intensities cannot be read or phased
|   `-- NetworkFileError  a network file is not valid
|-- WireError             a detector message is malformed: counted, logged, dropped
|-- CurveError            a rocking curve cannot be reconstructed: published as failed
`-- ServiceError          a server, bus or process did not answer: exit code 1
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class CdiStreamError(Exception):
    """Base class of the errors of cdi-stream."""


class InputError(CdiStreamError):
    """Bad input or usage."""


class ConfigError(InputError):
    """A configuration file or option is wrong."""


class EndpointError(InputError):
    """A socket cannot be opened at an address."""


class GeometryError(InputError):
    """Circles, angles, distances or energies do not span a volume of q."""


class PluginError(InputError):
    """A plugin is unknown, installed twice or broken."""


class RecordingError(InputError):
    """A recorded scan cannot be read."""


class IntensitiesError(InputError):
    """A file of intensities cannot be read, or holds nothing to phase."""


class NetworkFileError(InputError):
    """A network file cannot be read, has no valid contract, or its code is refused."""


class WireError(CdiStreamError):
    """A message from a detector is malformed."""


class CurveError(CdiStreamError):
    """A rocking curve cannot be reconstructed."""


class ServiceError(CdiStreamError):
    """A server, bus or process did not answer."""


def describe_error(error: Any) -> str:
    """Return one line for a validation error of pydantic: key, expected and received value."""
    entry = dict(error)
    where = ".".join(map(str, entry["loc"]))
    text = entry["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if entry["type"] == "extra_forbidden":
        text = "unknown key; deploy/beamline.toml explains the known keys"
    shows_input = (
        entry["type"] in ("missing", "extra_forbidden") or isinstance(entry["input"], dict) or ", got " in text
    )
    return f"  {where}{': ' if where else ''}{text}" + ("" if shows_input else f", got {_short(entry['input'])}")


def _short(value: object) -> str:
    text = str(value) if isinstance(value, Path) else repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def missing_package(name: str | None) -> str:
    """Return the text for a package that is not installed: a profile's environment has only a part of the packages."""
    return (
        f"expected the package {name!r}, which is not installed; the service and the Python interface need "
        "pip install 'cdi-stream[all]'. If they are in another environment, start the service there, or name its "
        "interpreter in the profile: CdiStream(..., service_python='/path/to/bin/python')"
    )
