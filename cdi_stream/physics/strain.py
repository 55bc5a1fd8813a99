"""Strain of a complex crystal from its neighbours' phases, with nothing unwrapped.

Sign convention of `cdi_stream.numerics.fourier`: phase = +Q.u for fourier_sign +1.  A crystal on any grid will do,
skewed or left-handed: gradients along the array's axes become gradients in lab axes through B_r.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from cdi_stream.geometry.affine import AffineMap, Floats

Complex = NDArray[np.complexfloating[Any, Any]]
Mask = NDArray[np.bool_]


def typical_amplitude(amplitude: Floats) -> float:
    """Return sum a^2 / sum a, which neither a loose support lowers nor a bright voxel raises; 0 if all is empty."""
    return float((amplitude**2).sum() / max(float(amplitude.sum()), 1e-30))


def significant_voxels(density: Complex, support: Mask, share: float = 0.5) -> Mask:
    """Where there is crystal: in the support, amplitude above ``share`` of the typical.

    A support is often loose, and phases of all but empty voxels are noise that would pass for large strains.
    """
    amplitude = np.abs(density) * support
    return amplitude > share * typical_amplitude(amplitude)


def phase_gradient(density: Complex, support: Mask) -> Floats:
    """Change of phase from voxel to voxel along each array axis, ``(n_axes, *shape)`` [rad].

    The mean over the bonds to neighbours within the support: two inside it, one at its border, where the value is
    that half a voxel further in; a voxel without a bond is as those about it.  NaN outside the support, and within
    if nothing near has a bond.  A bond's turn is taken within half a turn of the crystal's mean, so that steep ramps
    do no harm.
    """
    gradient = np.full((density.ndim, *density.shape), np.nan)
    box = _box(support)
    for axis in range(density.ndim):
        gradient[axis][box] = _gradient_along(axis, density[box], support[box])
    return gradient


def remove_phase_ramp(density: Complex, support: Mask, affine: AffineMap) -> tuple[Complex, AffineMap]:
    """Remove the ramp and the offset of the phase; the ramp goes into Q0 of the map that is returned.

    Weighted with |rho|^2 the mean of the phase's gradient is the centroid of the diffraction, whatever the range of
    the phase: the new Q0 is where the crystal diffracts, its mean spacing is 2 pi/|Q0|, and Q0 less the old one
    [1/m] is the shift that was removed.  An empty crystal is returned as it came.
    """
    weight = np.abs(density) ** 2 * support
    if not weight.any():
        return density, affine
    ramp = np.array([_mean(turn, weight) for turn in phase_gradient(density, support)])
    flat = density
    for axis, (step, n) in enumerate(zip(ramp, density.shape, strict=True)):
        wave = np.exp(-1j * step * (np.arange(n) - n // 2)).astype(density.dtype)
        flat = flat * np.expand_dims(wave, [k for k in range(density.ndim) if k != axis])
    inside = flat[support]
    flat *= np.exp(-1j * np.angle((inside * np.abs(inside)).sum()))
    # F(q) = sum |rho| exp(i ramp.r) exp(i s q.r) has its maximum at q = -s ramp.
    shift_vox = -affine.fourier_sign * ramp * density.shape / (2 * np.pi)
    return flat, replace(affine, q0=affine.q(np.array(density.shape) // 2 + shift_vox))


def strain(density: Complex, support: Mask, affine: AffineMap) -> Floats:
    """Strain along Q relative to the lattice of Q0: Qhat.grad(phase)/|Q|, the array's shape; NaN outside the support.

    Positive where the lattice is wider than 2 pi/|Q0|.
    """
    along_q = np.linalg.solve(affine.br, affine.q0) / (affine.q0 @ affine.q0)
    return affine.fourier_sign * np.tensordot(along_q, phase_gradient(density, support), axes=1)


def _gradient_along(axis: int, density: Complex, support: Mask) -> Floats:
    density, support = np.moveaxis(density, axis, 0), np.moveaxis(support, axis, 0)
    is_bond = support[1:] & support[:-1]
    bond = density[1:] * density[:-1].conj() * is_bond
    mean = np.angle(bond.sum())
    turn = (np.angle(bond * np.exp(-1j * mean)) + mean) * is_bond
    total, n_bonds = np.zeros(density.shape), np.zeros(density.shape)
    for end in (slice(1, None), slice(None, -1)):
        total[end] += turn
        n_bonds[end] += is_bond
    lonely = support & (n_bonds == 0)
    if lonely.any():
        total[lonely], n_bonds[lonely] = (uniform_filter(sums, 3, mode="constant")[lonely] for sums in (total, n_bonds))
    n_bonds[n_bonds < 1e-3] = np.nan
    return np.moveaxis(total / n_bonds, 0, axis)


def _mean(values: Floats, weight: Floats) -> float:
    """Weighted mean of what is known; 0 if nothing is."""
    weight = weight * np.isfinite(values)
    return float((np.nan_to_num(values) * weight).sum() / max(weight.sum(), 1e-300))


def _box(support: Mask) -> tuple[slice, ...]:
    """Smallest box that holds the support."""
    index = np.argwhere(support)
    if not len(index):
        return (slice(0, 0),) * support.ndim
    return tuple(slice(low, high + 1) for low, high in zip(index.min(axis=0), index.max(axis=0), strict=True))
