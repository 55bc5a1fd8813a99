"""Base of the sections of the configuration: frozen, with unknown keys refused, and errors in plain words."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from cdi_stream.errors import ConfigError, GeometryError, PluginError
from cdi_stream.registry import names


class Section(BaseModel):
    """One table of the configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def require_plugin(group: str, name: str) -> str:
    """Return the name of a plugin; raises `ValueError`, with the installed names, if it is not installed."""
    if name not in names(group):
        raise ValueError(f"unknown name; installed are: {', '.join(names(group)) or 'none'}")
    return name


def in_words(read: Any, value: Any) -> Any:
    """Return ``read(value)``; the errors of ``read`` become `ValueError`, which pydantic reports with the key."""
    try:
        return read(value)
    except (ConfigError, GeometryError, PluginError) as error:
        raise ValueError(str(error)) from error


def require_both(**keys: object) -> None:
    """Raise `ValueError` if one of two keys has a value and the other has none."""
    if len({value is None for value in keys.values()}) > 1:
        raise ValueError(f"expected {' and '.join(keys)} together, got one of them")
