"""Types of the values of a configuration, each with its unit and the range that makes sense at a beamline.

A range refuses a number in the wrong unit (55 for a pixel of 55 um, 8.9 for an energy of 8900 eV), a number that would
fill the memory, and TOML's ``nan`` and ``inf``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from cdi_stream import addresses


def within(low: float, high: float, unit: str) -> AfterValidator:
    """Accept numbers from ``low`` to ``high``; the error names range and unit."""

    def check(value: float) -> float:
        """Return the value; raise `ValueError` outside of the range."""
        if not low <= value <= high:  # false for nan
            raise ValueError(f"expected {low:g} to {high:g} {unit}")
        return value

    return AfterValidator(check)


Fraction = Annotated[float, within(0.05, 0.95, "as a fraction of the frames")]
Seconds = Annotated[float, within(1e-3, 86_400, "s")]
Budget = Annotated[float, within(1e-3, 86_400, "s")]
Metres = Annotated[float, within(1e-3, 1000, "m")]
PixelSize = Annotated[float, within(1e-7, 1e-2, "m: a pixel of 55 um is 55e-6")]
PixelPlace = Annotated[float, within(-1e6, 1e6, "pixels")]
PhotonEnergy = Annotated[float, within(100, 1e6, "eV: 8.9 keV is 8900")]
Degrees = Annotated[float, within(-360, 360, "degrees")]
Counts = Annotated[float, within(1, 2**64, "counts")]
Threads = Annotated[int, within(1, 256, "threads")]
VolumeAxis = Annotated[int, within(8, 512, "voxels along each axis")]
Pixels = Annotated[int, within(1, 10**9, "pixels")]
Bytes = Annotated[int, within(1000, 2**46, "bytes")]
Days = Annotated[float, within(0.01, 36_500, "days")]
Images = Annotated[int, within(1, 10**7, "images")]


def _address(use: str, accepts: Callable[[addresses.Address], bool], remedy: str) -> AfterValidator:
    def check(text: str) -> str:
        """Return the text; raise `ValueError` if its address does not suit the use."""
        if not accepts(addresses.parse(text)):
            raise ValueError(f"expected an address to {use}; {remedy}")
        return text

    return AfterValidator(check)


def _can_be_reached(address: addresses.Address) -> bool:
    return not (address.is_tcp and (address.is_wildcard or address.port is None))


Peer = Annotated[
    str,
    _address("connect to", _can_be_reached, "0.0.0.0 and * stand for all addresses of a machine: name one of them"),
]
"""Address of a socket that another program has bound."""

BusPeer = Annotated[str, AfterValidator(lambda text: text if "://" in text else f"tcp://{text}"), *Peer.__metadata__]
"""Address of a document proxy, also as ``host:port`` like Bluesky's own sockets take it."""

Address = Annotated[str, _address("bind or connect to", lambda address: True, "")]


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("expected a name")
    return text


def _prefix(text: str) -> str:
    if any(letter.isspace() for letter in text):
        raise ValueError("expected a prefix without blanks: a blank ends it on the bus")
    return text


def _web_address(text: str) -> str:
    if text not in ("local", "none") and not text.startswith(("http://", "https://")):
        raise ValueError(
            "expected 'local', 'none', or the address of a Tiled server that starts with http:// or https://"
        )
    return text


def _scheduler(text: str) -> str:
    if not re.fullmatch(r"(tcp|tls)://[^/\s]+:\d+", text):
        raise ValueError("expected the address of a Dask scheduler such as tcp://127.0.0.1:8786 or tls://HOST:8786")
    return text


SchedulerAddress = Annotated[str, AfterValidator(_scheduler)]
Name = Annotated[str, AfterValidator(_name)]
Prefix = Annotated[str, AfterValidator(_prefix)]
TiledServer = Annotated[str, AfterValidator(_web_address)]


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"expected a file, got {'a folder' if path.is_dir() else 'nothing'} at {path.resolve()}")
    return path


def _possible_folder(path: Path) -> Path:
    for place in (path, *path.resolve().parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"expected a folder; {place.resolve()} is a file")
    return path


def _possible_file(path: Path) -> Path:
    if path.is_dir():
        raise ValueError(f"expected a file; {path.resolve()} is a folder")
    _possible_folder(path.parent)
    return path


ExistingFile = Annotated[Path, AfterValidator(_existing_file)]
PossibleFile = Annotated[Path, AfterValidator(_possible_file)]
PossibleFolder = Annotated[Path, AfterValidator(_possible_folder)]


def _recipe(text: str) -> str:
    from cdi_stream.errors import ConfigError
    from cdi_stream.phasing.recipe import parse_recipe  # brings torch: only where a recipe is given

    try:
        parse_recipe(text)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return text


RecipeText = Annotated[str, AfterValidator(_recipe)]
