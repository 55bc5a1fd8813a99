"""Apply a mask to intensities, and detect masks of the opposite convention (1 = bad)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cdi_stream.errors import IntensitiesError
from cdi_stream.files.intensities.volume import Bools, Intensities, mask_non_counts, photon_of
from cdi_stream.inversion.blemishes import brightest_of
from cdi_stream.inversion.hot import hot_voxels
from cdi_stream.messages import read_only

MIN_COUNTS_SHARE = 0.1
"""Least share of the counts that a mask without the Bragg peak must leave; a mask that leaves less is inverted."""

HALF = 0.5
"""Share of the counts, and of the voxels, below which a mask that leaves less gets a doubt."""


def apply_mask(intensities: Intensities, mask: Bools, where: str) -> Intensities:
    """Return intensities without the voxels where ``mask`` is false; a 2D mask holds for every frame of a volume.

    A mask is never inverted silently.  It is refused if it is plausible only when inverted: it removes the Bragg peak,
    leaves less than a tenth of the counts, and removes most of the voxels.  A mask of gaps, bad pixels or a beam stop
    leaves most voxels.  If only some of the three conditions hold, the mask is applied, and the result gets a doubt.

    Parameters
    ----------
    intensities
        Intensities with their own valid voxels.
    mask
        True = use.
    where
        File of the mask, for error messages.

    Raises
    ------
    IntensitiesError
        If the shapes do not fit, or the mask is plausible only when inverted.
    """
    shape = intensities.counts.shape
    if mask.shape not in (shape, shape[1:]):
        frames = f" or {shape[1:]}" if len(shape) == 3 else ""
        raise IntensitiesError(f"{where}: expected a mask of shape {shape}{frames}, got {mask.shape}")
    mask = np.broadcast_to(mask, shape)
    result = replace(intensities, valid_pixels=read_only(intensities.valid_pixels & mask))
    doubt = _doubt(intensities, mask, where) if result.valid_pixels.any() else ""
    return replace(result, doubts=(*intensities.doubts, doubt)) if doubt else result


def _doubt(intensities: Intensities, mask: Bools, where: str) -> str:
    """Return a doubt about a mask; empty if the mask is plausible."""
    is_lit = (intensities.counts > 0) & intensities.valid_pixels
    n_lit, n_left = int(is_lit.sum()), int((is_lit & mask).sum())
    is_dark = 0 < n_left < 0.1 * n_lit
    if (
        not is_dark
        and mask.mean() >= HALF
        and _share(intensities, mask, intensities.valid_pixels & np.isfinite(intensities.counts)) >= HALF
    ):
        return ""
    peak, share = _masked_peak(intensities, mask)
    if peak is not None and share < HALF:
        text = (
            f"the mask removes the peak at {peak} and leaves {share:.1%} of the counts: it looks inverted (1 = bad?); "
            "true or 1 must mean use (in CXI: 0)"
        )
        if share < MIN_COUNTS_SHARE and mask.mean() < HALF:
            raise IntensitiesError(f"{where}: {text}; invert the mask, as in numpy.save('mask.npy', ~mask)")
        return text
    return f"the mask leaves {n_left} of {n_lit} lit voxels: true or 1 must mean use (in CXI: 0)" if is_dark else ""


def _masked_peak(intensities: Intensities, mask: Bools) -> tuple[tuple[int, ...] | None, float]:
    """Return the Bragg peak if the mask removes it, else None, and the share of the counts that the mask leaves.

    Hot voxels, and values that are not counts, are left out.
    """
    try:
        plain = mask_non_counts(intensities)
    except IntensitiesError:  # many voxels are below zero, and the mask itself may remove them
        plain = mask_non_counts(replace(intensities, valid_pixels=intensities.valid_pixels & (intensities.counts >= 0)))
    counts, valid = plain.counts, plain.valid_pixels
    hot = hot_voxels(counts, valid, photon=photon_of(plain), wraps=intensities.is_periodic)
    peak = hot.lone_peak or brightest_of(counts, valid & ~hot.voxels, intensities.is_periodic)
    return (None if mask[peak] else peak), _share(plain, mask, valid & ~hot.voxels)


def _share(intensities: Intensities, mask: Bools, valid: Bools) -> float:
    """Return the share of the counts of the ``valid`` voxels that a mask leaves."""
    total = float(intensities.counts[valid].sum(dtype=np.float64))
    return float(intensities.counts[valid & mask].sum(dtype=np.float64)) / total if total > 0 else 1.0
