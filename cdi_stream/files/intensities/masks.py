"""A mask laid on intensities, and whether it seems to be of the other convention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cdi_stream.errors import IntensitiesError
from cdi_stream.files.intensities.volume import Bools, Intensities, counted, photon_of
from cdi_stream.inversion.blemishes import brightest_of
from cdi_stream.inversion.hot import hot_voxels
from cdi_stream.messages import read_only

FEW_COUNTS, HALF = 0.1, 0.5
"""Share of the counts below which what a mask leaves cannot be a pattern whose peak was masked, and below which it is
doubted."""


def masked(found: Intensities, mask: Bools, where: str) -> Intensities:
    """Take voxels out where ``mask`` is false; a 2D mask holds for every frame of a volume.

    A mask that removes the peak is told, and never inverted on its own.  It is refused if it makes sense only the other
    way round: it removes the peak, leaves less than a tenth of the counts, and takes out most of the voxels.  A mask of
    gaps and bad pixels leaves most voxels, and so does a beam stop: neither can be meant.  Where only some of the three
    hold, the mask may be right, and the result is doubted.

    Raises
    ------
    IntensitiesError
        If the shapes do not fit, or the mask makes sense only when it is inverted.
    """
    shape = found.counts.shape
    if mask.shape not in (shape, shape[1:]):
        frames = f" or {shape[1:]}" if len(shape) == 3 else ""
        raise IntensitiesError(f"{where}: expected a mask of shape {shape}{frames}, got {mask.shape}")
    mask = np.broadcast_to(mask, shape)
    result = replace(found, valid_pixels=read_only(found.valid_pixels & mask))
    doubt = _doubt(found, mask, where) if result.valid_pixels.any() else ""
    return replace(result, doubts=(*found.doubts, doubt)) if doubt else result


def _doubt(found: Intensities, mask: Bools, where: str) -> str:
    """What is to be said against a mask; nothing if it is well."""
    lit = (found.counts > 0) & found.valid_pixels
    n_lit, n_left = int(lit.sum()), int((lit & mask).sum())
    is_dark = 0 < n_left < 0.1 * n_lit
    if (
        not is_dark
        and mask.mean() >= HALF
        and _share(found, mask, found.valid_pixels & np.isfinite(found.counts)) >= HALF
    ):
        return ""
    peak, share = _seen(found, mask)
    if peak is not None and share < HALF:
        text = (
            f"the mask removes the peak at {peak} and leaves {share:.1%} of the counts: it looks inverted (1 = bad?); "
            "true or 1 must mean use (in CXI: 0)"
        )
        if share < FEW_COUNTS and mask.mean() < HALF:
            raise IntensitiesError(f"{where}: {text}; invert the mask, as in numpy.save('mask.npy', ~mask)")
        return text
    return f"the mask leaves {n_left} of {n_lit} lit voxels: true or 1 must mean use (in CXI: 0)" if is_dark else ""


def _seen(found: Intensities, mask: Bools) -> tuple[tuple[int, ...] | None, float]:
    """The peak if the mask removes it, and the share of the counts that it leaves; what is no count or hot left out."""
    try:
        plain = counted(found)
    except IntensitiesError:  # many voxels are below zero: only the mask tells which
        plain = counted(replace(found, valid_pixels=found.valid_pixels & (found.counts >= 0)))
    counts, valid = plain.counts, plain.valid_pixels
    hot = hot_voxels(counts, valid, photon=photon_of(plain), wraps=found.is_periodic)
    peak = hot.lone_peak or brightest_of(counts, valid & ~hot.voxels, found.is_periodic)
    return (None if mask[peak] else peak), _share(plain, mask, valid & ~hot.voxels)


def _share(found: Intensities, mask: Bools, valid: Bools) -> float:
    """Share of the counts over ``valid`` voxels that a mask leaves."""
    total = float(found.counts[valid].sum(dtype=np.float64))
    return float(found.counts[valid & mask].sum(dtype=np.float64)) / total if total > 0 else 1.0
