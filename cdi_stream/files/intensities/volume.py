"""Intensities as they will be phased: what may be trusted of them, and whether there is anything to phase.

No count is changed but those that are none (NaN, infinity, below zero): they become 0 and are masked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdi_stream.errors import IntensitiesError
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.inversion.blemishes import no_count_from
from cdi_stream.messages import read_only

Bools = NDArray[np.bool_]
Counts = NDArray[Any]

LEAST_TOTAL = 1e6
"""Photons in all of a pattern that is given in units of its own."""

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
    peak
        Voxel of the peak, where it is known already.
    blemishes
        Voxels that cleaning took out of ``valid_pixels``, though the file itself takes them for valid; None if cleaning
        was not asked for.
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
    peak: tuple[int, ...] | None = None
    blemishes: Bools | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def own_valid_pixels(self) -> Bools:
        """Valid voxels as they were before cleaning."""
        return self.valid_pixels if self.blemishes is None else self.valid_pixels | self.blemishes


def counted(found: Intensities) -> Intensities:
    """Mask what is no count: not finite, below zero, or at the end of the data type; say so.

    Raises
    ------
    IntensitiesError
        If a hundredth of the voxels or more lies below zero.
    """
    counts, valid = _native(found.counts), found.valid_pixels
    _require_counts(counts, valid & np.isfinite(counts), found.source)
    found = replace(found, counts=counts)
    for judge in (_not_finite, _negative, _at_the_limit):
        found = _without(found, *judge(counts, found.valid_pixels))
    if counts.dtype.kind != "u":
        counts = np.where(counts >= 0, counts, counts.dtype.type(0))  # NaN is not >= 0
        counts[~np.isfinite(counts)] = 0
    notes = found.notes
    if counts.dtype.kind == "f" and not np.array_equal(counts, np.rint(counts)):
        notes += ("the values are no whole numbers: they are taken as intensities in units of their own",)
    return replace(found, counts=read_only(counts), notes=notes)


def unsaturated(found: Intensities) -> Intensities:
    """Mask a clipped peak and doubt it; what is hot must have been masked before."""
    return _without(found, *_plateau(found.counts, found.valid_pixels))


def _without(found: Intensities, voxels: Bools, text: str, is_doubt: bool) -> Intensities:
    """Mask voxels and say why."""
    if not voxels.any():
        return found
    told = (f"{int(voxels.sum())} voxels {text}: they are masked",)
    return replace(
        found,
        valid_pixels=read_only(found.valid_pixels & ~voxels),
        notes=found.notes if is_doubt else found.notes + told,
        doubts=found.doubts + told if is_doubt else found.doubts,
    )


def photon_of(found: Intensities) -> float:
    """What one photon adds to the intensities: 1 for counts; else as if all of them together were `LEAST_TOTAL`.

    Intensities in units of their own, such as of their maximum, would pass for very few photons.
    """
    total = float(found.counts[found.valid_pixels].sum(dtype=np.float64))
    is_counts = total >= LEAST_TOTAL or np.array_equal(found.counts, np.rint(found.counts))
    return 1.0 if is_counts else total / LEAST_TOTAL


def in_counts(found: Intensities) -> Intensities:
    """Scale intensities in units of their own to photons, see `photon_of`; counts stay as they are."""
    photon = photon_of(found)
    return found if photon == 1 else replace(found, counts=read_only((found.counts / photon).astype(np.float32)))


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


def _native(counts: Counts) -> Counts:
    """Bring counts to this machine's byte order, floats to float32."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is masked as such
        return counts.astype(np.float32 if counts.dtype.kind == "f" else counts.dtype.newbyteorder("="), copy=False)


def _not_finite(counts: Counts, valid: Bools) -> tuple[Bools, str, bool]:
    return valid & ~np.isfinite(counts), "are NaN or infinite", False


def _negative(counts: Counts, valid: Bools) -> tuple[Bools, str, bool]:
    return valid & (counts < 0), "are below zero", False


def _at_the_limit(counts: Counts, valid: Bools) -> tuple[Bools, str, bool]:
    """Voxels at the end of the data type: gaps where whole pixels or 32 bits are, else a saturated peak.

    The end of 32 bits is that in wider types too, to which files are often converted.
    """
    if counts.dtype.itemsize > 4 or counts.dtype.kind == "f":
        ends = np.array([2**32 - 2, 2**32 - 1], dtype=counts.dtype)
        return valid & np.isin(counts, ends), f"are at {2**32 - 1} or one below (detector gaps)", False
    largest = np.iinfo(counts.dtype).max
    at_limit = counts >= no_count_from(largest)
    voxels = valid & at_limit
    is_gap = counts.dtype.itemsize > 2 or (counts.ndim == 3 and not (voxels & ~at_limit.all(axis=0)).any())
    what = "detector gaps" if is_gap else "the peak is saturated"
    return voxels, f"are at {largest}, the largest {counts.dtype}, or one below ({what})", not is_gap


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
