"""Windows of an array: find the peak, choose the window about it, and cut it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdi_stream.errors import CurveError
from cdi_stream.geometry.affine import Shape

Bools = NDArray[np.bool_]
Index = tuple[int, ...]


def brightest_voxel(counts: NDArray[Any], top: NDArray[Any]) -> Shape:
    """Return the index of the Bragg peak of frames ``(n_frames, rows, cols)``.

    The pixel is the brightest with bright neighbours; the frame is the brightest about that pixel.

    Parameters
    ----------
    counts
        Frames.
    top
        Largest count of every pixel ``(rows, cols)`` over the frames, 0 where a pixel must not be used.
    """
    row, col = np.unravel_index(np.argmax(ndimage.median_filter(top, size=3)), top.shape)
    rows, cols = slice(max(row - 1, 0), row + 2), slice(max(col - 1, 0), col + 2)
    patch = counts[:, rows, cols] * (top[rows, cols] > 0)
    frame = int(np.argmax(patch.sum(axis=(1, 2), dtype=np.int64)))
    return frame, int(row), int(col)


def crop_window(shape: Sequence[int], peak: Shape, max_shape: Shape, min_length: int = 1) -> tuple[Shape, Shape]:
    """Return first voxel and shape of a window with the peak at its origin voxel; it may extend past the array's edge.

    Parameters
    ----------
    shape
        Shape of the array.
    peak
        Voxel of the peak.
    max_shape
        Largest shape of the window [voxels].
    min_length
        Least length of every axis [voxels].

    Raises
    ------
    CurveError
        If an axis has fewer than ``min_length`` voxels.
    """
    size = tuple(fast_length(min(n, limit)) for n, limit in zip(shape, max_shape, strict=True))
    if min(size) < min_length:
        raise CurveError(
            f"volume too small: expected at least {min_length} voxels along each axis, got {tuple(shape)}; "
            "take more frames or a larger region of interest"
        )
    start = tuple(int(p - n // 2) for p, n in zip(peak, size, strict=True))
    return (start[0], start[1], start[2]), (size[0], size[1], size[2])


def fast_length(n: int) -> int:
    """Return the largest even length up to ``n`` with no prime factor above 7, at which FFTs are fast."""
    for length in range(n - n % 2, 1, -2):
        cofactor = length
        for prime in (2, 3, 5, 7):
            while cofactor % prime == 0:
                cofactor //= prime
        if cofactor == 1:
            return length
    return n


def cut(array: NDArray[Any], start: Index, shape: Index) -> tuple[NDArray[Any], Bools]:
    """Return a copy of a window, zero outside of the array, and which of its voxels lie inside the array."""
    result, inside = np.zeros(shape, dtype=array.dtype), np.zeros(shape, dtype=bool)
    source = tuple(slice(max(s, 0), min(s + n, m)) for s, n, m in zip(start, shape, array.shape, strict=True))
    target = tuple(slice(a.start - s, a.stop - s) for a, s in zip(source, start, strict=True))
    result[target] = array[source]
    inside[target] = True
    return result, inside
