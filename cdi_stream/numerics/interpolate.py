"""Cubic B-spline interpolation of real or complex volumes on an affine grid; values outside the volume are zero."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cdi_stream.numerics.splines import (
    sample_by_lookup,
    sample_mask_on_cpu,
    sample_on_cpu,
    sample_planes_on_cpu,
    to_grid,
)

Floats = NDArray[np.float64]
Shape = tuple[int, ...]


def resample(volume: Tensor, matrix: ArrayLike, shape: Shape, offset: ArrayLike = (0.0, 0.0, 0.0)) -> Tensor:
    """Return ``volume`` sampled at the indices i = N//2 + offset + matrix (j - M//2), j the voxels of ``shape``.

    Parameters
    ----------
    volume
        Volume ``(n0, n1, n2)``, real or complex; a complex volume is interpolated as complex numbers, not as amplitude
        and phase.  Interpolation is exact at its voxels.
    matrix
        Steps of the index i per step of j, ``(3, 3)``.
    shape
        Shape M of the result.
    offset
        Shift of the centre [voxels of the volume], ``(3,)``.
    """
    if volume.device.type == "cpu":
        return sample_on_cpu(volume, *_steps(matrix, offset, tuple(volume.shape), shape), shape)
    coefficients = spline_coefficients(volume).to(torch.complex64 if volume.is_complex() else torch.float32)
    position = _positions(matrix, offset, tuple(volume.shape), shape, volume.device)
    return sample_by_lookup(coefficients, position).reshape(shape)


def resample_planes(planes: NDArray[np.float32], matrix: ArrayLike, shape: Shape, offset: ArrayLike) -> Tensor:
    """Return a real volume sampled as by `resample`, on the CPU.

    ``planes`` hold spline coefficients along rows and columns (`cdi_stream.numerics.prefilter`).
    """
    return sample_planes_on_cpu(planes, *_steps(matrix, offset, planes.shape, shape), shape)


def resample_mask(
    mask: Tensor, matrix: ArrayLike, shape: Shape, offset: ArrayLike = (0.0, 0.0, 0.0), share: float = 0.999
) -> Tensor:
    """Return a boolean volume sampled as in `resample`.

    A voxel is true where the true ones of the eight voxels around its point have more than ``share`` of their weight
    in trilinear interpolation.
    """
    if mask.device.type == "cpu":
        return sample_mask_on_cpu(mask, *_steps(matrix, offset, tuple(mask.shape), shape), shape, share)
    position = _positions(matrix, offset, tuple(mask.shape), shape, mask.device)
    grid = to_grid(position, torch.tensor(mask.shape, device=mask.device))
    sampled = torch.nn.functional.grid_sample(
        mask[None, None].float(), grid[None, None, None], mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled.reshape(shape) > share


def neighbourhood_sum(volume: Tensor) -> Tensor:
    """Return the sum over the 3x3x3 voxels about each voxel of the last three axes; voxels outside are zero."""
    for axis in (-3, -2, -1):
        n = volume.shape[axis]
        total = volume.clone()
        total.narrow(axis, 0, n - 1).add_(volume.narrow(axis, 1, n - 1))
        total.narrow(axis, 1, n - 1).add_(volume.narrow(axis, 0, n - 1))
        volume = total
    return volume


def _steps(matrix: ArrayLike, offset: ArrayLike, source: Shape, target: Shape) -> tuple[Floats, Floats]:
    """Return the steps of the source index per voxel of the target, and the source index of the target's voxel 0."""
    columns = np.asarray(matrix, dtype=float)
    return columns, np.asarray(offset, dtype=float) + np.array(source) // 2 - columns @ (np.array(target) // 2)


def _positions(matrix: ArrayLike, offset: ArrayLike, source: Shape, target: Shape, device: torch.device) -> Tensor:
    """Return the source indices ``(M, 3)`` of the voxels of the target."""
    columns = torch.as_tensor(np.asarray(matrix), dtype=torch.float32, device=device)
    origin = np.asarray(offset, dtype=float) + np.array(source) // 2
    total = torch.as_tensor(origin, dtype=torch.float32, device=device).expand(1, 1, 1, 3)
    for axis, n in enumerate(target):
        steps = (torch.arange(n, device=device) - n // 2)[:, None] * columns[:, axis]
        total = total + steps.reshape([-1 if k == axis else 1 for k in range(3)] + [3])
    return total.reshape(-1, 3)


def spline_coefficients(volume: Tensor) -> Tensor:
    """Return the coefficients of the spline through a volume on any device, by products with inverse matrices.

    On the CPU `cdi_stream.numerics.prefilter` gives the same in less time.
    """
    for axis, n in enumerate(volume.shape):
        inverse = _inverse_spline_matrix(n).to(device=volume.device, dtype=volume.dtype)
        volume = torch.tensordot(volume, inverse, dims=([axis], [1])).movedim(-1, axis)
    return volume


@lru_cache(maxsize=16)
def _inverse_spline_matrix(n: int) -> Tensor:
    spline = np.diag(np.full(n, 2 / 3)) + np.diag(np.full(n - 1, 1 / 6), 1) + np.diag(np.full(n - 1, 1 / 6), -1)
    return torch.from_numpy(np.linalg.inv(spline))
