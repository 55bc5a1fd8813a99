"""The one centred Fourier pair of the project.

Sign convention (physics): F(q) = sum_r rho(r) exp(+i q.r), so a crystal displaced by u carries
the phase +Q.u.  In numpy's or torch's terms the way to reciprocal space is ``ifft`` and the way
back is ``fft``.  The origin is voxel N//2 on every axis, before and after.  The pair is
orthonormal: sum |F|^2 = sum |rho|^2.

This is the only module that shifts an origin.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_reciprocal(crystal: Tensor, n_axes: int = 3) -> Tensor:
    """Transform crystals ``(..., *shape)`` to reciprocal space, F(q) = sum rho exp(+i q.r).

    The last ``n_axes`` axes are transformed; those before them are a batch.
    """
    axes = tuple(range(-n_axes, 0))
    result: Tensor = torch.fft.fftshift(
        torch.fft.ifftn(torch.fft.ifftshift(crystal, axes), dim=axes, norm="ortho"), axes
    )
    return result


def to_crystal(field: Tensor, n_axes: int = 3) -> Tensor:
    """Transform reciprocal-space fields ``(..., *shape)`` back to crystals; inverse of `to_reciprocal`."""
    axes = tuple(range(-n_axes, 0))
    result: Tensor = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(field, axes), dim=axes, norm="ortho"), axes)
    return result


def mirrored(array: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mirror image about the origin voxel along each of these axes; its diffraction is mirrored alike."""
    shifts = tuple(1 - array.shape[axis] % 2 for axis in axes)
    return torch.roll(torch.flip(array, axes), shifts, axes) if axes else array


def twin(crystal: Tensor, n_axes: int = 3) -> Tensor:
    """Return the twin rho*(-r) about the origin voxel: the one image with the same diffraction."""
    return mirrored(crystal, tuple(range(-n_axes, 0))).conj().resolve_conj()


def to_fourier_order(array: Tensor) -> Tensor:
    """Bring the origin from voxel N//2 to voxel 0 on every axis."""
    result: Tensor = torch.fft.ifftshift(array)
    return result


def from_fourier_order(array: Tensor) -> Tensor:
    """Bring the origin from voxel 0 back to voxel N//2 on every axis."""
    result: Tensor = torch.fft.fftshift(array)
    return result
