"""Numbers that describe a crystal on a lab grid: size, d-spacing, strain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdi_stream.affine import AffineMap


def describe(density: NDArray[np.complex64], support: NDArray[np.bool_], affine: AffineMap) -> dict[str, float]:
    """Return plain numbers of a crystal in lab coordinates [z, y, x]; see the keys.

    The box is that of amplitudes above 30 % of the largest.  Strain is Qhat.grad(phase)/|Q| inside the
    support, its mean removed (the mean is in the d-spacing); 1st and 99th percentile are given.
    """
    voxel_m = float(np.linalg.norm(affine.br[:, 0]))
    size_z, size_y, size_x = box_vox(np.abs(density)) * voxel_m * 1e9
    mean, low, high = strain(density, support, affine.q0, voxel_m)
    return {
        "voxel_size_m": voxel_m,
        "size_lab_x_nm": float(size_x),
        "size_lab_y_nm": float(size_y),
        "size_lab_z_nm": float(size_z),
        "support_volume_nm3": float(support.sum()) * (voxel_m * 1e9) ** 3,
        "d_spacing_m": 2 * np.pi / float(np.linalg.norm(affine.q0)) * (1 + mean),
        "strain_low": low,
        "strain_high": high,
    }


def box_vox(amplitude: NDArray[np.float32], threshold: float = 0.3) -> NDArray[np.float64]:
    """Extent along each axis [voxels] of where the amplitude exceeds ``threshold`` of its maximum."""
    if not amplitude.any():
        return np.zeros(3)
    inside = np.argwhere(amplitude > threshold * amplitude.max())
    return (np.ptp(inside, axis=0) + 1).astype(float)


def strain(
    density: NDArray[np.complex64], support: NDArray[np.bool_], q0: NDArray[np.float64], voxel_m: float
) -> tuple[float, float, float]:
    """Mean strain along Q, and the 1st and 99th percentile about the mean, inside the support.

    The phase's gradient comes from neighbours' phase differences, each within half a turn, so that no
    unwrapping is needed.
    """
    gradient = np.zeros(density.shape)
    inside = support.copy()
    for axis, component in enumerate(q0[::-1]):
        ahead, behind = np.roll(density, -1, axis), np.roll(density, 1, axis)
        turn = np.angle(ahead * density.conj()) + np.angle(density * behind.conj())
        gradient += component * turn / (2 * voxel_m)
        inside &= np.roll(support, -1, axis) & np.roll(support, 1, axis)
    if not inside.any():
        return 0.0, 0.0, 0.0
    values = gradient[inside] / float(q0 @ q0)
    low, high = np.percentile(values - values.mean(), (1, 99))
    return float(values.mean()), float(low), float(high)
