"""Numbers that describe a crystal on a lab grid: size, d-spacing, strain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdi_stream.geometry.affine import AffineMap, Floats
from cdi_stream.physics.strain import level, solid, strain


def describe(density: NDArray[np.complex64], support: NDArray[np.bool_], affine: AffineMap) -> dict[str, float]:
    """Return plain numbers of a crystal in lab coordinates [z, y, x]; see the keys.

    The box is that of amplitudes above 30 % of the largest.  The d-spacing is that of the mean lattice, and strain
    is counted from it; 1st and 99th percentile where the crystal is solid are given (`cdi_stream.physics.strain`).
    """
    voxel_m = float(np.linalg.norm(affine.br[:, 0]))
    size_z, size_y, size_x = box_vox(np.abs(density)) * voxel_m * 1e9
    is_solid = solid(density, support)
    flat, mean = level(density, is_solid, affine)
    low, high = _ends(strain(flat, is_solid, mean))
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


def box_vox(amplitude: NDArray[np.float32], threshold: float = 0.3) -> NDArray[np.float64]:
    """Extent along each axis [voxels] of where the amplitude exceeds ``threshold`` of its maximum."""
    if not amplitude.any():
        return np.zeros(3)
    inside = np.argwhere(amplitude > threshold * amplitude.max())
    result: NDArray[np.float64] = (np.ptp(inside, axis=0) + 1).astype(float)
    return result


def _ends(values: Floats) -> tuple[float, float]:
    """1st and 99th percentile of what is known; zeros if nothing is."""
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, (1, 99)) if len(known) else (0.0, 0.0)
    return float(low), float(high)
