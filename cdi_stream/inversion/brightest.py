"""Find the voxel about which a pattern is brightest."""

from __future__ import annotations

import numpy as np
from numba import boolean, float32, float64, int64
from numpy.typing import NDArray

from cdi_stream.numerics.compiled import compile_loop, input_volume

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


def brightest_place(values: Floats, suspects: Bools, *, wraps: bool) -> int:
    """Return the flat index of the voxel whose neighbourhood of 3 voxels along each axis has the largest sum.

    Parameters
    ----------
    values
        Intensities of two or three axes; a value below zero counts as 0.
    suspects
        Voxels that count as 0, of the same shape.
    wraps
        Whether the array is periodic; else voxels outside count as 0.
    """
    whole = (1,) * (3 - values.ndim) + values.shape
    usable = np.where(suspects, np.float32(0), values).astype(np.float32, copy=False).reshape(whole)
    highest = usable.max(axis=2).clip(0).astype(np.float64)
    return int(_brightest(usable, highest, wraps))


@compile_loop
def _add_row(row: Floats, total: NDArray[np.float64]) -> None:  # pragma: no cover - compiled
    """Add a row of intensities; the sums begin one voxel before the row."""
    for k in range(len(row)):
        total[k + 1] += max(row[k], np.float32(0))


@compile_loop
def _near(i: int, n: int, wraps: bool) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return begin and end (excluded) of the neighbours of an index; they may lie outside of a periodic axis."""
    return (i - 1, i + 2) if wraps and n > 2 else (max(i - 1, 0), min(i + 2, n))


@compile_loop
def _bound(  # pragma: no cover - compiled
    highest: NDArray[np.float64], planes: tuple[int, int], rows: tuple[int, int]
) -> float:
    """Return a number that no sum about a voxel of the row in the middle exceeds."""
    n0, n1 = highest.shape
    total = 0.0
    for a in range(planes[0], planes[1]):
        for b in range(rows[0], rows[1]):
            total += 3 * highest[a % n0, b % n1]
    return total


@compile_loop([int64(input_volume(float32), float64[:, ::1], boolean)])
def _brightest(values: Floats, highest: NDArray[np.float64], wraps: bool) -> int:  # pragma: no cover - compiled
    """Return the flat index; rows that are too dark, by the ``highest`` value of each row, are left out."""
    n0, n1, n2 = values.shape
    total = np.zeros(n2 + 2, np.float64)
    best, place = -1.0, 0
    for i in range(n0):
        planes = _near(i, n0, wraps)
        for j in range(n1):
            rows = _near(j, n1, wraps)
            if _bound(highest, planes, rows) <= best:
                continue
            total[:] = 0
            for a in range(planes[0], planes[1]):
                for b in range(rows[0], rows[1]):
                    _add_row(values[a % n0, b % n1], total)
            if wraps and n2 > 2:
                total[0], total[n2 + 1] = total[n2], total[1]
            near = total[:-2] + total[1:-1] + total[2:]
            k = int(np.argmax(near))
            if near[k] > best:
                best, place = near[k], (i * n1 + j) * n2 + k
    return place
