"""Elementwise work of a cycle, each in one pass over memory and in place.

On the CPU a pass is compiled by numba, for both precisions; complex values must be read and written whole, or the loop
is not vectorised and takes eight times as long.  Elsewhere plain torch does the same.
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
    """Next crystal from the current one and its projection: ``a * crystal + b * projected``, by side of the support."""

    inside: tuple[float, float]
    outside: tuple[float, float]


def rescale(field: Tensor, target: Tensor) -> None:
    """Give ``field`` ``(starts, *shape)`` the magnitudes ``target`` ``shape``; where that is negative it stays."""
    if field.device.type == "cpu":
        _rescale(_rows(field), target.reshape(-1).numpy(), _tiny(target))
    else:
        factor = target / field.abs().clamp_min(_tiny(target))
        field *= torch.where(target < 0, 1.0, factor)


def multiply(field: Tensor, factor: Tensor) -> None:
    """Multiply complex ``field`` by real ``factor`` of the same shape."""
    if field.device.type == "cpu":
        _multiply(_rows(field), _rows(factor))
    else:
        field *= factor


def mix(crystal: Tensor, projected: Tensor, support: Tensor, how: Mix) -> None:
    """Replace ``crystal`` by what `Mix` says; all three are ``(starts, *shape)``."""
    if crystal.device.type == "cpu":
        real = _rows(crystal).real.dtype.type
        coefficients = (real(value) for value in (*how.inside, *how.outside))
        _mix(_rows(crystal), _rows(projected), _rows(support), *coefficients)
    else:
        (a, b), (c, d) = how.inside, how.outside
        crystal.copy_(torch.where(support, a * crystal + b * projected, c * crystal + d * projected))


def _rows(array: Tensor) -> Array:
    """The same memory, one row a start; an array that is not contiguous is refused."""
    return array.view(array.shape[0], -1).numpy()


def _tiny(real: Tensor) -> Any:
    """Square root of the smallest normal number: its square is not lost."""
    return np.sqrt(torch.finfo(real.dtype).tiny).astype(str(real.dtype).removeprefix("torch."))


@compile_loop([void(c[:, ::1], f[::1], f) for c, f in _PRECISIONS])
def _rescale(fields: Array, target: Array, tiny: float) -> None:  # pragma: no cover - compiled
    one = target.dtype.type(1)
    for row in range(fields.shape[0]):
        field = fields[row]
        for i in range(field.shape[0]):
            value, wanted = field[i], target[i]
            factor = wanted / (np.sqrt(value.real * value.real + value.imag * value.imag) + tiny)
            field[i] = value * (factor if wanted >= 0 else one)


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
