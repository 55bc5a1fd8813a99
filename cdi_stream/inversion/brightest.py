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
    given = (np.ascontiguousarray(array).reshape(whole) for array in (values.astype(np.float32, copy=False), suspects))
    usable, known_suspects = given
    highest = np.where(known_suspects, np.float32(0), usable).max(axis=2).clip(0)
    return int(_brightest(usable, known_suspects, highest.astype(np.float64), wraps))


@compile_loop
def _add_row(row: Floats, suspects: Bools, total: NDArray[np.float64]) -> None:  # pragma: no cover - compiled
    """Add a row of intensities; the sums begin one voxel before the row."""
    for k in range(len(row)):
        total[k + 1] += row[k] if row[k] > 0 and not suspects[k] else np.float32(0)


@compile_loop([int64(input_volume(float32), input_volume(boolean), float64[:, ::1], boolean)])
def _brightest(  # pragma: no cover - compiled
    values: Floats, suspects: Bools, highest: NDArray[np.float64], wraps: bool
) -> int:
    """Return the flat index; rows that are too dark, by the ``highest`` value of each row, are left out."""
    n0, n1, n2 = values.shape
    total = np.zeros(n2 + 2, np.float64)
    best, place = -1.0, 0
    for i in range(n0):
        first, last = (i - 1, i + 2) if wraps and n0 > 2 else (max(i - 1, 0), min(i + 2, n0))
        for j in range(n1):
            left, right = (j - 1, j + 2) if wraps and n1 > 2 else (max(j - 1, 0), min(j + 2, n1))
            bound = 0.0
            for a in range(first, last):
                for b in range(left, right):
                    bound += 3 * highest[a % n0, b % n1]
            if bound <= best:
                continue
            total[:] = 0
            for a in range(first, last):
                for b in range(left, right):
                    _add_row(values[a % n0, b % n1], suspects[a % n0, b % n1], total)
            if wraps and n2 > 2:
                total[0], total[n2 + 1] = total[n2], total[1]
            for k in range(n2):
                near = total[k] + total[k + 1] + total[k + 2]
                if near > best:
                    best, place = near, (i * n1 + j) * n2 + k
    return place
