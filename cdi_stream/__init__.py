"""Live 3D imaging of nanocrystals at Bragg coherent diffraction beamlines.

A detector streams the frames of a rocking curve over ZeroMQ while a Bluesky plan turns the crystal::

    receive -> assemble -> prepare -> correct -> infer -> phase -> publish

*receive* decodes wire messages, *assemble* joins frames and angles by id, *prepare* marks what may be
trusted and crops about the peak, *correct* takes intensities from skew detector axes to lab axes, *infer*
asks a network for the crystal, *phase* searches on the measured voxels from there, and *publish* hands out
Bluesky documents.  Conventions are in `cdi_stream.geometry.circles`.

In scripts and notebooks::

    import cdi_stream as cdi

    result = cdi.phase(cdi.read("scan.h5"), progress=cdi.progress_bar())
    result.verdict, result.metrics
    result.plot()
    result.strain()  # in lab coordinates, where the scan tells its geometry
    result.save("crystal.npz")

Public names are imported when they are first used (PEP 562): ``import cdi_stream`` takes a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cdi_stream.errors import (
    CdiStreamError,
    ConfigError,
    CurveError,
    EndpointError,
    GeometryError,
    InputError,
    IntensitiesError,
    NetworkFileError,
    PluginError,
    RecordingError,
    ServiceError,
    WireError,
    missing_package,
)

if TYPE_CHECKING:
    from cdi_stream.files.intensities.volume import Intensities
    from cdi_stream.geometry.affine import AffineMap
    from cdi_stream.geometry.circles import Beamline, Circle, DetectorPlacement
    from cdi_stream.interface.from_counts import phase
    from cdi_stream.interface.from_curve import reconstruct, rocking_curve
    from cdi_stream.interface.from_file import load_result, read
    from cdi_stream.interface.progress import Progress, progress_bar
    from cdi_stream.interface.reconstruction import Reconstruction
    from cdi_stream.messages import RockingCurve, Verdict
    from cdi_stream.metrics import Metrics
    from cdi_stream.physics.surface import Surface

__all__ = [
    "AffineMap",
    "Beamline",
    "CdiStreamError",
    "Circle",
    "ConfigError",
    "CurveError",
    "DetectorPlacement",
    "EndpointError",
    "GeometryError",
    "InputError",
    "Intensities",
    "IntensitiesError",
    "Metrics",
    "NetworkFileError",
    "PluginError",
    "Progress",
    "Reconstruction",
    "RecordingError",
    "RockingCurve",
    "ServiceError",
    "Surface",
    "Verdict",
    "WireError",
    "load_result",
    "phase",
    "progress_bar",
    "read",
    "reconstruct",
    "rocking_curve",
]

_HOMES = {
    "AffineMap": "geometry.affine",
    "Beamline": "geometry.circles",
    "Circle": "geometry.circles",
    "DetectorPlacement": "geometry.circles",
    "Intensities": "files.intensities.volume",
    "Metrics": "metrics",
    "Progress": "interface.progress",
    "Reconstruction": "interface.reconstruction",
    "RockingCurve": "messages",
    "Surface": "physics.surface",
    "Verdict": "messages",
    "load_result": "interface.from_file",
    "phase": "interface.from_counts",
    "progress_bar": "interface.progress",
    "read": "interface.from_file",
    "reconstruct": "interface.from_curve",
    "rocking_curve": "interface.from_curve",
}
"""Module of each public name that is imported on its first use."""


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        raise ImportError(missing_package(error.name)) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
