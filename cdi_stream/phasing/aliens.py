"""Find the peaks of other grains in the counts that the crystals of a search leave unexplained.

Alien peaks that stand alone are masked before the phasing.  A peak on a streak of the crystal does not stand alone, but
no crystal explains it: its counts lie far above the model of every start.  The faults of crystals that are not quite
right, or wrong, differ from start to start, and lie above and below the model alike: the deepest fault tells how high a
fault may be.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cdi_stream.phasing.projections import Measurement, likeliest_counts
from cdi_stream.phasing.pyramid import pad_centre
from cdi_stream.phasing.support import grow, smooth
from cdi_stream.phasing.tuning import TUNING

_LEAST_COUNTS = 1e-3
"""Least variance of the blurred counts of a voxel, so that an empty voxel has no noise of zero."""


def find_aliens(crystals: Tensor, coarse: Measurement, data: Measurement) -> Tensor | None:
    """Return the voxels of alien peaks of a measurement, bool ``(*shape)``; None if the crystals leave no such peak.

    A voxel belongs to an alien peak if its counts exceed the model of each crystal by more standard deviations than any
    voxel falls below a model, or if it lies close to such a voxel.  There are alien peaks only if the highest is
    several times higher than that, and if they take a small part of the volume and of the counts.  Peaks that are much
    fainter than the highest are found when the highest is left out.

    Parameters
    ----------
    crystals
        Crystals of different starts on the coarse grid ``(n, *coarse_shape)``, in Fourier order, best first; the first
        few are used.
    coarse
        The middle of the measurement with its model, see `cdi_stream.phasing.pyramid.coarsen`.
    data
        The whole measurement.
    """
    excesses = torch.stack([_excess(crystal, coarse) for crystal in crystals[: TUNING.crystals_that_leave_aliens]])
    excess = excesses.amin(0)
    deepest = max(-float(excesses.min()), TUNING.least_alien_excess / TUNING.alien_over_fault)
    highest = float(excess.max())
    if highest < TUNING.alien_over_fault * deepest:
        return None
    limit = max(deepest, TUNING.faintest_alien_share * highest)
    aliens = pad_centre((excess > limit) & coarse.valid, tuple(data.valid.shape))
    counts = data.magnitude.square()
    is_faint = float(counts[aliens].sum()) < TUNING.largest_alien_counts * float(counts[data.valid].sum())
    is_small = int(aliens.sum()) < TUNING.largest_alien_share * int(data.valid.sum())
    return grow(aliens, TUNING.alien_rim_vox) & data.valid if is_faint and is_small else None


def _excess(crystal: Tensor, data: Measurement) -> Tensor:
    """Return the blurred excess of the counts over the model ``(*shape)`` [standard deviations of counting noise]."""
    counts = data.magnitude.square()
    expected = torch.where(data.valid, likeliest_counts(crystal, data, data.valid).to(counts), 0.0)
    sigma_vox = TUNING.alien_blur_vox
    square_of_blur = (4 * math.pi * sigma_vox**2) ** (-data.n_axes / 2)  # integral of the squared Gaussian
    variance = square_of_blur * smooth(expected, sigma_vox).clamp_min(0) + _LEAST_COUNTS
    excess: Tensor = smooth(torch.where(data.valid, counts - expected, 0.0), sigma_vox) / variance.sqrt()
    return excess
