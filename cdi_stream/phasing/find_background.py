"""Find a background that changes linearly over the array, before anything is known of the crystal.

Far from the peak, blocks of voxels hold little of the crystal's diffraction: a plane through the blocks with the fewest
counts is the background.  Diffraction that fills the array is told from a background by its contrast: speckles vary as
much as their mean, a background only by counting noise.  The contrast that is left in the faint blocks gives the share
of the crystal in their counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cdi_stream.phasing.background import LinearBackground
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.tuning import TUNING


def find_background(data: Measurement) -> LinearBackground | None:
    """Return the background of a measurement; None if there is none to tell from diffraction."""
    blocks = _blocks_of(data)
    total = _sum_of_valid(data.magnitude.square(), data)
    if len(blocks.mean) <= blocks.place.shape[1] or not total > 0:
        return None
    plane = _plane_below(blocks)
    contrast, error = _contrast(blocks, plane)
    first, *slopes = plane.tolist()
    first *= 1 - max(contrast - error, 0.0) ** 0.5
    background = LinearBackground(counts=max(first, 0.0), slopes=tuple(slopes))
    share = _sum_of_valid(background.on(data.magnitude), data) / total
    least, largest = TUNING.background_shares
    is_known = least < share < largest and contrast < TUNING.background_contrast
    return background if is_known else None


def _sum_of_valid(values: Tensor, data: Measurement) -> float:
    return float(torch.where(data.valid, values, 0.0).sum(dtype=torch.float64))


def with_background(data: Measurement) -> Measurement:
    """Return the measurement with the background that it shows; as it is if there is none."""
    background = find_background(data)
    return data if background is None else replace(data, background=background.on(data.magnitude))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """Blocks of which at least half was measured: ``mean`` and ``variance`` of their counts, ``(n,)``.

    ``n_voxels`` is the number of measured voxels in each; ``place (n, 1 + axes)`` holds 1 and the mean place of their
    voxels.  ``has_noise`` tells whether the counts are whole numbers, as a detector gives.
    """

    mean: Tensor
    variance: Tensor
    n_voxels: Tensor
    place: Tensor
    has_noise: bool


def _blocks_of(data: Measurement) -> _Blocks:
    counts = torch.where(data.valid, data.magnitude, 0.0).square()
    n_voxels = _sums(data.valid)
    is_measured = n_voxels > 0.5 * n_voxels.max()
    n_voxels = n_voxels[is_measured]
    mean = _sums(counts)[is_measured] / n_voxels
    moments = [_sums(data.valid, axis)[is_measured] for axis in range(data.n_axes)]
    return _Blocks(
        mean=mean,
        variance=_sums(counts.square())[is_measured] / n_voxels - mean.square(),
        n_voxels=n_voxels,
        place=torch.stack([torch.ones_like(mean), *(moment / n_voxels for moment in moments)], 1),
        has_noise=bool(((counts - counts.round()).abs() <= 1e-3 * counts.clamp_min(1)).all()),
    )


def _sums(array: Tensor, along: int | None = None) -> Tensor:
    """Return the sums over the blocks of an array in Fourier order, ``(n,)``, float64.

    With ``along``, the voxels are weighted by their place along that axis [voxels].  Voxels beyond the last whole block
    are left out.
    """
    for axis in sorted(range(array.ndim), key=lambda axis: axis == along):  # the weights come last, on the least voxels
        n = array.shape[axis]
        step = max(1, min(TUNING.background_block_vox, n // 8))
        array = torch.fft.fftshift(array, axis).narrow(axis, 0, n // step * step).unflatten(axis, (n // step, step))
        if axis == along:
            places = (torch.arange(n // step * step, dtype=torch.float64, device=array.device) - n // 2).reshape(
                -1, step
            )
            array = array * places.reshape(*places.shape, *[1] * (array.ndim - axis - 2))
        array = array.sum(axis + 1, dtype=torch.float64)
    return array.flatten()


def _plane_below(blocks: _Blocks) -> Tensor:
    """Return value at the origin and slopes of the plane through the blocks with the fewest counts.

    The plane begins with a quarter of the blocks of each octant, so that a slope does not choose the blocks; blocks
    within two standard deviations of it are added.
    """
    chosen = torch.zeros_like(blocks.mean, dtype=torch.bool)
    octant = ((blocks.place[:, 1:] > 0) * 2 ** torch.arange(blocks.place.shape[1] - 1)).sum(1)
    for number in octant.unique():
        inside = octant == number
        chosen |= inside & (blocks.mean <= torch.quantile(blocks.mean[inside], 0.25))
    for _ in range(TUNING.background_rounds):
        plane: Tensor = torch.linalg.lstsq(blocks.place[chosen], blocks.mean[chosen, None]).solution[:, 0]
        others = _is_near(blocks, plane)
        if int(others.sum()) < 0.1 * len(others) or torch.equal(others, chosen):
            break
        chosen = others
    return plane


def _is_near(blocks: _Blocks, plane: Tensor) -> Tensor:
    expected = (blocks.place @ plane).clamp_min(1e-3)
    return blocks.mean < expected + 2 * (expected / blocks.n_voxels).sqrt()


def _contrast(blocks: _Blocks, plane: Tensor) -> tuple[float, float]:
    """Return the variance of the counts over their squared mean, less counting noise, in the blocks of the plane.

    Speckles have a contrast of 1, so that the square root is the share of the crystal's diffraction in these blocks.
    The second number is the standard deviation by counting noise.
    """
    chosen = _is_near(blocks, plane)
    if not bool(chosen.any()):
        return math.inf, 0.0
    mean, weight = blocks.mean[chosen], blocks.n_voxels[chosen]
    noise = mean if blocks.has_noise else torch.zeros_like(mean)
    total = (mean.square() * weight).sum().clamp_min(1e-30)
    excess = ((blocks.variance[chosen] - noise) * weight).sum()
    error = ((noise + 2 * noise.square()) * weight).sum().sqrt()  # of the variance of Poisson numbers
    return float(excess / total), float(error / total)
