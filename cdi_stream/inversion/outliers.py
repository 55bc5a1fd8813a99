"""Find outliers: values far above their neighbourhood, as hot pixels and cosmic rays give.

An oversampled diffraction pattern has none.  Arrays have one to three axes; a value below zero means not known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import boolean, float32, int64, void
from numpy.typing import NDArray

from cdi_stream.numerics.compiled import compile_loop

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

FACTOR = 10.0
"""Least ratio of an outlier to its neighbourhood.

Ideal patterns of compact crystals at an oversampling of 1.5 and more stay below this ratio.
"""

MAX_COMPANIONS = 2
"""Largest number of neighbours as bright as an outlier; a cosmic ray or a leaking pixel hits up to three voxels."""

REACH = {1: 4, 2: 4, 3: 2}
"""Extent of a voxel's neighbourhood on each side of every axis [voxels], by the number of axes."""


def outliers(values: Floats, floor: float, *, wraps: bool = False) -> Bools:
    """Return which values are outliers: at least ``floor``, and `FACTOR` times brighter than their neighbourhood.

    Up to `MAX_COMPANIONS` neighbours may be as bright.  A value is no outlier if more than half of its neighbourhood is
    not known.

    Parameters
    ----------
    values
        One to three axes, float32; below zero where not known.
    floor
        Least value of an outlier, in units of ``values``.
    wraps
        Whether the array is periodic.
    """
    n_axes, shape = values.ndim, values.shape
    reach = (0,) * (3 - n_axes) + tuple(min(REACH[n_axes], (n - 1) // 2) for n in shape)
    volume = np.ascontiguousarray(values).reshape((1,) * (3 - n_axes) + shape)
    is_outlier = np.zeros(volume.shape, dtype=bool)
    _mark(volume, np.float32(max(floor, 1e-30)), np.array(reach), wraps, is_outlier, 0, len(volume))
    return is_outlier.reshape(shape)


def mark_outliers(values: Floats, floor: float, is_outlier: Bools, begin: int, end: int) -> None:
    """Write into ``is_outlier`` what `outliers` returns, for the planes ``begin`` to ``end`` (excluded) of a volume."""
    reach = np.array([min(REACH[3], (n - 1) // 2) for n in values.shape])
    _mark(values, np.float32(floor), reach, False, is_outlier, begin, end)


@compile_loop([boolean(float32[:, :, ::1], int64, int64, int64, int64[::1], boolean)])
def _stands_out(values: Any, i: Any, j: Any, k: Any, reach: Any, wraps: Any) -> Any:  # pragma: no cover - compiled
    n0, n1, n2 = values.shape
    value, n_bright, n_seen, n_unknown = values[i, j, k], 0, 0, 0
    for a in range(i - reach[0], i + reach[0] + 1):
        for b in range(j - reach[1], j + reach[1] + 1):
            for c in range(k - reach[2], k + reach[2] + 1):
                is_inside = 0 <= a < n0 and 0 <= b < n1 and 0 <= c < n2
                if (wraps or is_inside) and not (a == i and b == j and c == k):
                    other = values[a % n0, b % n1, c % n2]
                    n_seen += 1
                    n_unknown += other < 0
                    n_bright += other * FACTOR > value
                    if n_bright > MAX_COMPANIONS:
                        return False
    return 2 * n_unknown <= n_seen


@compile_loop([void(float32[:, :, ::1], float32, int64[::1], boolean, boolean[:, :, ::1], int64, int64)])
def _mark(  # pragma: no cover - compiled
    values: Any, floor: Any, reach: Any, wraps: Any, is_outlier: Any, begin: int, end: int
) -> None:
    for i in range(begin, end):
        for j in range(values.shape[1]):
            for k in range(values.shape[2]):
                is_outlier[i, j, k] = values[i, j, k] >= floor and _stands_out(values, i, j, k, reach, wraps)
