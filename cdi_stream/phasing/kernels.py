"""Elementwise operations of a cycle, each in one pass over the memory and in place.

On the CPU numba compiles each pass, for single and double precision; large arrays are split over the threads that
torch uses for the transforms.  Complex values are read and written as one value:
otherwise the loop is not vectorised and takes eight times as long.  A loop also counts from 0 along a part of a row,
since indices that might be negative are not vectorised either.  Other devices use plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
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
_TINY_AMPLITUDE = 1e-12
"""Smallest divisor of an amplitude."""


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
    """Multiply complex fields ``(starts, *shape)`` by real factors of the same shape, or by one for all starts."""
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


def modulus(field: Tensor) -> Tensor:
    """Return the modulus of complex arrays ``(starts, *shape)``."""
    if field.device.type != "cpu":
        return field.abs()
    result = torch.empty(field.shape, dtype=field.real.dtype)
    rows, moduli = _rows(field), _rows(result)
    in_parts(lambda begin, end: _modulus(rows, moduli, begin, end), rows.shape[1])
    return result


def clip(crystal: Tensor, support: Tensor, low: float, high: float) -> None:
    """Clip amplitudes inside the supports to ``low`` and ``high`` times their mean there; phases stay."""
    if crystal.device.type == "cpu":
        crystals, supports = _rows(crystal), _rows(support)
        sums = _sums(_amplitude_sums, crystals, supports)
        means = (sums[:, 1] / np.maximum(sums[:, 0], 1)).astype(crystals.real.dtype)
        real = means.dtype.type
        limits = real(low), real(high)
        in_parts(lambda begin, end: _clip(crystals, supports, means, *limits, begin, end), crystals.shape[1])
    else:
        axes, amplitude = tuple(range(1, crystal.ndim)), crystal.abs()
        mean = (amplitude * support).sum(axes, keepdim=True) / support.sum(axes, keepdim=True).clamp_min(1)
        target = amplitude.clamp(min=low * mean, max=high * mean)
        crystal *= torch.where(support, target / amplitude.clamp_min(_TINY_AMPLITUDE), 1.0)


def above(values: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Return where real values ``(starts, *shape)`` exceed the level of their start, and how many do so."""
    if values.device.type != "cpu":
        result = values > level.reshape(-1, *(1,) * (values.ndim - 1))
        return result, result.flatten(1).sum(1)
    result = torch.empty(values.shape, dtype=torch.bool)
    rows, flags, levels = _rows(values), _rows(result), level.flatten().numpy()
    parts: list[NDArray[np.int64]] = []

    def part(begin: int, end: int) -> None:
        """Compare one part."""
        counts = np.zeros(len(rows), np.int64)
        _above(rows, levels, flags, counts, begin, end)
        parts.append(counts)

    in_parts(part, rows.shape[1])
    return result, torch.from_numpy(np.sum(parts, axis=0))


