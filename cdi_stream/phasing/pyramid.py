"""From coarse to fine: the middle of the diffraction holds a coarse crystal, at a fraction of the cost.

A crystal with 97 % of its counts inside 24^3 voxels of 64^3 is found there twenty times as fast, and carried on to the
finer grid by padding its diffraction with zeros: the same field of view, smaller voxels.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cdi_stream.phasing.autocorrelation import intensities
from cdi_stream.phasing.projections import Measurement, direct, reciprocal

Lengths = tuple[int, ...]

SHARE_KEPT = 0.988
"""Share of the counts along each axis that the coarsest level keeps: strained crystals need their wide diffraction."""
_STEP = 1.45
_SMALLEST = 16


def levels(data: Measurement) -> tuple[Lengths, ...]:
    """Shapes from the coarsest to that of ``data``, each axis growing by at most about 1.45 from one to the next."""
    full = tuple(data.magnitude.shape)
    coarse = coarsest(data)
    found = [coarse]
    while found[-1] != full:
        shape = tuple(_even(min(n, max(c * _STEP, c + 2))) for c, n in zip(found[-1], full, strict=True))
        too_near = all(n < 1.2 * c for c, n in zip(shape, full, strict=True))
        found.append(full if too_near else tuple(n if c >= n - 1 else c for c, n in zip(shape, full, strict=True)))
    return tuple(found)


def coarsest(data: Measurement) -> Lengths:
    """Smallest shape that keeps `SHARE_KEPT` of the intensity along each axis, a flat background taken off."""
    intensity = intensities(data)
    return tuple(_kept_length(_marginal(intensity, axis), n) for axis, n in enumerate(intensity.shape))


def _marginal(intensity: Tensor, axis: int) -> Tensor:
    """Intensity along one axis, centred, less the mean of its outermost eighth."""
    others = tuple(k for k in range(intensity.ndim) if k != axis)
    along = torch.fft.fftshift(intensity.sum(others).double())
    edge = max(1, len(along) // 16)
    result: Tensor = (along - torch.cat((along[:edge], along[-edge:])).mean()).clamp_min(0)
    return result


def _kept_length(along: Tensor, n: int) -> int:
    total = along.sum()
    for length in range(min(n, _SMALLEST), n + 1, 2):
        first = n // 2 - length // 2
        if along[first : first + length].sum() >= SHARE_KEPT * total:
            return n if length > 0.85 * n else _even(length)
    return n


def _even(length: float) -> int:
    """Next even length with no prime factor above 5 (7 is slow in small transforms)."""
    n = 2 * max(1, round(length / 2))
    while not _is_fast(n):
        n += 2
    return n


def _is_fast(n: int) -> bool:
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1


def middle(array: Tensor, shape: Lengths) -> Tensor:
    """Cut the voxels about the origin out of the last axes of an array in Fourier order."""
    axes = tuple(range(-len(shape), 0))
    centred = torch.fft.fftshift(array, axes)
    window = tuple(
        slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(array.shape[-len(shape) :], shape, strict=True)
    )
    result: Tensor = torch.fft.ifftshift(centred[(..., *window)], axes).contiguous()
    return result


def coarsened(data: Measurement, shape: Lengths) -> Measurement:
    """The middle of a measurement; partial coherence is left to the finest level."""
    background = None if data.background is None else middle(data.background, shape)
    if shape == tuple(data.magnitude.shape):
        return data
    return replace(
        data,
        magnitude=middle(data.magnitude, shape),
        gain=middle(data.gain, shape),
        valid=middle(data.valid, shape),
        background=background,
        coherence=None,
    )


def resampled(crystals: Tensor, shape: Lengths) -> Tensor:
    """Bring a batch ``(starts, *old)`` to finer or coarser voxels in the same field of view."""
    n_axes, old = len(shape), tuple(crystals.shape[1:])
    if old == shape:
        return crystals
    field = reciprocal(crystals, n_axes)
    smaller = tuple(min(a, b) for a, b in zip(old, shape, strict=True))
    centred = torch.fft.fftshift(middle(field, smaller), tuple(range(-n_axes, 0)))
    result = torch.zeros((len(crystals), *shape), dtype=crystals.dtype, device=crystals.device)
    window = tuple(slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(shape, smaller, strict=True))
    result[(slice(None), *window)] = centred
    return direct(torch.fft.ifftshift(result, tuple(range(-n_axes, 0))), n_axes)
