"""Measure size, d-spacing and strain of a crystal on a lab grid."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from cdi_stream.geometry.affine import AffineMap, Floats
from cdi_stream.numerics.boxes import bounding_box
from cdi_stream.physics.strain import (
    of_mean_lattice,
    phase_gradient,
    phase_ramp,
    significant_voxels,
    strain_of,
)


class CrystalSize(TypedDict):
    """Metrics of a crystal on a lab grid, see `cdi_stream.metrics.Metrics`."""

    voxel_size_m: float
    size_lab_x_nm: float
    size_lab_y_nm: float
    size_lab_z_nm: float
    support_volume_nm3: float
    d_spacing_m: float
    strain_low: float
    strain_high: float


def describe(density: NDArray[np.complex64], support: NDArray[np.bool_], affine: AffineMap) -> CrystalSize:
    """Return size, volume, d-spacing and strain of a crystal by name; arrays are ``[z, y, x]`` in lab coordinates.

    The sizes are the sides of the box around amplitudes above 30 % of the largest.  The d-spacing is that of the mean
    lattice.  Strain is relative to the mean lattice; ``strain_low`` and ``strain_high`` are its 1st and 99th
    percentile over the significant voxels (`cdi_stream.physics.strain`).
    """
    voxel_m = float(np.linalg.norm(affine.br[:, 0]))
    size_z, size_y, size_x = box_vox(np.abs(density)) * voxel_m * 1e9
    low, high, mean = _lattice(density, support, affine)
    return {
        "voxel_size_m": voxel_m,
        "size_lab_x_nm": float(size_x),
        "size_lab_y_nm": float(size_y),
        "size_lab_z_nm": float(size_z),
        "support_volume_nm3": float(support.sum()) * (voxel_m * 1e9) ** 3,
        "d_spacing_m": 2 * np.pi / float(np.linalg.norm(mean.q0)),
        "strain_low": low,
        "strain_high": high,
    }


def _lattice(
    density: NDArray[np.complex64], support: NDArray[np.bool_], affine: AffineMap
) -> tuple[float, float, AffineMap]:
    """Return the ends of the strain, and the map with the mean Q of the crystal."""
    box = bounding_box(support)
    inside = density[box]
    if not inside.size:
        return 0.0, 0.0, affine
    is_significant = significant_voxels(inside, support[box])
    gradient = phase_gradient(inside, is_significant)
    ramp = phase_ramp(gradient, inside, is_significant)
    if ramp is None:
        return 0.0, 0.0, affine
    mean = of_mean_lattice(affine.of_crystal(inside.shape), ramp, inside.shape)
    return *_ends(strain_of(gradient - ramp[:, None, None, None], mean)), mean


def box_vox(amplitude: NDArray[np.float32], threshold: float = 0.3) -> NDArray[np.float64]:
    """Return the extent along each axis [voxels] of the amplitudes above ``threshold`` times the maximum."""
    if not amplitude.any():
        return np.zeros(3)
    box = bounding_box(amplitude > threshold * amplitude.max())
    return np.array([float(along.stop - along.start) for along in box])


def _ends(values: Floats) -> tuple[float, float]:
    """Return the 1st and 99th percentile of the finite values; zeros if there is no finite value."""
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (1, 99)) if len(finite) else (0.0, 0.0)
    return float(low), float(high)
