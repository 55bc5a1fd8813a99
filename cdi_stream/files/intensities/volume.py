"""Diffraction intensities of a file: mask values that are not counts, and check that there is a signal.

Counts are not changed.  Values that are not counts (NaN, infinity, below zero) become 0 and are masked.
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
"""Photons that a pattern in arbitrary units is assumed to have in total."""

MIN_LIT = 8
"""Least number of voxels above zero of a diffraction pattern."""

MAX_NEGATIVE = 0.01
"""Largest share of voxels below zero that is masked; a file with a larger share is refused."""

PLATEAU = 4
"""Least number of adjacent voxels at the same maximum that make a clipped (saturated) peak."""

PLATEAU_LEVELS = 100
"""Least ratio of a clipped peak to the smallest count above zero; below, equal counts occur by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intensities:
    """Intensities of one file, 2D or 3D, origin at voxel N//2 on each axis.

    Parameters
    ----------
    counts
        Measured values, float32 or integers, >= 0; 0 where a value was not a count.
    valid_pixels
        True = use; same shape.
    expected_scale
        Factor of the modelled intensity of each voxel, float32, same shape; None stands for 1.
    affine
        Map of the array in detector coordinates, where the geometry is known; 3D only.
    frame_shifts
        Distances of the frames of a scan from even steps ``(n_frames,)`` [steps]; None for even steps.
    axes
        Names of the axes.
    source
        Name of the file or scan.
    is_periodic
        Whether the array may be rolled, as a plain array may; beyond a detector's edge nothing was measured.
    peak
        Voxel of the Bragg peak; None if it is not known yet.
    blemishes
        Voxels that cleaning removed from ``valid_pixels``; None if there was no cleaning.
    notes, doubts
        Remarks, and reasons that make a verdict doubtful.
    """

    counts: Counts
    valid_pixels: Bools
    axes: tuple[str, ...]
    source: str
    expected_scale: NDArray[np.float32] | None = None
    affine: AffineMap | None = None
    frame_shifts: NDArray[np.float64] | None = None
    is_periodic: bool = True
    peak: tuple[int, ...] | None = None
    blemishes: Bools | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def own_valid_pixels(self) -> Bools:
        """Valid voxels before cleaning."""
        return self.valid_pixels if self.blemishes is None else self.valid_pixels | self.blemishes


def mask_non_counts(intensities: Intensities) -> Intensities:
    """Return intensities with values masked that are not counts; notes and doubts say how many.

    Such values are not finite, below zero, or at the end of the data type.

    Raises
    ------
    IntensitiesError
        If the share of voxels below zero is `MAX_NEGATIVE` or more.
    """
    counts, valid = _native(intensities.counts), intensities.valid_pixels
    _require_counts(counts, valid & np.isfinite(counts), intensities.source)
    intensities = replace(intensities, counts=counts)
    for judge in (_not_finite, _negative, _at_the_limit):
        intensities = _without(intensities, *judge(counts, intensities.valid_pixels))
    if counts.dtype.kind != "u":
        counts = np.where(counts >= 0, counts, counts.dtype.type(0))  # NaN is not >= 0
        counts[~np.isfinite(counts)] = 0
    notes = intensities.notes
    if counts.dtype.kind == "f" and not np.array_equal(counts, np.rint(counts)):
        notes += ("the values are no whole numbers: they are taken as intensities in units of their own",)
    return replace(intensities, counts=read_only(counts), notes=notes)


def mask_clipped_peak(intensities: Intensities) -> Intensities:
    """Return intensities with a clipped peak masked, and a doubt; hot voxels must be masked before."""
    return _without(intensities, *_plateau(intensities.counts, intensities.valid_pixels))


def _without(intensities: Intensities, voxels: Bools, text: str, is_doubt: bool) -> Intensities:
    """Return intensities with ``voxels`` masked, and a note or doubt with the reason."""
    if not voxels.any():
        return intensities
    reason = (f"{int(voxels.sum())} voxels {text}: they are masked",)
    return replace(
        intensities,
        valid_pixels=read_only(intensities.valid_pixels & ~voxels),
        notes=intensities.notes if is_doubt else intensities.notes + reason,
        doubts=intensities.doubts + reason if is_doubt else intensities.doubts,
    )


