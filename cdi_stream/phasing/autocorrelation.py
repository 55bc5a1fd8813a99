"""What counts say of the crystal's size before it is known: their transform is its autocorrelation.

It reaches as far as two points of the crystal may lie apart.  That of a strained crystal falls off sooner than that of
its shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cdi_stream.numerics.fourier import from_fourier_order
from cdi_stream.phasing.projections import Measurement

TAIL = 1.12
"""A threshold of 2 % cuts the tails of a compact crystal's autocorrelation by about a ninth."""
BLIND = 1e-7
"""Share of the largest expected scale below which a voxel tells nothing."""


@dataclass(frozen=True, slots=True)
class Box:
    """The box that a crystal lies in: its lengths along the array's axes [voxels], and how slanted it is.

    ``slant`` is its volume over that of the upright box with these lengths, in (0, 1]; a sheared scan makes it small.
    """

    extents_vox: tuple[float, ...]
    slant: float

    @property
    def volume_vox(self) -> float:
        """Of the slanted box."""
        return math.prod(self.extents_vox) * self.slant


def box_of(data: Measurement) -> Box:
    """Box of the crystal that a measurement is of."""
    offsets = island(data.magnitude.square(), weights(data.valid, data.gain.square()))
    return Box(tuple(map(float, np.minimum(lengths_vox(offsets), data.magnitude.shape))), slant(offsets))


def weights(valid: Tensor, scale: Tensor) -> Tensor:
    """What turns counts into relative intensities: one over their expected scale, zero where that is not known."""
    is_seen = valid & (scale > BLIND * scale.max().clamp_min(1e-30))
    return torch.where(is_seen, 1 / torch.where(is_seen, scale, 1.0), 0.0)


def oversampling(counts: Tensor, weight: Tensor | None = None) -> tuple[float, ...]:
    """Length of the array over that of the crystal along each axis."""
    return tuple(map(float, np.array(counts.shape) / lengths_vox(island(counts, weight))))


def lengths_vox(offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Lengths of the crystal along the axes [voxels], from its autocorrelation's `island`; one at least."""
    lengths: NDArray[np.float64] = np.maximum(TAIL * np.abs(offsets).max(axis=0), 1.0)
    return lengths


def island(counts: Tensor, weight: Tensor | None = None, threshold: float = 0.02) -> NDArray[np.int64]:
    """Offsets ``(n, axes)`` [voxels] about the origin where the autocorrelation is not small; counts in any order.

    Above ``threshold`` of its maximum, that is, or four times its noise; all of the array if nothing is.  ``weight`` is
    that of `weights`, one everywhere if not given; where it is zero, counts may be anything.
    """
    weight = torch.ones_like(counts) if weight is None else weight
    seen = torch.where(weight > 0, counts, 0).double() * weight
    correlation = from_fourier_order(torch.fft.ifftn(seen).abs()).cpu().numpy()
    noise = math.sqrt(float((seen * weight).sum())) / max(float(seen.sum()), 1e-30)
    level = max(threshold, 4 * min(noise, 1.0)) * correlation.max()
    islands, _ = ndimage.label(correlation > level)
    origin = np.array(correlation.shape) // 2
    offsets: NDArray[np.int64] = np.argwhere(islands == islands[tuple(origin)]) - origin
    return offsets


def slant(offsets: NDArray[np.int64]) -> float:
    """Volume of the slanted box about offsets ``(n, axes)`` over that of the upright one.

    Both by their second moments C, each voxel with its own width: sqrt(det C / prod C_ii).
    """
    moments = offsets.T @ offsets / len(offsets) + np.eye(offsets.shape[1]) / 12
    return float(np.sqrt(np.linalg.det(moments) / np.diag(moments).prod()))


def intensities(data: Measurement) -> Tensor:
    """Counts over their expected scale, zero where they are not known."""
    weight = weights(data.valid, data.gain.square())
    return torch.where(weight > 0, data.magnitude.square(), 0.0) * weight


def autocorrelation(data: Measurement) -> Tensor:
    """Modulus of the crystal's autocorrelation in Fourier order, largest value 1.

    Where it exceeds a threshold it is twice as wide as the crystal, so it holds it and its twin: Crimmins, Fienup and
    Thelen (1990), J. Opt. Soc. Am. A 7, 3, doi:10.1364/JOSAA.7.000003.
    """
    modulus = torch.fft.fftn(intensities(data)).abs()
    result: Tensor = modulus / modulus.amax().clamp_min(1e-30)
    return result
