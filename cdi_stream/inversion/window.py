"""Windows of an array: find the peak, choose the window about it, and cut it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdi_stream.errors import CurveError
from cdi_stream.geometry.affine import Shape

Bools = NDArray[np.bool_]
Index = tuple[int, ...]
Slices = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Part of a curve about its Bragg peak.

    Parameters
    ----------
    start
        Voxel (frame, row, col) of the curve at which the window begins; it may lie outside of the curve.
    shape
        Shape of the window [voxels].
    good
        Pixels of the window that may be used ``(rows, cols)``.
    limit
        Value from which a voxel is saturated [counts].
    """

    start: Shape
    shape: Shape
    good: Bools
    limit: float

    def is_same(self, other: Window) -> bool:
        """Whether both are the same part of a curve, with the same pixels to use."""
        mine, its = (self.start, self.shape, self.limit), (other.start, other.shape, other.limit)
        return mine == its and np.array_equal(self.good, other.good)

    def slices(self, shape: Sequence[int]) -> tuple[Slices, Slices]:
        """Return the part of an array of ``shape`` that lies in the window, and its place in the window."""
        source, target = _overlap(self.start, self.shape, shape)
        return (source[0], source[1], source[2]), (target[0], target[1], target[2])


def brightest_voxel(counts: NDArray[Any], top: NDArray[Any], has_frame: Bools | None = None) -> Shape:
    """Return the index of the Bragg peak of frames ``(n_frames, rows, cols)``.

    The pixel is the brightest with bright neighbours; the frame is the brightest about that pixel.

    Parameters
    ----------
    counts
        Frames.
    top
        Largest count of every pixel ``(rows, cols)`` over the frames, 0 where a pixel must not be used.
    has_frame
        Frames to read ``(n_frames,)``; None: all frames.
    """
    row, col = np.unravel_index(np.argmax(ndimage.median_filter(top, size=3)), top.shape)
    rows, cols = slice(max(row - 1, 0), row + 2), slice(max(col - 1, 0), col + 2)
    patch = counts[:, rows, cols] * (top[rows, cols] > 0)
    sums = patch.sum(axis=(1, 2), dtype=np.int64)
    frame = int(np.argmax(sums if has_frame is None else np.where(has_frame, sums, -1)))
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
    source, target = _overlap(start, shape, array.shape)
    result[target] = array[source]
    inside[target] = True
    return result, inside


def _overlap(start: Index, shape: Index, whole: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the part of an array of shape ``whole`` that lies in a window, and its place in the window."""
    source = tuple(slice(max(s, 0), min(s + n, m)) for s, n, m in zip(start, shape, whole, strict=True))
    return source, tuple(slice(a.start - s, a.stop - s) for a, s in zip(source, start, strict=True))
