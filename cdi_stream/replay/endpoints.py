"""Make the configuration of a replay: its own endpoints and folders, and the settings of a scan or a configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cdi_stream.config import Config
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.messages import RecordedScan

UNKNOWN_BEAMLINE = {
    "name": "unknown",
    "sample_circles": [],
    "detector_circles": [],
    "row_direction": "y-",
    "col_direction": "x+",
}
"""Beamline of a recording without a beamline; its frames can be replayed, but have no angles."""

PLACES: dict[str, bool | set[str]] = {
    "detector": {"endpoint"},
    "documents": True,
    "assemble": {"directory"},
    "publish": {
        "directory",
        "folder",
        "folder_mode",
        "folder_group",
        "tiled",
        "tiled_port",
        "epics_prefix",
        "epics_interfaces",
        "epics_port",
        "tiled_api_key",
        "json_lines",
    },
    "refine": True,
    "retention": True,
    "feed": True,
    "dashboard": True,
}
"""Sections and keys of a configuration that a replay replaces: endpoints, folders, refinement, retention and pages.

A replay takes all other keys from a given configuration.
"""


def example_config(scan: RecordedScan, directory: Path) -> str:
    """Return the configuration (TOML) of a replay without a given configuration, from what the scan has on record.

    All files of the replay lie in ``directory``.
    """
    beamline = scan.beamline or UNKNOWN_BEAMLINE
    geometry = {"beamline" if isinstance(beamline, str) else "inline": beamline}
    return to_toml(_with_own_places(_on_record(scan, directory) | {"geometry": geometry}, directory))


def _on_record(scan: RecordedScan, directory: Path) -> dict[str, dict[str, str]]:
    """Return the settings that a scan has on record: its white field, which is written, and its monitor."""
    detector: dict[str, str] = {}
    if scan.white_field is not None:
        white_field = directory.resolve() / "white_field.npy"
        np.save(white_field, scan.white_field)
        detector["white_field"] = str(white_field)
    monitor = next((name for name in scan.scanned if name.lower() == "monitor"), None)
    return {"detector": detector, "assemble": {} if monitor is None else {"monitor": monitor}}


def own_config(config: Config, scan: RecordedScan | None, directory: Path, *, is_refining: bool = False) -> str:
    """Return the configuration (TOML) of a replay with the settings of a given configuration.

    A service that runs with ``config`` receives nothing of the replay.  White field and monitor that the scan has on
    record are used where the configuration names none.

    Parameters
    ----------
    config
        Configuration whose settings are used.  Its endpoints are replaced by free ports of this machine, its Tiled
        server by one of the replay.
    scan
        Scan that is replayed; None where nothing is on record but documents and images.
    directory
        Folder for all files of the replay.
    is_refining
        Whether the section ``refine`` is kept; else the replay does not refine.
    """
    settings = config.model_dump(mode="json", exclude=PLACES, exclude_unset=True, exclude_none=True)
    for name, section in ({} if scan is None else _on_record(scan, directory)).items():
        settings[name] = section | settings.get(name, {})
    if is_refining:
        settings["refine"] = config.refine.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    if config.publish.tiled is None:
        settings.setdefault("publish", {})["tiled"] = "none"
    return to_toml(_with_own_places(settings, directory))


def _with_own_places(settings: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    detector, documents_in, documents_out = (f"tcp://127.0.0.1:{free_port()}" for _ in range(3))
    places: dict[str, dict[str, Any]] = {
        "detector": {"endpoint": detector},
        "documents": {"subscribe": documents_out, "publish": documents_in},
        "publish": {"directory": str(directory.resolve())},
        "refine": {"methods": []},
    }
    sections = {name: section | settings.get(name, {}) for name, section in places.items()}
    return sections | {name: section for name, section in settings.items() if name not in sections and section != {}}


def to_toml(config: Mapping[str, Any]) -> str:
    """Return a configuration as TOML: plain values first, then one table for each section."""
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    texts = [_lines(plain)] if plain else []
    return "\n".join([*texts, *(f"[{name}]\n{_lines(section)}" for name, section in tables.items())])


def _lines(section: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {_value(value)}\n" for key, value in section.items())


def _key(key: str) -> str:
    is_bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if is_bare else _value(key)


def _value(value: Any) -> str:
    """Return a value in TOML: texts, numbers, booleans and lists as in JSON, mappings as inline tables."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
