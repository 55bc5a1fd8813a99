"""Strain of a complex crystal, from the phase differences of neighbouring voxels, without phase unwrapping.

Sign convention of `cdi_stream.numerics.fourier`: phase = +Q.u for fourier_sign +1.  The grid of the crystal may be
skewed or left-handed: B_r converts gradients along the axes of the array to gradients in lab axes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from cdi_stream.geometry.affine import AffineMap, Floats
from cdi_stream.numerics.boxes import bounding_box

Complex = NDArray[np.complexfloating[Any, Any]]
Mask = NDArray[np.bool_]


def typical_amplitude(amplitude: Floats) -> float:
    """Return the typical amplitude inside the crystal, sum a^2 / sum a; 0 for an empty crystal.

    Empty voxels of a loose support do not lower it, and a single bright voxel hardly raises it.
    """
    return float((amplitude**2).sum() / max(float(amplitude.sum()), 1e-30))


def significant_voxels(density: Complex, support: Mask, share: float = 0.5) -> Mask:
    """Return where the phase means something: in the support, amplitude above ``share`` of `typical_amplitude`.

    A support is often loose.  The phase of a nearly empty voxel is noise, which would look like a large strain.
    """
    amplitude = np.abs(density) * support
    return amplitude > share * typical_amplitude(amplitude)


def phase_gradient(density: Complex, support: Mask) -> Floats:
    """Return the change of the phase from voxel to voxel along each array axis, ``(n_axes, *shape)`` [rad].

    The value of a voxel is the mean of the phase differences to its neighbours along the axis: two inside the
    support, one at its border (where the value belongs to a point half a voxel further inside).  A voxel of the support
    without such neighbours gets the mean of the 3x3x3 voxels about it.  NaN outside the support, and where these have
    no neighbours either.  Each difference is taken within pi of the mean difference of the crystal, so a steep phase
    ramp is correct.
    """
    gradient = np.full((density.ndim, *density.shape), np.nan)
    box = bounding_box(support)
    for axis in range(density.ndim):
        gradient[axis][box] = _gradient_along(axis, density[box], support[box])
    return gradient


def remove_phase_ramp(density: Complex, support: Mask, affine: AffineMap) -> tuple[Complex, AffineMap]:
    """Return the crystal without the ramp and the offset of its phase, and the map of its mean lattice.

    An empty crystal is returned unchanged.
    """
    ramp = phase_ramp(phase_gradient(density, support), density, support)
    if ramp is None:
        return density, affine
    result = density
    for axis, (step, n) in enumerate(zip(ramp, density.shape, strict=True)):
        wave = np.exp(-1j * step * (np.arange(n) - n // 2)).astype(density.dtype)
        result = result * np.expand_dims(wave, [k for k in range(density.ndim) if k != axis])
    inside = result[support]
    result *= np.exp(-1j * np.angle((inside * np.abs(inside)).sum()))
    return result, of_mean_lattice(affine, ramp, density.shape)


def phase_ramp(gradient: Floats, density: Complex, support: Mask) -> Floats | None:
    """Return the mean of a `phase_gradient` ``(n_axes,)`` [rad], weighted with |rho|^2; None for an empty crystal.

    It is the centroid of the diffraction for any range of the phase.
    """
    weight = np.abs(density) ** 2 * support
    return np.array([_mean(along, weight) for along in gradient]) if weight.any() else None


def of_mean_lattice(affine: AffineMap, ramp: Floats, shape: tuple[int, ...]) -> AffineMap:
    """Return a map with Q0 shifted by a phase ramp ``(n_axes,)`` [rad] of a crystal of this shape.

    The new Q0 is the mean Q of the crystal: its mean lattice spacing is 2 pi / |Q0|.
    """
    # F(q) = sum |rho| exp(i ramp.r) exp(i s q.r) has its maximum at q = -s ramp.
    shift_vox = -affine.fourier_sign * ramp * shape / (2 * np.pi)
    return replace(affine, q0=affine.q(np.array(shape) // 2 + shift_vox))


def strain(density: Complex, support: Mask, affine: AffineMap) -> Floats:
    """Return the strain along Q, relative to the lattice spacing 2 pi / |Q0|, ``(*shape)``; NaN outside the support.

    Qhat.grad(phase) / |Q|; positive where the lattice is wider than 2 pi / |Q0|.
    """
    return strain_of(phase_gradient(density, support), affine)


def strain_of(gradient: Floats, affine: AffineMap) -> Floats:
    """Return the `strain` of a `phase_gradient`."""
    along_q = np.linalg.solve(affine.br, affine.q0) / (affine.q0 @ affine.q0)
    return affine.fourier_sign * np.tensordot(along_q, gradient, axes=1)


def _gradient_along(axis: int, density: Complex, support: Mask) -> Floats:
    density, support = np.moveaxis(density, axis, 0), np.moveaxis(support, axis, 0)
    is_bond = support[1:] & support[:-1]
    bond = density[1:] * density[:-1].conj() * is_bond
    mean = np.angle(bond.sum())
    difference = (np.angle(bond * np.exp(-1j * mean)) + mean) * is_bond
    total, n_bonds = np.zeros(density.shape), np.zeros(density.shape)
    for end in (slice(1, None), slice(None, -1)):
        total[end] += difference
        n_bonds[end] += is_bond
    lonely = support & (n_bonds == 0)
    if lonely.any():
        total[lonely], n_bonds[lonely] = (uniform_filter(sums, 3, mode="constant")[lonely] for sums in (total, n_bonds))
    n_bonds[n_bonds < 1e-3] = np.nan
    return np.moveaxis(total / n_bonds, 0, axis)


def _mean(values: Floats, weight: Floats) -> float:
    """Return the weighted mean of the finite values; 0 if there is none."""
    weight = weight * np.isfinite(values)
    return float((np.nan_to_num(values) * weight).sum() / max(weight.sum(), 1e-300))
