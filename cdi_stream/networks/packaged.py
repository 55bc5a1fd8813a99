"""Networks that come with the package, by name."""

from __future__ import annotations

from pathlib import Path

from cdi_stream.errors import ConfigError

_FOLDER = Path(__file__).parent / "weights"


def packaged() -> dict[str, Path]:
    """Name and file of each."""
    return {file.stem.replace("_", "-"): file for file in sorted(_FOLDER.glob("*.pt"))}


def network_file(name_or_file: str | Path) -> Path:
    """The file of a network by its name, or any other by its path: whatever has a suffix or a folder is a path.

    Raises
    ------
    ConfigError
        If no network of this name comes with the package.
    """
    path = Path(name_or_file)
    if path.suffix or path.name != str(name_or_file):
        return path
    if path.name not in packaged():
        raise ConfigError(f"network: expected a file or one of {', '.join(packaged())}, got {str(name_or_file)!r}")
    return packaged()[path.name]


DEFAULT = "unrolled"
"""The one that is used if none is named."""
DEFAULT_NETWORK = network_file(DEFAULT)
