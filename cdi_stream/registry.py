"""Find plugins by entry point: list them without import, and load them by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from cdi_stream.errors import PluginError

GROUPS = (
    "cdi_stream.decoder",
    "cdi_stream.beamline",
    "cdi_stream.reader",
    "cdi_stream.archive",
    "cdi_stream.sink",
    "cdi_stream.source",
    "cdi_stream.engine",
)
"""Groups of entry points."""


def names(group: str) -> tuple[str, ...]:
    """Return the names of the installed plugins of a group."""
    return tuple(sorted({point.name for point in entry_points(group=group)}))


def load(group: str, name: str) -> Any:
    """Return the object of one plugin.

    Raises
    ------
    PluginError
        If the name is unknown, if two packages provide it, or if its import fails.
    """
    points = [point for point in entry_points(group=group) if point.name == name]
    if not points:
        raise PluginError(f"unknown {group} {name!r}; installed are: {', '.join(names(group)) or 'none'}")
    providers = {_provider(point) for point in points}
    if len(providers) > 1:
        raise PluginError(f"{group} {name!r} is provided by {' and '.join(sorted(providers))}: uninstall one")
    try:
        return points[0].load()
    except Exception as error:  # import of foreign code may raise anything
        raise PluginError(f"{group} {name!r} of {_provider(points[0])} cannot be imported: {error}") from error


def _provider(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
