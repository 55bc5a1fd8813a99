"""Base of the sections of the configuration: frozen, unknown keys refused, plain words for what is wrong."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from cdi_stream.errors import ConfigError, GeometryError, PluginError
from cdi_stream.registry import names


class Section(BaseModel):
    """One table of the configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def require_plugin(group: str, name: str) -> str:
    """Return the name of an installed plugin; raises `ValueError` with the names that are."""
    if name not in names(group):
        raise ValueError(f"unknown name; installed are: {', '.join(names(group)) or 'none'}")
    return name


def in_words(read: Any, value: Any) -> Any:
    """Return what ``read`` makes of a value; its errors become `ValueError`, which pydantic reports with the key."""
    try:
        return read(value)
    except (ConfigError, GeometryError, PluginError) as error:
        raise ValueError(str(error)) from error
