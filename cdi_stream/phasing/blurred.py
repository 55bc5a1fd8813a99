"""Elementwise operations of a cycle with partial coherence or background, each in one pass and in place.

They follow `cdi_stream.phasing.kernels`: on the CPU numba compiles each pass, other devices use plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import complex64, complex128, float32, float64, int64, void
from numpy.typing import NDArray
from torch import Tensor

from cdi_stream.numerics.compiled import compile_loop
from cdi_stream.numerics.parts import in_parts

Array = NDArray[Any]
_PRECISIONS = ((complex64, float32), (complex128, float64))

LEAST_COUNTS = 1e-12
"""Smallest expected counts that divide measured counts."""

FAINTEST = 1e-9
"""Smallest expected counts of a voxel that has a slope [counts]: keeps slopes finite where a field is zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountsModel:
    """Arrays that turn blurred intensities into expected counts, ``(*shape)`` each.

    Parameters
    ----------
    magnitude
        Square root of the counts; below zero where nothing was measured.
    squared_scale
        Factor from the intensity to the counts.
    background
        Expected counts without crystal.
    least
        Smallest blurred intensity over the intensity itself: the centre of the coherence kernel.
    """

    magnitude: Tensor
    squared_scale: Tensor
    background: Tensor
    least: float


def power(field: Tensor) -> Tensor:
    """Return |F|^2 of complex fields ``(starts, *shape)``."""
    if field.device.type != "cpu" or not field.is_contiguous():
        return field.real.square() + field.imag.square()
    result = torch.empty(field.shape, dtype=field.real.dtype)
    fields, out = _rows(field), _rows(result)
    in_parts(lambda begin, end: _power(fields, out, begin, end), fields.shape[1])
    return result


def scale_to_counts(field: Tensor, blurred: Tensor, model: CountsModel) -> None:
    """Multiply fields by the root of measured over expected counts, where counts were measured.

    Parameters
    ----------
    field
        Fields F(q) ``(starts, *shape)``.
    blurred
        Their blurred intensities; where rounding makes them too small, ``model.least`` times the intensity is taken.
    model
        Measured counts and what turns intensities into counts.
    """
    if field.device.type == "cpu":
        _in_parts(_scale, field, blurred, model)
    else:
        intensity = torch.maximum(blurred, model.least * power(field))
        expected = (model.squared_scale * intensity + model.background).clamp_min(LEAST_COUNTS)
        field *= torch.where(model.magnitude < 0, 1.0, model.magnitude / expected.sqrt())


def slope_by_intensity(field: Tensor, blurred: Tensor, model: CountsModel) -> None:
    """Replace blurred intensities by the slope of the amplitude loss by them: scale^2 (1 - sqrt(n / lambda)).

    Zero where no counts were measured, and where the expected counts lambda lie below `FAINTEST`.

    Parameters
    ----------
    field
        Fields F(q) ``(starts, *shape)``.
    blurred
        Their blurred intensities, which are overwritten.
    model
        Measured counts n and what turns intensities into expected counts.
    """
    if field.device.type == "cpu":
        _in_parts(_slope, field, blurred, model)
    else:
        intensity = torch.maximum(blurred, model.least * power(field))
        expected = model.squared_scale * intensity + model.background
        slope = model.squared_scale * (1 - model.magnitude / expected.clamp_min(FAINTEST).sqrt())
        blurred.copy_(torch.where((model.magnitude < 0) | (expected <= FAINTEST), 0.0, slope))


def _in_parts(loop: Callable[..., None], field: Tensor, blurred: Tensor, model: CountsModel) -> None:
    """Run a compiled loop over fields, their blurred intensities and the model, split over the threads."""
    fields, smooth = _rows(field), _rows(blurred)
    target, scale, ground = (
        array.reshape(-1).numpy() for array in (model.magnitude, model.squared_scale, model.background)
    )
    least = target.dtype.type(model.least)
    in_parts(lambda begin, end: loop(fields, smooth, target, scale, ground, least, begin, end), target.size)


def _rows(array: Tensor) -> Array:
    return array.view(array.shape[0], -1).numpy()


@compile_loop([void(c[:, ::1], f[:, ::1], int64, int64) for c, f in _PRECISIONS])
def _power(fields: Array, out: Array, begin: int, end: int) -> None:  # pragma: no cover - compiled
    for row in range(fields.shape[0]):
        field, target = fields[row][begin:end], out[row][begin:end]
        for i in range(field.shape[0]):
            value = field[i]
            target[i] = value.real * value.real + value.imag * value.imag


@compile_loop
def _expected(  # pragma: no cover - compiled
    value: complex, smooth: float, factor: float, ground: float, least: float
) -> float:
    """Return the expected counts of a voxel from its field and its blurred intensity."""
    return factor * max(smooth, least * (value.real * value.real + value.imag * value.imag)) + ground


@compile_loop([void(c[:, ::1], f[:, ::1], f[::1], f[::1], f[::1], f, int64, int64) for c, f in _PRECISIONS])
def _scale(  # pragma: no cover - compiled
    fields: Array,
    blurred: Array,
    magnitude: Array,
    scale: Array,
    background: Array,
    least: float,
    begin: int,
    end: int,
) -> None:
    unity, tiny = magnitude.dtype.type(1), magnitude.dtype.type(LEAST_COUNTS)
    target, factor, ground = magnitude[begin:end], scale[begin:end], background[begin:end]
    for row in range(fields.shape[0]):
        field, smooth = fields[row][begin:end], blurred[row][begin:end]
        for i in range(field.shape[0]):
            value = field[i]
            ratio = target[i] / np.sqrt(max(_expected(value, smooth[i], factor[i], ground[i], least), tiny))
            field[i] = value * (ratio if target[i] >= 0 else unity)


@compile_loop([void(c[:, ::1], f[:, ::1], f[::1], f[::1], f[::1], f, int64, int64) for c, f in _PRECISIONS])
def _slope(  # pragma: no cover - compiled
    fields: Array,
    blurred: Array,
    magnitude: Array,
    scale: Array,
    background: Array,
    least: float,
    begin: int,
    end: int,
) -> None:
    zero, unity, faintest = magnitude.dtype.type(0), magnitude.dtype.type(1), magnitude.dtype.type(FAINTEST)
    target, factor, ground = magnitude[begin:end], scale[begin:end], background[begin:end]
    for row in range(fields.shape[0]):
        field, smooth = fields[row][begin:end], blurred[row][begin:end]
        for i in range(field.shape[0]):
            expected = _expected(field[i], smooth[i], factor[i], ground[i], least)
            slope = factor[i] * (unity - target[i] / np.sqrt(max(expected, faintest)))
            smooth[i] = slope if (target[i] >= 0) and (expected > faintest) else zero
