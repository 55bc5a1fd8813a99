"""Elementwise operations of a cycle, each in one pass over the memory and in place.

On the CPU numba compiles each pass, for single and double precision; large arrays are split over the threads that
torch uses for the transforms.  Complex values are read and written as one value:
otherwise the loop is not vectorised and takes eight times as long.  Other devices use plain torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import boolean, complex64, complex128, float32, float64, int64, void
from numpy.typing import NDArray
from torch import Tensor

from cdi_stream.numerics.compiled import compile_loop
from cdi_stream.numerics.parts import in_parts

Array = NDArray[Any]
_PRECISIONS = ((complex64, float32), (complex128, float64))


@dataclass(frozen=True, slots=True)
class Mix:
    """Factors ``(a, b)`` of the next crystal, ``a * crystal + b * projected``, inside and outside of the support."""

    inside: tuple[float, float]
    outside: tuple[float, float]


def rescale(field: Tensor, target: Tensor) -> None:
    """Scale fields ``(starts, *shape)`` to the magnitudes ``target (*shape)``; a negative target changes nothing."""
    if field.device.type == "cpu":
        fields, targets, tiny = _rows(field), target.reshape(-1).numpy(), _tiny(target)
        in_parts(lambda begin, end: _rescale(fields, targets, tiny, begin, end), targets.size)
    else:
        factor = target / field.abs().clamp_min(_tiny(target))
        field *= torch.where(target < 0, 1.0, factor)


def multiply(field: Tensor, factor: Tensor) -> None:
    """Multiply a complex field by a real factor of the same shape."""
    if field.device.type == "cpu":
        fields, factors = _rows(field), _rows(factor)
        in_parts(lambda begin, end: _multiply(fields, factors, begin, end), fields.shape[1])
    else:
        field *= factor


def mix(crystal: Tensor, projected: Tensor, support: Tensor, factors: Mix) -> None:
    """Replace the crystals by their mixture with the projected crystals; all arrays are ``(starts, *shape)``."""
    if crystal.device.type == "cpu":
        rows = _rows(crystal), _rows(projected), _rows(support)
        real = rows[0].real.dtype.type
        a, b, c, d = (real(value) for value in (*factors.inside, *factors.outside))
        in_parts(lambda begin, end: _mix(*rows, a, b, c, d, begin, end), rows[0].shape[1])
    else:
        (a, b), (c, d) = factors.inside, factors.outside
        crystal.copy_(torch.where(support, a * crystal + b * projected, c * crystal + d * projected))


def _rows(array: Tensor) -> Array:
    """Return the same memory as a numpy array with one row per start; raises for an array that is not contiguous."""
    return array.view(array.shape[0], -1).numpy()


def _tiny(real: Tensor) -> Any:
    """Return the square root of the smallest normal number, whose square is not rounded to zero."""
    return np.sqrt(torch.finfo(real.dtype).tiny).astype(str(real.dtype).removeprefix("torch."))


@compile_loop([void(c[:, ::1], f[::1], f, int64, int64) for c, f in _PRECISIONS])
def _rescale(  # pragma: no cover - compiled
    fields: Array, target: Array, tiny: float, begin: int, end: int
) -> None:
    unity = target.dtype.type(1)
    for row in range(fields.shape[0]):
        field = fields[row]
        for i in range(begin, end):
            value, magnitude = field[i], target[i]
            factor = magnitude / (np.sqrt(value.real * value.real + value.imag * value.imag) + tiny)
            field[i] = value * (factor if magnitude >= 0 else unity)


@compile_loop([void(c[:, ::1], f[:, ::1], int64, int64) for c, f in _PRECISIONS])
def _multiply(fields: Array, factors: Array, begin: int, end: int) -> None:  # pragma: no cover - compiled
    for row in range(fields.shape[0]):
        field, factor = fields[row], factors[row]
        for i in range(begin, end):
            field[i] = field[i] * factor[i]


@compile_loop([void(c[:, ::1], c[:, ::1], boolean[:, ::1], f, f, f, f, int64, int64) for c, f in _PRECISIONS])
def _mix(  # pragma: no cover - compiled
    crystals: Array, projections: Array, supports: Array, a: float, b: float, c: float, d: float, begin: int, end: int
) -> None:
    for row in range(crystals.shape[0]):
        crystal, projected, support = crystals[row], projections[row], supports[row]
        for i in range(begin, end):
            keep = a if support[i] else c
            take = b if support[i] else d
            crystal[i] = crystal[i] * keep + projected[i] * take
