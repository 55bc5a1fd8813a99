"""Hot voxels, lines and planes of a pattern, told from the Bragg peak, which may be a single voxel as well.

The peak of a crystal that is hardly oversampled, and that of ideal data, is one voxel too.  Two things tell them apart:
diffraction has a partner of like strength opposite the peak, and about the peak the pattern is most like its own mirror
image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdi_stream.inversion.outliers import Bools, Floats, outliers

Ints = NDArray[np.int64]
Index = tuple[int, ...]

POINT_FLOOR, LINE_FLOOR = 30.0, 10.0
"""Fewest photons of a hot voxel, and of every voxel of a hot line or plane."""

EVEN = 0.5
"""Least value along a hot line or plane over its median: a streak of a crystal falls off far more."""

ON_TOP = 5.0
"""A voxel of a hot line is this many times brighter than its median where diffraction, such as the peak, lies on it."""

PARTNER = 0.2
"""Least strength of what lies opposite the peak, over that of a voxel, to call both diffraction."""

ARM = {2: 4, 3: 3}
"""How far from a voxel the pattern is compared with its mirror image [voxels], by the number of axes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HotVoxels:
    """Which ``voxels`` of a pattern are hot; ``lone_peak`` is its peak if that stands out as a hot voxel would."""

    voxels: Bools
    lone_peak: Index | None = None


def hot_voxels(counts: NDArray[Any], valid: Bools, *, photon: float = 1.0, wraps: bool = False) -> HotVoxels:
    """Find the hot voxels of a pattern, 2D or 3D: single ones, whole lines and whole planes.

    Each is at least ten times brighter than its neighbourhood, see `cdi_stream.inversion.outliers`.  The Bragg peak is
    never among them.

    Parameters
    ----------
    counts, valid
        Intensities and where they may be used, of one shape.
    photon
        What one photon adds to ``counts``: 1 for counts.
    wraps
        Whether the array goes on at its other end.
    """
    values = np.where(valid, counts.astype(np.float32), np.float32(-1))
    lines = _lines(values, photon, wraps)
    rest = np.where(lines, np.float32(-1), values) if lines.any() else values
    points = outliers(rest, POINT_FLOOR * photon, wraps=wraps)
    if not points.any():
        return HotVoxels(voxels=lines)
    peak = centre_of(rest, points, wraps)
    kept = _with_partner(points, rest, peak, wraps)
    for place in {peak, centre_of(values, points, wraps)}:  # lines may be the streaks of a peak that they hide
        kept[place] = points[place]
    return HotVoxels(voxels=lines | (points & ~kept), lone_peak=peak if points[peak] else None)


def _lines(values: Floats, photon: float, wraps: bool) -> Bools:
    """Lines, and in three axes planes, that are bright from end to end."""
    found = np.zeros(values.shape, dtype=bool)
    known = np.where(values >= 0, values, np.inf)
    for n in range(1, values.ndim):
        for axes in combinations(range(values.ndim), n):
            lowest = known.min(axis=axes)
            seen = np.where(np.isfinite(lowest), lowest, -1).astype(np.float32)
            for place in np.argwhere(outliers(seen, LINE_FLOOR * photon, wraps=wraps)):
                line = _slice(place, axes, values.ndim)
                middle = float(np.median(known[line][np.isfinite(known[line])]))
                if lowest[tuple(place)] >= EVEN * middle:
                    found[line] |= known[line] < ON_TOP * middle
    return found


def _slice(place: Ints, axes: Index, n_axes: int) -> tuple[Any, ...]:
    """Index of all voxels along ``axes`` at a place on the other axes."""
    rest = iter(place.tolist())
    return tuple(slice(None) if axis in axes else next(rest) for axis in range(n_axes))


def _with_partner(points: Bools, values: Floats, peak: Index, wraps: bool) -> Bools:
    """Those of the points that have a partner opposite the peak."""
    places = np.argwhere(points)
    opposite = _brightest_about(values, 2 * np.array(peak) - places, places, wraps)
    result = np.zeros_like(points)
    result[tuple(places[opposite >= PARTNER * values[points]].T)] = True
    return result


def _brightest_about(values: Floats, places: Ints, but: Ints, wraps: bool) -> Floats:
    """Largest value within one voxel of each place, the voxels ``but`` left out; -1 outside the array."""
    shape, best = np.array(values.shape), np.full(len(places), -1, dtype=np.float32)
    for step in product((-1, 0, 1), repeat=values.ndim):
        index = places + step
        inside = np.ones(len(places), dtype=bool) if wraps else ((index >= 0) & (index < shape)).all(axis=1)
        inside &= (index % shape != but).any(axis=1)
        best = np.maximum(best, np.where(inside, values[tuple((index % shape).T)], -1))
    return best


def centre_of(values: Floats, suspects: Bools, wraps: bool) -> Index:
    """Voxel of the peak: where the pattern without the suspects is brightest, and there most like its mirror image.

    The suspects are what stands out, and one of them may be the peak.  Values below zero are not known.
    """
    trusted = np.where(suspects | (values < 0), 0, values)
    around = ndimage.uniform_filter(trusted, 3, mode="wrap" if wraps else "constant")
    brightest = np.array(np.unravel_index(int(np.argmax(around)), values.shape))
    reach = ARM[values.ndim]
    patch, known = _magnitudes(values, suspects, brightest, reach + 1, wraps)
    steps = [np.array(step) for step in product((-1, 0, 1), repeat=values.ndim)]
    lopsided = [_lopsidedness(patch, known, step + reach + 1, reach) for step in steps]
    place = brightest + steps[int(np.argmin(lopsided))]
    return tuple((place % values.shape if wraps else place.clip(0, np.array(values.shape) - 1)).tolist())


def _magnitudes(values: Floats, suspects: Bools, centre: Ints, reach: int, wraps: bool) -> tuple[Floats, Bools]:
    """Square roots of the values about a voxel, and which of them are trusted."""
    index = [np.arange(c - reach, c + reach + 1) for c in centre]
    inside = [((i >= 0) & (i < n)) | wraps for i, n in zip(index, values.shape, strict=True)]
    grid = np.ix_(*(i % n for i, n in zip(index, values.shape, strict=True)))
    known = (values[grid] >= 0) & ~suspects[grid] & reduce(np.logical_and.outer, inside)
    return np.sqrt(np.where(known, values[grid], 0)), known


def _lopsidedness(patch: Floats, known: Bools, centre: Ints, reach: int) -> float:
    """How much a pattern differs from its mirror image through a voxel, over its sum: 0 to 1; 2 if nobody can tell."""
    cut = tuple(slice(c - reach, c + reach + 1) for c in centre)
    part, both = patch[cut], known[cut] & np.flip(known[cut])
    total = float(part[both].sum())
    return float(np.abs(part - np.flip(part))[both].sum()) / (2 * total) if total > 0 else 2.0
