"""Beamline and fixed geometry of a scan, from a beamline's name, its value, or a configuration file."""

from __future__ import annotations

from pathlib import Path

from cdi_stream.config import FixedGeometry, read_config
from cdi_stream.errors import GeometryError
from cdi_stream.files.intensities.scans import Placement
from cdi_stream.geometry.circles import Beamline
from cdi_stream.registry import load


def placement_of(beamline: Beamline | str | Path) -> Placement:
    """Return the beamline with the numbers that are fixed for it.

    Parameters
    ----------
    beamline
        Beamline, the name of an installed beamline, or the path of a configuration of the service, in TOML.

    Raises
    ------
    GeometryError
        If ``beamline`` is of another kind.
    PluginError
        If no beamline of this name is installed.
    ConfigError
        If the configuration cannot be read.
    """
    if isinstance(beamline, Beamline):
        return Placement(beamline=beamline, fixed=FixedGeometry())
    if not isinstance(beamline, str | Path):
        raise GeometryError(
            f"beamline: expected a cdi_stream.Beamline, a name or the path of a configuration, got {beamline!r}"
        )
    if isinstance(beamline, Path) or beamline.endswith(".toml"):
        return configured_placement(Path(beamline))
    return Placement(beamline=load("cdi_stream.beamline", beamline), fixed=FixedGeometry())


def configured_placement(path: Path) -> Placement:
    """Return the beamline and the fixed numbers of a configuration of the service; raises `ConfigError`."""
    geometry = read_config(path).geometry
    return Placement(beamline=geometry.value(), fixed=geometry)
