"""Size of the crystal from the autocorrelation, the Fourier transform of the counts.

The autocorrelation reaches as far as two points of the crystal may lie apart.  The autocorrelation of a strained
crystal decays sooner than the autocorrelation of its shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cdi_stream.numerics.boxes import bounding_box
from cdi_stream.numerics.fourier import (
    from_fourier_order,
    half_spectrum_modulus,
    real_spectrum_modulus,
    whole_spectrum,
)
from cdi_stream.phasing.hole import taper
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.tuning import TUNING


@dataclass(frozen=True, slots=True)
class Box:
    """Slanted box that the crystal lies in.

    ``extents_vox`` are the lengths of the upright box around it, along the axes of the array [voxels].  ``slant`` is
    the volume of the slanted box over that of the upright box, in (0, 1]; a sheared scan makes it small.
    """

    extents_vox: tuple[float, ...]
    slant: float

    @property
    def volume_vox(self) -> float:
        """Volume of the slanted box [voxels]."""
        return math.prod(self.extents_vox) * self.slant


def box_of(data: Measurement) -> Box:
    """Return the box of the crystal that a measurement shows."""
    counts = _counts(data)
    offsets = island(counts, tapered(counts, weights(data.valid, data.magnitude_scale.square())))
    return Box(tuple(map(float, np.minimum(lengths_vox(offsets), data.magnitude.shape))), slant(offsets))


def weights(valid: Tensor, scale: Tensor) -> Tensor:
    """Return the factors from counts to relative intensities: 1 over the expected scale, 0 where that is not known."""
    least = TUNING.least_relative_scale * scale.max().clamp_min(1e-30)
    return (valid & (scale > least)) / scale.clamp_min(least)


def tapered(counts: Tensor, weight: Tensor) -> Tensor:
    """Return the factors of `weights`, which fall off smoothly towards a hole at the peak (`hole.taper`)."""
    factors = taper(counts, weight > 0)
    return weight if factors is None else weight * factors


def oversampling(counts: Tensor, weight: Tensor | None = None) -> tuple[float, ...]:
    """Return the length of the array over that of the crystal, along each axis; ``weight`` is that of `weights`."""
    return tuple(map(float, np.array(counts.shape) / lengths_vox(island(counts, weight))))


def lengths_vox(offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the lengths of the crystal along the axes [voxels], at least 1, from the offsets of `island`."""
    lengths: NDArray[np.float64] = np.maximum(TUNING.tail_correction * np.abs(offsets).max(axis=0), 1.0)
    return lengths


def island(
    counts: Tensor, weight: Tensor | None = None, threshold: float = TUNING.autocorrelation_threshold
) -> NDArray[np.int64]:
    """Return the offsets ``(n, axes)`` [voxels] from the origin at which the autocorrelation is large.

    Parameters
    ----------
    counts
        Counts ``(*shape)``; the position of their origin does not matter.
    weight
        Factors of `weights`; 1 everywhere if not given.  Counts of voxels with factor 0 are ignored.
    threshold
        Share of its maximum above which the autocorrelation is large, or four times its counting noise if that is more.

    Returns
    -------
    array
        Offsets of the connected region about the origin; all offsets of the array if the counts are all zero.
    """
    weight = torch.ones_like(counts) if weight is None else weight
    intensity = torch.where(weight > 0, counts, 0.0).double() * weight
    half = half_spectrum_modulus(intensity)
    noise = math.sqrt(float(torch.dot(intensity.flatten(), weight.double().flatten()).clamp_min(0)))
    noise /= max(float(intensity.sum()), 1e-30)
    level = max(threshold, TUNING.noise_multiple * min(noise, 1.0)) * half.max()
    is_large = from_fourier_order(whole_spectrum(half > level, counts.shape[-1]))
    return _connected_to_origin(is_large.cpu().numpy())


def _connected_to_origin(is_large: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the offsets ``(n, axes)`` of the large voxels that are connected with the origin n//2.

    If the origin is not large, these are the offsets of all voxels that are not.
    """
    origin = np.array(is_large.shape) // 2
    if not is_large[tuple(origin)]:
        outside: NDArray[np.int64] = np.argwhere(~is_large) - origin
        return outside
    box = bounding_box(is_large)
    first = np.array([along.start for along in box])
    islands, _ = ndimage.label(is_large[box])
    offsets: NDArray[np.int64] = np.argwhere(islands == islands[tuple(origin - first)]) + first - origin
    return offsets


def slant(offsets: NDArray[np.int64]) -> float:
    """Return the volume of the slanted box about offsets ``(n, axes)`` over that of the upright box.

    From the second moments C of the offsets, each voxel with its own width: sqrt(det C / prod C_ii).
    """
    moments = offsets.T @ offsets / len(offsets) + np.eye(offsets.shape[1]) / 12
    return float(np.sqrt(np.linalg.det(moments) / np.diag(moments).prod()))


def intensities(data: Measurement) -> Tensor:
    """Return the counts less background, over their expected scale; in Fourier order, 0 where that is not known."""
    weight = weights(data.valid, data.magnitude_scale.square())
    return torch.where(weight > 0, _counts(data), 0.0) * weight


def _counts(data: Measurement) -> Tensor:
    """Return the counts less background; below zero where there are fewer."""
    counts = data.magnitude.square()
    return counts if data.background is None else counts - data.background


def autocorrelation(data: Measurement) -> Tensor:
    """Return the modulus of the crystal's autocorrelation in Fourier order, scaled to a largest value of 1.

    The region above a threshold is twice as wide as the crystal, so it contains the crystal and its twin: Crimmins,
    Fienup and Thelen (1990), J. Opt. Soc. Am. A 7, 3, doi:10.1364/JOSAA.7.000003.
    """
    intensity = intensities(data)
    factors = taper(intensity, data.valid)
    modulus = real_spectrum_modulus(intensity if factors is None else intensity * factors)
    result: Tensor = modulus / modulus.amax().clamp_min(1e-30)
    return result