def photon_of(intensities: Intensities) -> float:
    """Return the value of one photon: 1 for counts; in arbitrary units, such that the total is `LEAST_TOTAL` photons.

    Intensities in arbitrary units, for example relative to their maximum, would otherwise count as very few photons.
    """
    total = float(intensities.counts[intensities.valid_pixels].sum(dtype=np.float64))
    is_counts = total >= LEAST_TOTAL or np.array_equal(intensities.counts, np.rint(intensities.counts))
    return 1.0 if is_counts else total / LEAST_TOTAL


def in_counts(intensities: Intensities) -> Intensities:
    """Return intensities in photons (`photon_of`); counts are not changed."""
    photon = photon_of(intensities)
    return (
        intensities
        if photon == 1
        else replace(intensities, counts=read_only((intensities.counts / photon).astype(np.float32)))
    )


def require_signal(intensities: Intensities) -> None:
    """Raise `IntensitiesError` if all voxels are masked, or if there is no diffraction signal."""
    if not intensities.valid_pixels.any():
        raise IntensitiesError(
            f"{intensities.source}: expected voxels to use, got all of them masked: true or 1 must mean use (in CXI: 0)"
        )
    counts = intensities.counts[intensities.valid_pixels]
    n_lit = int(np.count_nonzero(counts))
    if n_lit < MIN_LIT:
        lit = {0: "all voxels at zero", 1: "one lit voxel"}.get(n_lit, f"{n_lit} lit voxels")
        raise IntensitiesError(
            f"{intensities.source}: expected a diffraction pattern, got {lit}: check shutter, alignment and mask"
        )
    if (lowest := counts.min()) == counts.max():
        raise IntensitiesError(
            f"{intensities.source}: expected a diffraction pattern, got {lowest} everywhere: check the file's data"
        )


def _require_counts(counts: Counts, valid: Bools, source: str) -> None:
    n, n_valid = int(np.count_nonzero(counts[valid] < 0)), int(valid.sum())
    if n > 0 and n >= MAX_NEGATIVE * n_valid:
        raise IntensitiesError(
            f"{source}: expected counts, got {n} of {n_valid} voxels ({n / n_valid:.1%}) below zero: give raw counts "
            "with nothing subtracted, or mask the values that are not counts"
        )


def _native(counts: Counts) -> Counts:
    """Return counts in this machine's byte order, floats as float32."""
    with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite, and is masked
        return counts.astype(np.float32 if counts.dtype.kind == "f" else counts.dtype.newbyteorder("="), copy=False)


def _not_finite(counts: Counts, valid: Bools) -> tuple[Bools, str, bool]:
    return valid & ~np.isfinite(counts), "are NaN or infinite", False


def _negative(counts: Counts, valid: Bools) -> tuple[Bools, str, bool]:
    return valid & (counts < 0), "are below zero", False


def _at_the_limit(counts: Counts, valid: Bools) -> tuple[Bools, str, bool]:
    """Return the voxels at the end of the data type, the reason, and whether the reason is a doubt.

    Such voxels are detector gaps in 32-bit data, and in other data where they fill whole pixels; else they are a
    saturated peak.  Data of wider types is often converted from 32 bits: the end of 32 bits is used for it.
    """
    if counts.dtype.itemsize > 4 or counts.dtype.kind == "f":
        ends = np.array([2**32 - 2, 2**32 - 1], dtype=counts.dtype)
        return valid & np.isin(counts, ends), f"are at {2**32 - 1} or one below (detector gaps)", False
    largest = np.iinfo(counts.dtype).max
    at_limit = counts >= no_count_from(largest)
    voxels = valid & at_limit
    is_gap = counts.dtype.itemsize > 2 or (counts.ndim == 3 and not (voxels & ~at_limit.all(axis=0)).any())
    cause = "detector gaps" if is_gap else "the peak is saturated"
    return voxels, f"are at {largest}, the largest {counts.dtype}, or one below ({cause})", not is_gap


def _plateau(counts: Counts, valid: Bools) -> tuple[Bools, str, bool]:
    """Return adjacent voxels that share the largest value (a clipped peak), the reason, and that it is a doubt."""
    positive = counts[valid & (counts > 0)]
    top = positive.max() if positive.size else 0
    voxels = valid & (counts == top)
    if positive.size == 0 or voxels.sum() < PLATEAU or top < PLATEAU_LEVELS * float(positive.min()):
        return np.zeros_like(valid), "", False
    labels, n_labels = ndimage.label(voxels)
    sizes = np.bincount(labels.ravel(), minlength=n_labels + 1)
    sizes[0] = 0
    return (sizes >= PLATEAU)[labels], f"touch at the same largest value {top} (the peak is saturated)", True
