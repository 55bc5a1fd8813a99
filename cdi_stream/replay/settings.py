"""Settings of a past scan's reconstruction: a configuration with single keys replaced."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from cdi_stream.config import Config, read_config
from cdi_stream.disk.atomic import atomic_write
from cdi_stream.errors import ConfigError
from cdi_stream.messages import RecordedScan
from cdi_stream.replay.endpoints import example_config, own_config, to_toml


def settings_of(
    config_file: Path | None, scan: RecordedScan | None, directory: Path, changes: Sequence[str]
) -> tuple[Config, Path]:
    """Return the configuration for a past scan, and the file in ``directory`` that holds it.

    Parameters
    ----------
    config_file
        Configuration whose settings are used; None takes what the scan has on record.
    scan
        Recorded scan; None for a run from an archive.
    directory
        Folder for all files of the reconstruction.
    changes
        Keys that are replaced, each as ``section.key=value``.

    Raises
    ------
    ConfigError
        If the configuration is wrong, or is needed and not given.
    """
    if config_file is not None:
        text = own_config(read_config(config_file), scan, directory)
    elif scan is not None:
        text = example_config(scan, directory)
    else:
        raise ConfigError(
            "expected --config with the configuration of the beamline, got none: the documents of a run do not say how "
            "its goniometer is built"
        )
    tables: dict[str, object] = tomllib.loads(text)
    for change in changes:
        _replace(tables, change)
    path = directory / "reconstruct.toml"
    with atomic_write(path) as part:
        part.write_text(to_toml(tables), encoding="utf-8")
    return read_config(path), path


def _replace(tables: dict[str, object], change: str) -> None:
    """Replace one key of a configuration; raises `ConfigError` for a text of another form."""
    name, equals, text = change.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f"--set: expected section.key=value, as phase.budget_s=20, got {change!r}")
    *sections, key = keys
    table = tables
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {change}: expected a table at {section!r}, got {inner!r}")
        table = inner
    table[key] = _value(text.strip())


def _value(text: str) -> object:
    """Return a value of TOML; a text without quotes is a text."""
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
        return value
    except tomllib.TOMLDecodeError:
        return text
