"""A hole in the middle of the diffraction: a beam stop, a gap or saturated voxels where the counts are largest.

The transform of intensities that end abruptly at a hole reaches over the whole array, so that the autocorrelation shows
no crystal.  `taper` lets them end smoothly: the transform of the taper is narrow, and the fringes outside of the hole
still show how far the crystal reaches.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

LEAST_VOXELS = 20
"""Voxels of a hole below which nothing is done: a few masked hot voxels."""

TAPER_VOX = 3.0
"""Distance from the hole over which the intensities rise [voxels], as the standard deviation of a Gaussian."""


def taper(counts: Tensor, valid: Tensor) -> Tensor | None:
    """Return factors from 0 in the hole to 1 far from it; None if no hole touches the brightest voxel.

    Parameters
    ----------
    counts
        Counts ``(*shape)``, periodic; the position of their origin does not matter.
    valid
        Voxels that were measured, bool.
    """
    shape, unknown = np.array(counts.shape), ~valid.cpu().numpy()
    brightest = np.unravel_index(int(torch.where(valid, counts, -1).argmax()), shape)
    if not unknown[np.ix_(*(np.arange(b - 1, b + 2) % n for b, n in zip(brightest, shape, strict=True)))].any():
        return None
    shift = tuple((shape // 2 - brightest).tolist())
    axes = tuple(range(counts.ndim))
    hole = _hole(np.roll(unknown, shift, axes))
    if hole is None:
        return None
    distance = ndimage.distance_transform_edt(~hole)
    factors = np.roll(1 - np.exp(-(distance**2) / (2 * TAPER_VOX**2)), tuple(-s for s in shift), axes)
    return torch.from_numpy(factors.astype(np.float32)).to(counts.device)


def _hole(unknown: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Return the unknown voxels that are connected with a neighbour of the middle voxel, if they are many."""
    near = tuple(slice(max(n // 2 - 1, 0), n // 2 + 2) for n in unknown.shape)
    labels, _ = ndimage.label(unknown)
    hole: NDArray[np.bool_] = np.isin(labels, np.unique(labels[near][unknown[near]]))
    return hole if hole.sum() >= LEAST_VOXELS else None