def sums_inside(values: Tensor, support: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return number, sum and sum of squares of real values inside the supports, of each start, ``(starts,)`` each."""
    if values.device.type == "cpu":
        number, total, squares = _sums(_value_sums, _rows(values), _rows(support)).T
        return tuple(torch.from_numpy(np.ascontiguousarray(x)).to(values.dtype) for x in (number, total, squares))  # type: ignore[return-value]
    inside = (values * support).flatten(1)
    return support.flatten(1).sum(1), inside.sum(1), inside.square().sum(1)


def _sums(loop: Callable[..., None], values: Array, supports: Array) -> NDArray[np.float64]:
    """Return the sums of a loop, ``(starts, 3)``, over all parts."""
    parts: list[NDArray[np.float64]] = []

    def part(begin: int, end: int) -> None:
        """Add the sums of one part."""
        sums = np.zeros((len(values), 3))
        loop(values, supports, sums, begin, end)
        parts.append(sums)

    in_parts(part, values.shape[1])
    result: NDArray[np.float64] = np.sum(parts, axis=0)
    return result


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
        field, part = fields[row][begin:end], target[begin:end]
        for i in range(field.shape[0]):
            value, magnitude = field[i], part[i]
            factor = magnitude / (np.sqrt(value.real * value.real + value.imag * value.imag) + tiny)
            field[i] = value * (factor if magnitude >= 0 else unity)


@compile_loop([void(c[:, ::1], f[:, ::1], int64, int64) for c, f in _PRECISIONS])
def _multiply(fields: Array, factors: Array, begin: int, end: int) -> None:  # pragma: no cover - compiled
    for row in range(fields.shape[0]):
        field, factor = fields[row][begin:end], factors[min(row, factors.shape[0] - 1)][begin:end]
        for i in range(field.shape[0]):
            field[i] = field[i] * factor[i]


@compile_loop([void(c[:, ::1], c[:, ::1], boolean[:, ::1], f, f, f, f, int64, int64) for c, f in _PRECISIONS])
def _mix(  # pragma: no cover - compiled
    crystals: Array, projections: Array, supports: Array, a: float, b: float, c: float, d: float, begin: int, end: int
) -> None:
    for row in range(crystals.shape[0]):
        crystal, projected = crystals[row][begin:end], projections[row][begin:end]
        support = supports[row][begin:end]
        for i in range(crystal.shape[0]):
            keep = a if support[i] else c
            take = b if support[i] else d
            crystal[i] = crystal[i] * keep + projected[i] * take


@compile_loop([void(c[:, ::1], f[:, ::1], int64, int64) for c, f in _PRECISIONS])
def _modulus(fields: Array, out: Array, begin: int, end: int) -> None:  # pragma: no cover - compiled
    for row in range(fields.shape[0]):
        field, target = fields[row][begin:end], out[row][begin:end]
        for i in range(field.shape[0]):
            value = field[i]
            target[i] = np.sqrt(value.real * value.real + value.imag * value.imag)


@compile_loop([void(c[:, ::1], boolean[:, ::1], float64[:, ::1], int64, int64) for c, _ in _PRECISIONS])
def _amplitude_sums(  # pragma: no cover - compiled
    crystals: Array, supports: Array, sums: Array, begin: int, end: int
) -> None:
    for row in range(crystals.shape[0]):
        crystal, support = crystals[row][begin:end], supports[row][begin:end]
        n, total = 0, 0.0
        for i in range(crystal.shape[0]):
            if support[i]:
                value = crystal[i]
                n += 1
                total += np.sqrt(value.real * value.real + value.imag * value.imag)
        sums[row, 0], sums[row, 1] = n, total


@compile_loop([void(f[:, ::1], boolean[:, ::1], float64[:, ::1], int64, int64) for _, f in _PRECISIONS])
def _value_sums(  # pragma: no cover - compiled
    values: Array, supports: Array, sums: Array, begin: int, end: int
) -> None:
    for row in range(values.shape[0]):
        value, support = values[row][begin:end], supports[row][begin:end]
        n, total, squares = 0, 0.0, 0.0
        for i in range(value.shape[0]):
            if support[i]:
                n += 1
                total += value[i]
                squares += value[i] * value[i]
        sums[row, 0], sums[row, 1], sums[row, 2] = n, total, squares


@compile_loop([void(c[:, ::1], boolean[:, ::1], f[::1], f, f, int64, int64) for c, f in _PRECISIONS])
def _clip(  # pragma: no cover - compiled
    crystals: Array, supports: Array, means: Array, low: float, high: float, begin: int, end: int
) -> None:
    least = means.dtype.type(_TINY_AMPLITUDE)
    for row in range(crystals.shape[0]):
        smallest, largest = low * means[row], high * means[row]
        crystal, support = crystals[row][begin:end], supports[row][begin:end]
        for i in range(crystal.shape[0]):
            if support[i]:
                value = crystal[i]
                amplitude = np.sqrt(value.real * value.real + value.imag * value.imag)
                target = min(max(amplitude, smallest), largest)
                crystal[i] = value * (target / max(amplitude, least))


@compile_loop([void(f[:, ::1], f[::1], boolean[:, ::1], int64[::1], int64, int64) for _, f in _PRECISIONS])
def _above(  # pragma: no cover - compiled
    values: Array, levels: Array, out: Array, counts: Array, begin: int, end: int
) -> None:
    for row in range(values.shape[0]):
        value, flag, level, n = values[row][begin:end], out[row][begin:end], levels[row], 0
        for i in range(value.shape[0]):
            flag[i] = value[i] > level
            n += value[i] > level
        counts[row] = n
