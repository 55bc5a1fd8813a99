"""Values of cubic B-splines at the voxels of an affine grid.

On the CPU a compiled loop sums 64 products per voxel, without additional memory.  On other devices torch does eight
trilinear look-ups per voxel: Ruijters, ter Haar Romeny and Suetens (2008), J. Graph. Tools 13, 61,
doi:10.1080/2151237X.2008.10129269.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
from numba import boolean, complex64, float32, float64, int64, types, void
from numpy.typing import NDArray
from torch import Tensor

from cdi_stream.numerics.compiled import compile_loop
from cdi_stream.numerics.parts import in_parts
from cdi_stream.numerics.prefilter import coefficients_of_planes, coefficients_with_margin

Floats = NDArray[np.floating[Any]]
Array = NDArray[Any]
Shape = tuple[int, ...]
_MARGIN = 2
"""Zero voxels around the coefficients, so that the compiled loop reads no voxel outside of the array."""


def sample_on_cpu(volume: Tensor, matrix: Floats, first: Floats, shape: Shape) -> Tensor:
    """Return the spline of a volume at ``first + matrix @ j`` for all voxels j of ``shape``; zero outside the volume.

    ``volume (n0, n1, n2)`` is real or complex.  As many threads as torch has share the work.
    """
    dtype = np.complex64 if volume.is_complex() else np.float32
    values = coefficients_with_margin(volume.resolve_conj().numpy().astype(dtype, copy=False), _MARGIN)
    return _sampled(values, matrix, first, shape)


def sample_planes_on_cpu(planes: Array, matrix: Floats, first: Floats, shape: Shape) -> Tensor:
    """Return the spline like `sample_on_cpu`, of a real volume; ``planes`` are those of `to_plane_coefficients`."""
    return _sampled(coefficients_of_planes(planes, _MARGIN), matrix, first, shape)


def _sampled(values: Array, matrix: Floats, first: Floats, shape: Shape) -> Tensor:
    """Return the spline with these coefficients, which have a margin of `_MARGIN` zeros."""
    steps, first_in_margin = np.ascontiguousarray(matrix, np.float64), np.asarray(first, np.float64) + _MARGIN
    result = np.empty(shape, values.dtype)

    def part(begin: int, end: int) -> None:
        """Sample the planes ``begin`` to ``end`` (excluded) of the result."""
        _sample(values, steps, first_in_margin + begin * steps[:, 0], result[begin:end])

    in_parts(part, shape[0], least=2)
    return torch.from_numpy(result)


def sample_mask_on_cpu(mask: Tensor, matrix: Floats, first: Floats, shape: Shape, share: float) -> Tensor:
    """Return where the true voxels about ``first + matrix @ j`` have more than ``share`` of the trilinear weight."""
    values, result = mask.contiguous().numpy(), np.empty(shape, dtype=bool)
    steps, begin_at = np.ascontiguousarray(matrix, np.float64), np.asarray(first, np.float64)

    def part(begin: int, end: int) -> None:
        """Sample the planes ``begin`` to ``end`` (excluded) of the result."""
        _sample_mask(values, steps, begin_at + begin * steps[:, 0], share, result[begin:end])

    in_parts(part, shape[0], least=2)
    return torch.from_numpy(result)


def sample_by_lookup(coefficients: Tensor, position: Tensor) -> Tensor:
    """Return the spline at ``position (M, 3)`` [voxels]; zero outside of its volume.

    ``coefficients (n0, n1, n2)`` are real or complex.  The eight look-ups are one batch, which torch does in parallel.
    """
    is_complex = coefficients.is_complex()
    channels = torch.view_as_real(coefficients).movedim(-1, 0) if is_complex else coefficients[None]
    size = torch.tensor(channels.shape[1:], device=position.device)
    base = position.floor()
    t = position - base
    s = 1 - t
    w0, w3 = s**3 / 6, t**3 / 6
    near = w0 + 2 / 3 - t.square() * (2 - t) / 2
    far = 1 - near
    points, weights = (to_grid(base - w0 / near, size), to_grid(base + 1 + w3 / far, size)), (near, far)
    choices = list(product((0, 1), repeat=3))
    grid = torch.stack([torch.stack([points[c[2 - k]][:, k] for k in range(3)], -1) for c in choices])
    weight = torch.stack([weights[a][:, 0] * weights[b][:, 1] * weights[c][:, 2] for a, b, c in choices])
    values = torch.nn.functional.grid_sample(
        channels.expand(8, *channels.shape),
        grid[:, None, None],
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )[:, :, 0, 0]
    is_inside = ((position > -1) & (position < size)).all(-1)
    sampled = (values * weight[:, None]).sum(0) * is_inside
    return torch.complex(sampled[0], sampled[1]) if is_complex else sampled[0]


def to_grid(index: Tensor, size: Tensor) -> Tensor:
    """Return indices ``(..., 3)`` of a volume of this size in the units of `torch.nn.functional.grid_sample`."""
    return ((2 * index + 1) / size - 1).flip(-1)


@compile_loop([types.UniTuple(float32, 4)(float64)])
def _weights(t: float) -> tuple[np.float32, np.float32, np.float32, np.float32]:  # pragma: no cover - compiled
    """Return the weights of the four voxels about a point that lies ``t`` voxels after the second of them."""
    s = 1 - t
    inner = 2 / 3 - t * t * (2 - t) / 2, 2 / 3 - s * s * (2 - s) / 2
    return np.float32(s * s * s / 6), np.float32(inner[0]), np.float32(inner[1]), np.float32(t * t * t / 6)


@compile_loop([types.UniTuple(float64, 3)(float64[:, ::1], float64[::1], int64, int64, int64)])
def _place(  # pragma: no cover - compiled
    matrix: Floats, first: Floats, j0: int, j1: int, j2: int
) -> tuple[float, float, float]:
    """Return ``first + matrix @ j``."""
    return (
        first[0] + matrix[0, 0] * j0 + matrix[0, 1] * j1 + matrix[0, 2] * j2,
        first[1] + matrix[1, 0] * j0 + matrix[1, 1] * j1 + matrix[1, 2] * j2,
        first[2] + matrix[2, 0] * j0 + matrix[2, 1] * j1 + matrix[2, 2] * j2,
    )


@compile_loop([void(v[:, :, ::1], float64[:, ::1], float64[::1], v[:, :, ::1]) for v in (float32, complex64)])
def _sample(values: Array, matrix: Floats, first: Floats, out: Array) -> None:  # pragma: no cover - compiled
    """Fill ``out`` with the spline; ``values`` has a margin of `_MARGIN` zero voxels."""
    n0, n1, n2 = values.shape
    for j0 in range(out.shape[0]):
        for j1 in range(out.shape[1]):
            for j2 in range(out.shape[2]):
                x, y, z = _place(matrix, first, j0, j1, j2)
                total = values.dtype.type(0)
                if 1 < x < n0 - 2 and 1 < y < n1 - 2 and 1 < z < n2 - 2:
                    i0, i1, i2 = int(x), int(y), int(z)
                    u, v, w = _weights(x - i0), _weights(y - i1), _weights(z - i2)
                    for a in range(4):
                        for b in range(4):
                            row = values[i0 - 1 + a, i1 - 1 + b, i2 - 1 : i2 + 3]
                            line = w[0] * row[0] + w[1] * row[1] + w[2] * row[2] + w[3] * row[3]
                            total += u[a] * v[b] * line
                out[j0, j1, j2] = total


@compile_loop
def _true_weight(values: Array, x: float, y: float, z: float) -> float:  # pragma: no cover - compiled
    """Return the trilinear weight of the true voxels about a point (x, y, z) that lies less than a voxel outside."""
    n0, n1, n2 = values.shape
    i0, i1, i2 = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    if i0 >= 0 and i1 >= 0 and i2 >= 0 and i0 + 1 < n0 and i1 + 1 < n1 and i2 + 1 < n2:
        are_all = True
        for a in range(2):
            for b in range(2):
                are_all &= values[i0 + a, i1 + b, i2] & values[i0 + a, i1 + b, i2 + 1]
        if are_all:
            return 1.0
    u, v, w = x - i0, y - i1, z - i2
    total = 0.0
    for a in range(2):
        for b in range(2):
            for c in range(2):
                k0, k1, k2 = i0 + a, i1 + b, i2 + c
                if 0 <= k0 < n0 and 0 <= k1 < n1 and 0 <= k2 < n2 and values[k0, k1, k2]:
                    total += (u if a else 1 - u) * (v if b else 1 - v) * (w if c else 1 - w)
    return total


@compile_loop([void(boolean[:, :, ::1], float64[:, ::1], float64[::1], float64, boolean[:, :, ::1])])
def _sample_mask(  # pragma: no cover - compiled
    values: Array, matrix: Floats, first: Floats, share: float, out: Array
) -> None:
    n0, n1, n2 = values.shape
    for j0 in range(out.shape[0]):
        for j1 in range(out.shape[1]):
            for j2 in range(out.shape[2]):
                x, y, z = _place(matrix, first, j0, j1, j2)
                total = 0.0
                if -1 < x < n0 and -1 < y < n1 and -1 < z < n2:
                    total = _true_weight(values, x, y, z)
                out[j0, j1, j2] = total > share
