"""Coefficients of cubic B-splines that go through the values of a volume, with zeros outside of the volume.

Along each axis the coefficients c solve c[i-1]/6 + 2 c[i]/3 + c[i+1]/6 = value[i]: Unser, Aldroubi and Eden (1991),
IEEE Trans. Pattern Anal. 13, 277, doi:10.1109/34.67649.  The equations have three diagonals, so that two passes over
the memory solve them (Thomas algorithm).
"""

from __future__ import annotations

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


def to_plane_coefficients(planes: Array, begin: int, end: int) -> None:
    """Replace the planes ``begin`` to ``end`` (excluded) of a volume by spline coefficients along rows and columns."""
    _, n1, n2 = planes.shape
    last, middle = _factors(n2), _factors(n1)

    def part(first: int, last_plane: int) -> None:
        """Solve along both axes while a plane is in the processor's cache."""
        for k in range(begin + first, begin + last_plane):
            _solve_last(planes, *last, k, k + 1)
            _solve_middle(planes, *middle, k, k + 1)

    in_parts(part, end - begin, least=4)


def coefficients_with_margin(volume: Array, margin: int) -> Array:
    """Return the coefficients of a volume, float32 or complex64, with ``margin`` zeros on each side of each axis."""
    values, inner = _with_margin(volume, margin)
    inner[...] = volume
    to_plane_coefficients(inner, 0, len(inner))
    _solve_across_planes(inner)
    return values


def coefficients_of_planes(planes: Array, margin: int) -> Array:
    """Return the same as `coefficients_with_margin`, of the ``planes`` of `to_plane_coefficients`, which stay."""
    values, inner = _with_margin(planes, margin)
    inner[...] = planes
    _solve_across_planes(inner)
    return values


def _solve_across_planes(planes: Array) -> None:
    """Replace coefficients along rows and columns by the coefficients along all three axes."""
    across, factors = planes.swapaxes(0, 1), _factors(len(planes))
    in_parts(lambda begin, end: _solve_middle(across, *factors, begin, end), len(across), least=2)


def _with_margin(volume: Array, margin: int) -> tuple[Array, Array]:
    """Return an array of zeros with ``margin`` on each side of each axis of a volume, and the part without it."""
    values = np.zeros([n + 2 * margin for n in volume.shape], volume.dtype)
    return values, values[tuple(slice(margin, margin + n) for n in volume.shape)]


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
