"""Intensities as they will be phased: what may be trusted of them, and whether there is anything to phase.

No count is changed but those that are none (NaN, infinity, below zero): they become 0 and are masked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdi_stream.affine import AffineMap
from cdi_stream.errors import IntensitiesError
from cdi_stream.messages import read_only

Bools = NDArray[np.bool_]
Counts = NDArray[Any]

MIN_LIT = 8
"""Fewest voxels above zero that can be called a pattern."""

MAX_NEGATIVE = 0.01
"""Largest share of voxels below zero that is taken for blemishes."""

PLATEAU = 4
"""Fewest touching voxels at the very same maximum that are taken for a clipped peak ..."""

PLATEAU_LEVELS = 100
"""... if that maximum is as many times the smallest count: few photons are equal by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intensities:
    """Intensities of one file, 2D or 3D, origin at voxel N//2 on each axis.

    Parameters
    ----------
    counts
        As measured, float32 or integers, >= 0; 0 where they were no counts.
    valid_pixels
        True = use; same shape.
    expected_scale
        What multiplies the modelled intensity of each voxel, float32, same shape; None stands for 1.
    affine
        Map of the array in detector coordinates, where the geometry is known; 3D only.
    axes
        Names of the axes.
    source
        Name of the file or scan.
    is_periodic
        Whether the array may be rolled, as one given by itself; beyond a detector's edge nothing was measured.
    notes, doubts
        What is only told, and what makes a verdict doubtful.
    """

    counts: Counts
    valid_pixels: Bools
    axes: tuple[str, ...]
    source: str
    expected_scale: NDArray[np.float32] | None = None
    affine: AffineMap | None = None
    is_periodic: bool = True
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def masked(found: Intensities, mask: Bools, where: str) -> Intensities:
    """Take voxels out where ``mask`` is false; a 2D mask holds for every frame of a volume.

    Raises
    ------
    IntensitiesError
        If the shapes do not fit.
    """
    shape = found.counts.shape
    if mask.shape not in (shape, shape[1:]):
        frames = f" or {shape[1:]}" if len(shape) == 3 else ""
        raise IntensitiesError(f"{where}: expected a mask of shape {shape}{frames}, got {mask.shape}")
    valid, lit = found.valid_pixels & mask, (found.counts > 0) & found.valid_pixels
    n_lit, n_left = int(lit.sum()), int((lit & mask).sum())
    doubt = f"the mask leaves {n_left} of {n_lit} lit voxels: true or 1 must mean use (in CXI: 0)"
    doubts = (doubt,) if 0 < n_left < 0.1 * n_lit else ()
    return replace(found, valid_pixels=read_only(valid), doubts=found.doubts + doubts)


def cleaned(found: Intensities) -> Intensities:
    """Mask what is no count, and what is saturated, saying so.

    Raises
    ------
    IntensitiesError
        If a hundredth of the voxels or more lies below zero.
    """
    counts, valid = _native(found.counts), found.valid_pixels.copy()
    _require_counts(counts, valid & np.isfinite(counts), found.source)
    notes, doubts = found.notes, found.doubts
    for judge in (_not_finite, _negative, _at_the_limit, _plateau):
        voxels, text, is_doubt = judge(counts, valid)
        if voxels.any():
            valid &= ~voxels
            said = (f"{int(voxels.sum())} voxels {text}: they are masked",)
            notes, doubts = (notes, doubts + said) if is_doubt else (notes + said, doubts)
    if counts.dtype.kind != "u":
        counts = np.where(counts >= 0, counts, counts.dtype.type(0))  # NaN is not >= 0
        counts[~np.isfinite(counts)] = 0
    if counts.dtype.kind == "f" and not np.array_equal(counts, np.rint(counts)):
        notes += ("the values are no whole numbers: they are taken as intensities in units of their own",)
    return replace(found, counts=read_only(counts), valid_pixels=read_only(valid), notes=notes, doubts=doubts)


def require_signal(found: Intensities) -> None:
    """Raise `IntensitiesError` with the remedy if there is nothing to phase."""
    if not found.valid_pixels.any():
        raise IntensitiesError(
            f"{found.source}: expected voxels to use, got all of them masked: true or 1 must mean use (in CXI: 0)"
        )
    used = found.counts[found.valid_pixels]
    n_lit = int(np.count_nonzero(used))
    if n_lit < MIN_LIT:
        lit = {0: "all voxels at zero", 1: "one lit voxel"}.get(n_lit, f"{n_lit} lit voxels")
        raise IntensitiesError(
            f"{found.source}: expected a diffraction pattern, got {lit}: check shutter, alignment and mask"
        )
    if used.min() == used.max():
        raise IntensitiesError(
            f"{found.source}: expected a diffraction pattern, got {used.min()} everywhere: check the file's data"
        )


def _require_counts(counts: Counts, valid: Bools, source: str) -> None:
    n, n_valid = int(np.count_nonzero(counts[valid] < 0)), int(valid.sum())
    if n > 0 and n >= MAX_NEGATIVE * n_valid:
        raise IntensitiesError(
            f"{source}: expected counts, got {n} of {n_valid} voxels ({n / n_valid:.1%}) below zero: give raw counts "
            "with nothing subtracted, or mask what is no count"
        )


_Judge = Callable[[Counts, Bools], tuple[Bools, str, bool]]


def _native(counts: Counts) -> Counts:
    """Bring counts to this machine's byte order, floats to float32."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is masked as such
        return counts.astype(np.float32 if counts.dtype.kind == "f" else counts.dtype.newbyteorder("="), copy=False)


def _not_finite(counts: Counts, valid: Bools) -> tuple[Bools, str, bool]:
    return valid & ~np.isfinite(counts), "are NaN or infinite", False


def _negative(counts: Counts, valid: Bools) -> tuple[Bools, str, bool]:
    return valid & (counts < 0), "are below zero", False


def _at_the_limit(counts: Counts, valid: Bools) -> tuple[Bools, str, bool]:
    """Voxels at the data type's maximum: gaps where whole pixels or 32 bits are, else a saturated peak."""
    if counts.dtype.kind == "f":
        return np.zeros_like(valid), "", False
    limit = np.iinfo(counts.dtype).max
    voxels = valid & (counts == limit)
    at_limit = counts == limit
    is_gap = counts.dtype.itemsize > 2 or (counts.ndim == 3 and not (voxels & ~at_limit.all(axis=0)).any())
    what = "detector gaps" if is_gap else "the peak is saturated"
    return voxels, f"are at {limit}, the largest {counts.dtype} ({what})", not is_gap


def _plateau(counts: Counts, valid: Bools) -> tuple[Bools, str, bool]:
    """Touching voxels that share the largest value: a clipped peak."""
    used = counts[valid & (counts > 0)]
    top = used.max() if used.size else 0
    voxels = valid & (counts == top)
    if used.size == 0 or voxels.sum() < PLATEAU or top < PLATEAU_LEVELS * float(used.min()):
        return np.zeros_like(valid), "", False
    labels, n_labels = ndimage.label(voxels)
    sizes = np.bincount(labels.ravel(), minlength=n_labels + 1)
    sizes[0] = 0
    return (sizes >= PLATEAU)[labels], f"touch at the same largest value {top} (the peak is saturated)", True
