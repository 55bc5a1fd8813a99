"""Elementwise operations of a cycle, each in one pass over the memory and in place.

On the CPU numba compiles each pass, for single and double precision.  Complex values are read and written as one value:
otherwise the loop is not vectorised and takes eight times as long.  Other devices use plain torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import boolean, complex64, complex128, float32, float64, void
from numpy.typing import NDArray
from torch import Tensor

from cdi_stream.numerics.compiled import compile_loop

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
        _rescale(_rows(field), target.reshape(-1).numpy(), _tiny(target))
    else:
        factor = target / field.abs().clamp_min(_tiny(target))
        field *= torch.where(target < 0, 1.0, factor)


def multiply(field: Tensor, factor: Tensor) -> None:
    """Multiply a complex field by a real factor of the same shape."""
    if field.device.type == "cpu":
        _multiply(_rows(field), _rows(factor))
    else:
        field *= factor


def mix(crystal: Tensor, projected: Tensor, support: Tensor, factors: Mix) -> None:
    """Replace the crystals by their mixture with the projected crystals; all arrays are ``(starts, *shape)``."""
    if crystal.device.type == "cpu":
        real = _rows(crystal).real.dtype.type
        coefficients = (real(value) for value in (*factors.inside, *factors.outside))
        _mix(_rows(crystal), _rows(projected), _rows(support), *coefficients)
    else:
        (a, b), (c, d) = factors.inside, factors.outside
        crystal.copy_(torch.where(support, a * crystal + b * projected, c * crystal + d * projected))


def _rows(array: Tensor) -> Array:
    """Return the same memory as a numpy array with one row per start; raises for an array that is not contiguous."""
    return array.view(array.shape[0], -1).numpy()


def _tiny(real: Tensor) -> Any:
    """Return the square root of the smallest normal number, whose square is not rounded to zero."""
    return np.sqrt(torch.finfo(real.dtype).tiny).astype(str(real.dtype).removeprefix("torch."))


@compile_loop([void(c[:, ::1], f[::1], f) for c, f in _PRECISIONS])
def _rescale(fields: Array, target: Array, tiny: float) -> None:  # pragma: no cover - compiled
    unity = target.dtype.type(1)
    for row in range(fields.shape[0]):
        field = fields[row]
        for i in range(field.shape[0]):
            value, magnitude = field[i], target[i]
            factor = magnitude / (np.sqrt(value.real * value.real + value.imag * value.imag) + tiny)
            field[i] = value * (factor if magnitude >= 0 else unity)


@compile_loop([void(c[:, ::1], f[:, ::1]) for c, f in _PRECISIONS])
def _multiply(fields: Array, factors: Array) -> None:  # pragma: no cover - compiled
    for row in range(fields.shape[0]):
        field, factor = fields[row], factors[row]
        for i in range(field.shape[0]):
            field[i] = field[i] * factor[i]


@compile_loop([void(c[:, ::1], c[:, ::1], boolean[:, ::1], f, f, f, f) for c, f in _PRECISIONS])
def _mix(  # pragma: no cover - compiled
    crystals: Array, projections: Array, supports: Array, a: float, b: float, c: float, d: float
) -> None:
    for row in range(crystals.shape[0]):
        crystal, projected, support = crystals[row], projections[row], supports[row]
        for i in range(crystal.shape[0]):
            keep = a if support[i] else c
            take = b if support[i] else d
            crystal[i] = crystal[i] * keep + projected[i] * take
