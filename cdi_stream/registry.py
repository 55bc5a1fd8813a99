"""Plugins by entry point: listed without importing, loaded by name, refused with a remedy."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from cdi_stream.errors import PluginError

GROUPS = ("cdi_stream.decoder", "cdi_stream.beamline", "cdi_stream.reader", "cdi_stream.sink")


def names(group: str) -> tuple[str, ...]:
    """Names installed in a group."""
    return tuple(sorted({point.name for point in entry_points(group=group)}))


def load(group: str, name: str) -> Any:
    """Load one plugin.

    Raises
    ------
    PluginError
        If the name is unknown, provided twice, or its import fails.
    """
    found = [point for point in entry_points(group=group) if point.name == name]
    if not found:
        raise PluginError(f"unknown {group} {name!r}; installed are: {', '.join(names(group)) or 'none'}")
    providers = {_provider(point) for point in found}
    if len(providers) > 1:
        raise PluginError(f"{group} {name!r} is provided by {' and '.join(sorted(providers))}: uninstall one")
    try:
        return found[0].load()
    except Exception as error:  # import of foreign code may raise anything
        raise PluginError(f"{group} {name!r} of {_provider(found[0])} cannot be imported: {error}") from error


def _provider(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
