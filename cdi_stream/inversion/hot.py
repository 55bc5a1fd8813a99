"""Find hot voxels, lines and planes of a pattern, and keep the Bragg peak even if it is a single voxel.

The Bragg peak is a single voxel in ideal data, and for a crystal that is hardly oversampled.  Two properties tell the
peak from a hot voxel: diffraction has a partner of similar strength opposite the peak, and the pattern is most similar
to its own mirror image through the peak.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.inversion.brightest import brightest_place
from cdi_stream.inversion.outliers import Bools, Floats, outliers
from cdi_stream.inversion.survey import Survey, survey

Ints = NDArray[np.int64]
Index = tuple[int, ...]

POINT_FLOOR = 30.0
"""Least intensity of a hot voxel [photons]."""

LINE_FLOOR = 10.0
"""Least intensity of every voxel of a hot line or plane [photons]."""

MIN_LINE_EVENNESS = 0.5
"""Least value along a hot line or plane, relative to its median; a streak of a crystal falls off far more."""

MAX_LINE_RATIO = 5.0
"""Largest ratio of a voxel of a hot line to the line's median; brighter voxels hold diffraction, such as the peak."""

MIN_PARTNER = 0.2
"""Least intensity opposite the peak, relative to that of a voxel, at which the voxel is diffraction and not hot."""

