"""The centred Fourier transform of the project and its inverse.

Sign convention of physics: F(q) = sum_r rho(r) exp(+i q.r), so a crystal that is displaced by u has the phase +Q.u.  In
terms of numpy and torch, ``ifft`` goes to reciprocal space and ``fft`` goes back.  The origin is voxel N//2 on every
axis, before and after a transform.  The pair is orthonormal: sum |F|^2 = sum |rho|^2.

*Centred order* means origin at voxel N//2, *Fourier order* means origin at voxel 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_reciprocal(crystal: Tensor, n_axes: int = 3) -> Tensor:
    """Return the Fourier transforms F(q) = sum rho exp(+i q.r) of crystals ``(..., *shape)``, in centred order.

    The last ``n_axes`` axes are transformed; the axes before are a batch.
    """
    axes = tuple(range(-n_axes, 0))
    result: Tensor = torch.fft.fftshift(
        torch.fft.ifftn(torch.fft.ifftshift(crystal, axes), dim=axes, norm="ortho"), axes
    )
    return result


def to_crystal(field: Tensor, n_axes: int = 3) -> Tensor:
    """Return the crystals of fields F(q) ``(..., *shape)``, in centred order; inverse of `to_reciprocal`."""
    axes = tuple(range(-n_axes, 0))
    result: Tensor = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(field, axes), dim=axes, norm="ortho"), axes)
    return result


def mirror(array: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the mirror image about the origin voxel along these axes; its diffraction is mirrored along them too."""
    shifts = tuple(1 - array.shape[axis] % 2 for axis in axes)
    return torch.roll(torch.flip(array, axes), shifts, axes) if axes else array


def twin(crystal: Tensor, n_axes: int = 3) -> Tensor:
    """Return the twin rho*(-r) about the origin voxel; it has the same diffraction as the crystal."""
    return mirror(crystal, tuple(range(-n_axes, 0))).conj().resolve_conj()


def to_fourier_order(array: Tensor) -> Tensor:
    """Return an array with its origin moved from voxel N//2 to voxel 0 on every axis."""
    result: Tensor = torch.fft.ifftshift(array)
    return result


def from_fourier_order(array: Tensor) -> Tensor:
    """Return an array with its origin moved from voxel 0 to voxel N//2 on every axis."""
    result: Tensor = torch.fft.fftshift(array)
    return result


def real_spectrum_modulus(values: Tensor) -> Tensor:
    """Return |F| of real values of two or more axes, both in Fourier order; F is not normalised.

    |F| is the same at opposite voxels, so half of it is computed and the other half copied.
    """
    return whole_spectrum(half_spectrum_modulus(values), values.shape[-1])


def half_spectrum_modulus(values: Tensor) -> Tensor:
    """Return the half of `real_spectrum_modulus` that ``rfftn`` gives: ``n//2 + 1`` voxels along the last axis."""
    result: Tensor = torch.fft.rfftn(values).abs()
    return result


def whole_spectrum(half: Tensor, n: int) -> Tensor:
    """Return an array of last length n that is the same at opposite voxels, from its half; both in Fourier order."""
    axes = tuple(range(half.ndim))
    opposite = torch.roll(torch.flip(half[..., 1 : (n + 1) // 2], axes), (1,) * (half.ndim - 1), axes[:-1])
    return torch.cat((half, opposite), -1)
