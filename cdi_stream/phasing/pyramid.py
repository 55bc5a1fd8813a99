"""Grids from coarse to fine: the middle of the diffraction gives a coarse crystal at a fraction of the cost.

A crystal with 97 % of its counts inside the middle 24^3 of 64^3 voxels is found there twenty times as fast.  It is
carried to a finer grid by padding its diffraction with zeros: the field of view stays, the voxels become smaller.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cdi_stream.phasing.autocorrelation import intensities
from cdi_stream.phasing.projections import Measurement, direct, reciprocal
from cdi_stream.phasing.tuning import TUNING

Lengths = tuple[int, ...]
"""Shape of an array [voxels]."""


def grid_shapes(data: Measurement) -> tuple[Lengths, ...]:
    """Return the shapes of the grids, from the coarsest to that of the measurement.

    From one grid to the next each axis grows by a factor of at most about `SearchTuning.grid_step`.
    """
    full = tuple(data.magnitude.shape)
    shapes = [coarsest_shape(data)]
    while shapes[-1] != full:
        lengths = list(zip(shapes[-1], full, strict=True))
        shape = tuple(_even(min(n, max(c * TUNING.grid_step, c + 2))) for c, n in lengths)
        is_near = all(n < TUNING.last_grid_step * c for c, n in zip(shape, full, strict=True))
        shapes.append(full if is_near else tuple(n if c >= n - 1 else c for c, n in zip(shape, full, strict=True)))
    return tuple(shapes)


def coarsest_shape(data: Measurement) -> Lengths:
    """Return the smallest shape that keeps `SearchTuning.kept_counts` of the intensity along each axis.

    A flat background, estimated at the edges of the array, is subtracted first.
    """
    intensity = intensities(data)
    return tuple(_kept_length(marginal(intensity, axis), n) for axis, n in enumerate(intensity.shape))


def marginal(intensity: Tensor, axis: int) -> Tensor:
    """Return the intensity along one axis, origin at the centre, less the mean of its outermost eighth."""
    other_axes = tuple(k for k in range(intensity.ndim) if k != axis)
    along = torch.fft.fftshift(intensity.sum(other_axes).double())
    edge = max(1, len(along) // 16)
    result: Tensor = (along - torch.cat((along[:edge], along[-edge:])).mean()).clamp_min(0)
    return result


def _kept_length(along: Tensor, n: int) -> int:
    """Return the length of the window about the centre that keeps enough of the intensity."""
    total = along.sum()
    for length in range(min(n, TUNING.least_grid_vox), n + 1, 2):
        first = n // 2 - length // 2
        if along[first : first + length].sum() >= TUNING.kept_counts * total:
            return n if length > TUNING.uncropped_share * n else _even(length)
    return n


def _even(length: float) -> int:
    """Return the next even length without a prime factor above 5; small transforms are slow with a factor of 7."""
    n = 2 * max(1, round(length / 2))
    while not _is_fast(n):
        n += 2
    return n


def _is_fast(n: int) -> bool:
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1


def crop_centre(array: Tensor, shape: Lengths) -> Tensor:
    """Return the voxels about the origin, ``shape`` of the last axes, of an array in Fourier order."""
    axes = tuple(range(-len(shape), 0))
    centred = torch.fft.fftshift(array, axes)
    window = tuple(
        slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(array.shape[-len(shape) :], shape, strict=True)
    )
    result: Tensor = torch.fft.ifftshift(centred[(..., *window)], axes).contiguous()
    return result


def pad_centre(array: Tensor, shape: Lengths) -> Tensor:
    """Return an array in Fourier order as the middle of an array of zeros of this shape; inverse of `crop_centre`."""
    if tuple(array.shape) == shape:
        return array
    result = torch.zeros(shape, dtype=array.dtype, device=array.device)
    places = (_places(m, n, array.device) for m, n in zip(array.shape, shape, strict=True))
    result[torch.meshgrid(*places, indexing="ij")] = array
    return result


def coarsen(data: Measurement, shape: Lengths) -> Measurement:
    """Return the middle of a measurement; its coherence kernel is cropped too."""
    full = tuple(data.magnitude.shape)
    if shape == full:
        return data
    background = None if data.background is None else crop_centre(data.background, shape)
    coherence = None
    if data.coherence is not None:
        kernel = crop_centre(torch.fft.irfftn(data.coherence, s=full), shape)
        coherence = torch.fft.rfftn(kernel / kernel.sum())
        coherence = coherence if data.coherence.is_complex() else coherence.real.contiguous()
    return replace(
        data,
        magnitude=crop_centre(data.magnitude, shape),
        magnitude_scale=crop_centre(data.magnitude_scale, shape),
        valid=crop_centre(data.valid, shape),
        background=background,
        coherence=coherence,
        frame_shifts=None if data.frame_shifts is None else crop_centre(data.frame_shifts, shape[:1]),
    )


def resample_crystals(crystals: Tensor, shape: Lengths) -> Tensor:
    """Bring crystals ``(n, *old_shape)`` to finer or coarser voxels in the same field of view; return ``(n, *shape)``.

    Their diffraction is padded with zeros or cropped.
    """
    if tuple(crystals.shape[1:]) == shape:
        return crystals
    result = torch.empty((len(crystals), *shape), dtype=crystals.dtype, device=crystals.device)
    for crystal, target in zip(crystals, result, strict=True):  # one after the other: a large volume is used up soon
        target.copy_(_resampled(crystal, shape))
    return result


def _resampled(crystal: Tensor, shape: Lengths) -> Tensor:
    """Return one crystal ``(*old_shape)`` on the voxels of `resample_crystals`."""
    smaller = tuple(map(min, crystal.shape, shape))
    field = crop_centre(reciprocal(crystal, len(shape)), smaller)
    return direct(pad_centre(field, shape), len(shape))


def _places(m: int, n: int, device: torch.device) -> Tensor:
    """Return where ``m`` voxels of an axis in Fourier order lie on an axis of ``n`` >= m voxels."""
    voxel = torch.arange(m, device=device)
    return torch.where(voxel < m - m // 2, voxel, voxel + n - m)
