"""Cubic B-spline interpolation of real or complex volumes on an affine grid, on torch.

A cubic B-spline is evaluated as eight trilinear look-ups (Ruijters, ter Haar Romeny and Suetens, 2008,
doi:10.1080/2151237X.2008.10129269), which run on CPU and CUDA alike.  Outside the volume is zero.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

Shape = tuple[int, ...]


def resample(volume: Tensor, matrix: ArrayLike, shape: Shape, offset: ArrayLike = (0.0, 0.0, 0.0)) -> Tensor:
    """Sample ``volume`` at i = N//2 + offset + matrix (j - M//2) for every voxel j of an array of ``shape``.

    ``volume`` is ``(n0, n1, n2)``, real or complex; the complex field is interpolated as such, never
    amplitude and phase apart.  Interpolation is exact at the voxels.
    """
    coefficients = _spline_coefficients(volume)
    parts = torch.view_as_real(coefficients).movedim(-1, 0) if volume.is_complex() else coefficients[None]
    position = _positions(matrix, offset, tuple(volume.shape), shape, volume.device)
    size = torch.tensor(volume.shape, device=volume.device)
    inside = ((position > -1) & (position < size)).all(-1)
    sampled = torch.zeros((parts.shape[0], position.shape[0]), device=volume.device)
    sampled[:, inside] = _evaluate(parts.float(), position[inside])
    sampled = sampled.reshape(-1, *shape)
    return torch.complex(sampled[0], sampled[1]) if volume.is_complex() else sampled[0]


def resample_mask(
    mask: Tensor, matrix: ArrayLike, shape: Shape, offset: ArrayLike = (0.0, 0.0, 0.0), share: float = 0.999
) -> Tensor:
    """Sample a boolean volume: true where ``share`` of the eight voxels around the point, by weight, is true."""
    position = _positions(matrix, offset, tuple(mask.shape), shape, mask.device)
    grid = _to_grid(position, tuple(mask.shape))
    sampled = torch.nn.functional.grid_sample(
        mask[None, None].float(), grid[None, None, None], mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled.reshape(shape) > share


def neighbourhood_sum(volume: Tensor) -> Tensor:
    """Sum over the 3x3x3 voxels about each voxel of the last three axes, zero outside; separable."""
    for axis in (-3, -2, -1):
        n = volume.shape[axis]
        total = volume.clone()
        total.narrow(axis, 0, n - 1).add_(volume.narrow(axis, 1, n - 1))
        total.narrow(axis, 1, n - 1).add_(volume.narrow(axis, 0, n - 1))
        volume = total
    return volume


def _positions(matrix: ArrayLike, offset: ArrayLike, source: Shape, target: Shape, device: torch.device) -> Tensor:
    """Source indices ``(M, 3)`` of the target's voxels."""
    columns = torch.as_tensor(np.asarray(matrix), dtype=torch.float32, device=device)
    origin = np.asarray(offset, dtype=float) + np.array(source) // 2
    total = torch.as_tensor(origin, dtype=torch.float32, device=device).expand(1, 1, 1, 3)
    for axis, n in enumerate(target):
        steps = (torch.arange(n, device=device) - n // 2)[:, None] * columns[:, axis]
        total = total + steps.reshape([-1 if k == axis else 1 for k in range(3)] + [3])
    return total.reshape(-1, 3)


def _spline_coefficients(volume: Tensor) -> Tensor:
    for axis, n in enumerate(volume.shape):
        inverse = _inverse_spline_matrix(n).to(device=volume.device, dtype=volume.dtype)
        volume = torch.tensordot(volume, inverse, dims=([axis], [1])).movedim(-1, axis)
    return volume


@lru_cache(maxsize=16)
def _inverse_spline_matrix(n: int) -> Tensor:
    spline = np.diag(np.full(n, 2 / 3)) + np.diag(np.full(n - 1, 1 / 6), 1) + np.diag(np.full(n - 1, 1 / 6), -1)
    return torch.from_numpy(np.linalg.inv(spline))


def _evaluate(coefficients: Tensor, position: Tensor) -> Tensor:
    """Evaluate splines ``(channels, *shape)`` at ``(M, 3)`` indices by eight weighted trilinear look-ups.

    The eight travel as one batch, over which torch runs in parallel.
    """
    base = position.floor()
    t = position - base
    s = 1 - t
    w0, w3 = s**3 / 6, t**3 / 6
    near = w0 + 2 / 3 - t.square() * (2 - t) / 2
    far = 1 - near
    below = _to_grid(base - w0 / near, tuple(coefficients.shape[1:]))
    above = _to_grid(base + 1 + w3 / far, tuple(coefficients.shape[1:]))
    choices = list(product((0, 1), repeat=3))
    points, weights = (below, above), (near, far)
    grid = torch.stack([torch.stack([points[c[2 - k]][:, k] for k in range(3)], -1) for c in choices])
    weight = torch.stack([weights[a][:, 0] * weights[b][:, 1] * weights[c][:, 2] for a, b, c in choices])
    values = torch.nn.functional.grid_sample(
        coefficients.expand(8, *coefficients.shape),
        grid[:, None, None],
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )[:, :, 0, 0]
    return (values * weight[:, None]).sum(0)


def _to_grid(index: Tensor, shape: Shape) -> Tensor:
    size = torch.tensor(shape, device=index.device, dtype=index.dtype)
    return ((2 * index + 1) / size - 1).flip(-1)
