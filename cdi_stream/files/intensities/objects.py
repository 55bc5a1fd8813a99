"""Write a phased object as an npz file without pickle; the file gets its name only when it is complete and on disk.

The file always holds ``object`` (complex64), ``support`` (bool) and ``fourier_sign``, on the grid of the intensities.
Where the geometry is known it also holds ``object_lab`` and ``support_lab`` on a lab grid [z, y, x] with cubic voxels,
and the map of that grid: ``lab_q0_inv_m``, ``lab_bq_inv_m``, ``lab_br_m``, ``lab_sample_to_lab``, ``lab_coordinates``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cdi_stream.disk.atomic import atomic_write
from cdi_stream.errors import ConfigError
from cdi_stream.geometry.affine import AffineMap, Shape
from cdi_stream.geometry.circles import FOURIER_SIGN
from cdi_stream.inversion.correct import centre_of_mass, crystal_to, fitting_lab_grid, support_to

LAB_SHAPE: Shape = (96, 96, 96)
"""Shape [z, y, x] of the lab grid of a phased object [voxels]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabObject:
    """A crystal on a lab grid [z, y, x], its centre of mass at the origin voxel; arrays share the map's shape."""

    density: NDArray[np.complex64]
    support: NDArray[np.bool_]
    affine: AffineMap


def lab_object(crystal: Tensor, support: Tensor, affine: AffineMap, shape: Shape = LAB_SHAPE) -> LabObject:
    """Return a crystal resampled to a lab grid that holds its support.

    Parameters
    ----------
    crystal, support
        Crystal in the working array, in which the Bragg peak is the origin voxel.  An object on the file's grid has a
        phase ramp too steep for interpolation.
    affine
        Map of the working array.
    shape
        Shape of the lab grid [z, y, x].
    """
    density, inside = crystal.detach(), support.detach()
    target = fitting_lab_grid(inside.cpu().numpy(), affine, shape)
    centre = centre_of_mass(density.cpu().numpy())
    return LabObject(
        density=crystal_to(density, affine, target, centre).cpu().numpy().astype(np.complex64),
        support=support_to(inside, affine, target, centre).cpu().numpy(),
        affine=target,
    )


def require_writable(path: Path, option: str = "--out") -> None:
    """Check before the computation that the output file of an option can be written.

    Raises
    ------
    ConfigError
        If the file cannot be written, or is a folder.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".part").open("wb"):
            pass
        path.with_name(path.name + ".part").unlink()
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be written: {error}; choose another place") from error
    if path.is_dir():
        raise ConfigError(f"{option} {path}: expected a file's name, got a folder; choose another place")


def write_object(path: Path, density: Tensor, support: Tensor, lab: LabObject | None = None) -> None:
    """Write an object and its support, both of the intensities' shape, and the crystal in lab axes if there is one.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    """
    arrays = object_arrays(density.detach().cpu().numpy(), support.detach().cpu().numpy(), lab)
    try:
        with atomic_write(path) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        raise ConfigError(f"--out {path}: cannot be written: {error}; choose another place") from error


def object_arrays(density: NDArray[Any], support: NDArray[Any], lab: LabObject | None = None) -> dict[str, Any]:
    """Return the arrays of an object's file by name: object and support, also in lab axes if there is a lab object.

    Raises
    ------
    ValueError
        If object and support differ in shape.
    """
    if density.shape != support.shape:
        raise ValueError(f"object {density.shape} and support {support.shape} differ in shape")
    arrays: dict[str, Any] = {
        "object": density.astype(np.complex64),
        "support": support.astype(bool),
        "fourier_sign": np.int64(FOURIER_SIGN),
    }
    if lab is not None:
        arrays |= {"object_lab": lab.density.astype(np.complex64), "support_lab": lab.support, **_map(lab.affine)}
    return arrays


def require_npz(path: Path) -> None:
    """Raise `ConfigError` unless the name ends in ``.npz``, the format that is written."""
    if path.suffix != ".npz":
        raise ConfigError(
            f"--out {path}: expected a name that ends in .npz, got {path.suffix or 'no suffix'!r}; change the ending"
        )


def free_name(folder: Path, stem: str) -> Path:
    """Return an unused name for an object in a folder: ``STEM_object.npz``, ``STEM_object.1.npz`` and so on."""
    names = (f"{stem}_object{dot}.npz" for dot in chain([""], (f".{k}" for k in count(1))))
    return next(path for path in map(folder.joinpath, names) if not path.exists())


def _map(affine: AffineMap) -> dict[str, Any]:
    return {
        "lab_q0_inv_m": affine.q0,
        "lab_bq_inv_m": affine.bq,
        "lab_br_m": affine.br,
        "lab_sample_to_lab": affine.sample_to_lab,
        "lab_coordinates": np.str_(affine.coordinates),
    }
