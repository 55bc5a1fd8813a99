"""Find the networks that come with the package by their names."""

from __future__ import annotations

from pathlib import Path

from cdi_stream.errors import ConfigError

_FOLDER = Path(__file__).parent / "weights"


def packaged_networks() -> dict[str, Path]:
    """Return the file of every packaged network by name.

    Each weight file has a model card (``.card.json``) and a training curve (``.curve.jsonl``) next to it.
    """
    return {file.stem.replace("_", "-"): file for file in sorted(_FOLDER.glob("*.pt"))}


def network_file(name_or_file: str | Path) -> Path:
    """Return the file of a packaged network by its name, or a path unchanged.

    A text with a suffix or a folder is a path.

    Raises
    ------
    ConfigError
        If no network of this name comes with the package.
    """
    path = Path(name_or_file)
    if path.suffix or path.name != str(name_or_file):
        return path
    files = packaged_networks()
    if path.name not in files:
        raise ConfigError(f"network: expected a file or one of {', '.join(files)}, got {str(name_or_file)!r}")
    return files[path.name]


DEFAULT = "unrolled"
"""Name of the default network."""

DEFAULT_NETWORK = network_file(DEFAULT)
"""File of the default network."""