MIRROR_REACH = {2: 4, 3: 3}
"""Distance from a voxel up to which a pattern is compared with its mirror image [voxels], by the number of axes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HotVoxels:
    """Hot ``voxels`` of a pattern; ``lone_peak`` is the Bragg peak if it is as isolated as a hot voxel, else None."""

    voxels: Bools
    lone_peak: Index | None = None


def hot_voxels(counts: NDArray[Any], valid: Bools, *, photon: float = 1.0, wraps: bool = False) -> HotVoxels:
    """Return the hot voxels of a pattern, 2D or 3D: single voxels, whole lines and whole planes.

    A hot voxel is at least ten times brighter than its neighbourhood (`cdi_stream.inversion.outliers`).  The Bragg peak
    is never marked.

    Parameters
    ----------
    counts
        Intensities >= 0.
    valid
        True where a voxel may be used, of the same shape.
    photon
        Value of one photon in the unit of ``counts``: 1 for counts.
    wraps
        Whether the array is periodic.
    """
    return hot_in(survey(counts, valid), photon=photon, wraps=wraps)


def hot_in(seen: Survey, *, photon: float = 1.0, wraps: bool = False) -> HotVoxels:
    """Return the hot voxels of a pattern by its survey, see `hot_voxels`."""
    values, lines = seen.values, _lines(seen, photon, wraps)
    has_lines = bool(lines.any())
    without_lines = np.where(lines, np.float32(-1), values) if has_lines else values
    points = None if has_lines else seen.points
    if points is None:
        points = outliers(without_lines, POINT_FLOOR * photon, wraps=wraps)
    if not points.any():
        return HotVoxels(voxels=lines)
    peak = centre_of(without_lines, points, wraps)
    diffraction = _with_partner(points, without_lines, peak, wraps)
    places = {peak, centre_of(values, points, wraps)} if has_lines else {peak}
    for place in places:  # a marked line may be a streak and hide the peak
        diffraction[place] = points[place]
    return HotVoxels(voxels=lines | (points & ~diffraction), lone_peak=peak if points[peak] else None)


def _lines(seen: Survey, photon: float, wraps: bool) -> Bools:
    """Return the voxels of lines, and in 3D of planes, that are bright from end to end."""
    values, n_axes = seen.values, seen.values.ndim
    is_line = np.zeros(values.shape, dtype=bool)
    for n in range(1, n_axes):
        for axes in combinations(range(n_axes), n):
            # along two axes: the least of what is least along one of them, which is a small array
            lowest = seen.lowest[axes[0]] if n == 1 else seen.lowest[axes[0]].min(axis=axes[1] - 1)
            profile = np.where(np.isfinite(lowest), lowest, np.float32(-1))
            for place in np.argwhere(outliers(profile, LINE_FLOOR * photon, wraps=wraps)):
                line = _slice(place, axes, n_axes)
                along = values[line]
                middle = float(np.median(along[along >= 0]))
                if lowest[tuple(place)] >= MIN_LINE_EVENNESS * middle:
                    is_line[line] |= (along >= 0) & (along < MAX_LINE_RATIO * middle)
    return is_line


def _slice(place: Ints, axes: Index, n_axes: int) -> tuple[Any, ...]:
    """Return the index of all voxels along ``axes``, at a given place on the other axes."""
    coordinates = iter(place.tolist())
    return tuple(slice(None) if axis in axes else next(coordinates) for axis in range(n_axes))


def _with_partner(points: Bools, values: Floats, peak: Index, wraps: bool) -> Bools:
    """Return the points that have a partner opposite the peak."""
    places = np.stack(np.unravel_index(np.flatnonzero(points), points.shape), axis=1)
    opposite = _brightest_about(values, 2 * np.array(peak) - places, places, wraps)
    result = np.zeros_like(points)
    result[tuple(places[opposite >= MIN_PARTNER * values[tuple(places.T)]].T)] = True
    return result


def _brightest_about(values: Floats, places: Ints, points: Ints, wraps: bool) -> Floats:
    """Return the largest value within one voxel of each place; voxels ``points`` are left out; -1 outside the array."""
    shape, best = np.array(values.shape), np.full(len(places), -1, dtype=np.float32)
    for step in product((-1, 0, 1), repeat=values.ndim):
        index = places + step
        inside = np.ones(len(places), dtype=bool) if wraps else ((index >= 0) & (index < shape)).all(axis=1)
        inside &= (index % shape != points).any(axis=1)
        best = np.maximum(best, np.where(inside, values[tuple((index % shape).T)], -1))
    return best


def centre_of(values: Floats, suspects: Bools, wraps: bool) -> Index:
    """Return the voxel of the Bragg peak.

    The peak is searched where the pattern without the suspects is brightest; among the neighbours of that voxel it is
    the voxel through which the pattern is most similar to its mirror image.

    Parameters
    ----------
    values
        Intensities; below zero where not known.
    suspects
        Isolated bright voxels, one of which may be the peak.
    wraps
        Whether the array is periodic.
    """
    brightest = np.array(np.unravel_index(brightest_place(values, suspects, wraps=wraps), values.shape))
    reach = MIRROR_REACH[values.ndim]
    patch, is_known = _magnitudes(values, suspects, brightest, reach + 1, wraps)
    steps = [np.array(step) for step in product((-1, 0, 1), repeat=values.ndim)]
    lopsidedness = [_lopsidedness(patch, is_known, step + reach + 1, reach) for step in steps]
    place = brightest + steps[int(np.argmin(lopsidedness))]
    return tuple((place % values.shape if wraps else place.clip(0, np.array(values.shape) - 1)).tolist())


def _magnitudes(values: Floats, suspects: Bools, centre: Ints, reach: int, wraps: bool) -> tuple[Floats, Bools]:
    """Return the square roots of the values about a voxel, and which of these values are known and no suspects."""
    index = [np.arange(c - reach, c + reach + 1) for c in centre]
    inside = [((i >= 0) & (i < n)) | wraps for i, n in zip(index, values.shape, strict=True)]
    grid = np.ix_(*(i % n for i, n in zip(index, values.shape, strict=True)))
    is_known = (values[grid] >= 0) & ~suspects[grid] & reduce(np.logical_and.outer, inside)
    return np.sqrt(np.where(is_known, values[grid], 0)), is_known


def _lopsidedness(patch: Floats, is_known: Bools, centre: Ints, reach: int) -> float:
    """Return the difference between a pattern and its mirror image through a voxel, over its sum.

    The value lies between 0 and 1; it is 2 where no voxel and its mirror image are both known.
    """
    window = tuple(slice(c - reach, c + reach + 1) for c in centre)
    part, both = patch[window], is_known[window] & np.flip(is_known[window])
    total = float(part[both].sum())
    return float(np.abs(part - np.flip(part))[both].sum()) / (2 * total) if total > 0 else 2.0
