"""Coefficients of cubic B-splines that go through the values of a volume, with zeros outside of the volume.

Along each axis the coefficients c solve c[i-1]/6 + 2 c[i]/3 + c[i+1]/6 = value[i]: Unser, Aldroubi and Eden (1991),
IEEE Trans. Pattern Anal. 13, 277, doi:10.1109/34.67649.  The equations have three diagonals, so that two passes over
the memory solve them (Thomas algorithm).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numba import complex64, float32, int64, void
from numpy.typing import NDArray

from cdi_stream.numerics.compiled import compile_loop
from cdi_stream.numerics.parts import in_parts

Array = NDArray[Any]
_SIDE, _MIDDLE = 1 / 6, 2 / 3
_BLOCK = 16
"""Number of lines along the last axis that are solved together, so that no step waits for the one before."""


def coefficients_with_margin(volume: Array, margin: int) -> Array:
    """Return the coefficients of a volume, float32 or complex64, with ``margin`` zeros on each side of each axis."""
    values = np.zeros([n + 2 * margin for n in volume.shape], volume.dtype)
    inner = values[tuple(slice(margin, margin + n) for n in volume.shape)]
    inner[...] = volume
    n0, n1, n2 = volume.shape
    _solve(inner.swapaxes(0, 1), _factors(n0), _solve_middle)
    _solve(inner, _factors(n1), _solve_middle)
    _solve(inner, _factors(n2), _solve_last)
    return values


def _solve(x: Array, factors: tuple[Array, Array], solve: Callable[..., None]) -> None:
    """Solve the equations along one axis, in parts along the first axis."""
    in_parts(lambda begin, end: solve(x, *factors, begin, end), len(x), least=2)


@lru_cache(maxsize=16)
def _factors(n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the factors of the pass along an axis of ``n`` voxels, and those of the pass back."""
    there, back = np.empty(n), np.empty(n)
    for i in range(n):
        there[i] = 1 / (_MIDDLE - (_SIDE * back[i - 1] if i else 0.0))
        back[i] = _SIDE * there[i]
    return there.astype(np.float32), back.astype(np.float32)


_SIGNATURES = [void(v[:, :, :], float32[::1], float32[::1], int64, int64) for v in (float32, complex64)]


@compile_loop(_SIGNATURES)
def _solve_middle(x: Array, there: Array, back: Array, begin: int, end: int) -> None:  # pragma: no cover - compiled
    side = np.float32(_SIDE)
    _, n1, n2 = x.shape
    for i in range(begin, end):
        for k in range(n2):
            x[i, 0, k] = x[i, 0, k] * there[0]
        for j in range(1, n1):
            for k in range(n2):
                x[i, j, k] = (x[i, j, k] - x[i, j - 1, k] * side) * there[j]
        for j in range(n1 - 2, -1, -1):
            for k in range(n2):
                x[i, j, k] = x[i, j, k] - x[i, j + 1, k] * back[j]


@compile_loop(_SIGNATURES)
def _solve_last(x: Array, there: Array, back: Array, begin: int, end: int) -> None:  # pragma: no cover - compiled
    side = np.float32(_SIDE)
    _, n1, n2 = x.shape
    for i in range(begin, end):
        for first in range(0, n1, _BLOCK):
            last = min(first + _BLOCK, n1)
            for j in range(first, last):
                x[i, j, 0] = x[i, j, 0] * there[0]
            for k in range(1, n2):
                for j in range(first, last):
                    x[i, j, k] = (x[i, j, k] - x[i, j, k - 1] * side) * there[k]
            for k in range(n2 - 2, -1, -1):
                for j in range(first, last):
                    x[i, j, k] = x[i, j, k] - x[i, j, k + 1] * back[k]
