"""Find the voxels of a pattern that must not be used, in live curves, recorded scans and plain files alike.

The functions mark voxels and never change a count.  They take plain NumPy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cdi_stream.inversion.hot import Index, centre_of, hot_in
from cdi_stream.inversion.outliers import Bools
from cdi_stream.inversion.survey import BLOCK, Survey, survey, without
from cdi_stream.inversion.window import cut

Counts = NDArray[Any]

ISLAND_PHOTONS = 200.0
"""Least intensity of an alien island, summed over the island [photons]."""

FEW_HOT = 200
"""Number of hot voxels from which on a new survey takes less time than the blocks of these voxels one by one."""

MIN_ISLAND_PARTNER = 0.02
"""Least intensity opposite the peak, as a share of an island's, at which the island belongs to the peak's crystal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blemishes:
    """Voxels of one pattern that are not diffraction of its crystal; arrays of the pattern's shape.

    Parameters
    ----------
    hot
        Single voxels, lines and planes far brighter than their neighbourhood.
    alien
        Alien peaks: islands of counts of other grains, apart from the Bragg peak and without a partner opposite it.
    lone_peak
        Voxel of the Bragg peak if it is as isolated as a hot voxel; never among ``hot``.  None if it is not isolated.
    """

    hot: Bools
    alien: Bools
    lone_peak: Index | None

    @property
    def voxels(self) -> Bools:
        """Hot and alien voxels together."""
        return self.hot | self.alien


def find_blemishes(
    counts: Counts,
    valid: Bools,
    *,
    peak: Index | None = None,
    photon: float = 1.0,
    wraps: bool = False,
    seen: Survey | None = None,
) -> Blemishes:
    """Return the hot voxels and alien islands of a pattern, 2D or 3D.

    Parameters
    ----------
    counts
        Intensities >= 0.
    valid
        True where a voxel may be used, of the same shape.
    peak
        Voxel of the Bragg peak; None if it is not known.
    photon
        Value of one photon in the unit of ``counts``: 1 for counts.
    wraps
        Whether the array is periodic, as a cropped pattern in Fourier order is.
    seen
        Survey of the pattern; made here if it is not given.
    """
    seen = seen or survey(counts, valid)
    hot = hot_in(seen, photon=photon, wraps=wraps)
    usable = valid & ~hot.voxels
    n_hot = int(np.count_nonzero(hot.voxels))
    if n_hot:
        seen = without(seen, hot.voxels) if n_hot < FEW_HOT else survey(counts, usable)
    peak = hot.lone_peak if peak is None else peak
    return Blemishes(
        hot=hot.voxels,
        alien=usable & _alien_islands(seen, counts, usable, peak, photon=photon, wraps=wraps),
        lone_peak=hot.lone_peak,
    )


def brightest_of(counts: Counts, valid: Bools, wraps: bool = False) -> Index:
    """Return the voxel of the Bragg peak of a pattern without hot voxels."""
    values = np.where(valid, counts.astype(np.float32), np.float32(-1))
    return centre_of(values, np.zeros_like(valid), wraps)


def alien_islands(
    counts: Counts, valid: Bools, peak: Index | None = None, *, photon: float = 1.0, wraps: bool = False
) -> Bools:
    """Return the voxels of alien islands: counts apart from the Bragg peak, without a partner opposite it.

    The diffraction of one crystal is connected through its streaks, or has a partner of similar strength at -q.

    Parameters
    ----------
    counts, valid, photon, wraps
        As in `find_blemishes`.
    peak
        Voxel of the Bragg peak; None: the brightest voxel is taken.
    """
    return _alien_islands(survey(counts, valid), counts, valid, peak, photon=photon, wraps=wraps)


def _alien_islands(
    seen: Survey, counts: Counts, valid: Bools, peak: Index | None, *, photon: float, wraps: bool
) -> Bools:
    """Return `alien_islands` of a pattern whose survey is known."""
    blocks, shape = _bright_blocks(seen, photon), counts.shape
    if blocks.n_islands < 2:
        return np.zeros(shape, dtype=bool)
    peak = brightest_of(counts, valid, wraps) if peak is None else peak
    start = tuple(p - n // 2 for p, n in zip(peak, shape, strict=True))
    if not any(start):
        return _islands(blocks, shape)
    axes = tuple(range(len(shape)))
    if wraps:
        back = tuple(-s for s in start)
        counts, valid = np.roll(counts, back, axes), np.roll(valid, back, axes)
        return np.roll(_islands(_bright_blocks(survey(counts, valid), photon), shape), start, axes)
    counts, valid = cut(counts, start, shape)[0], cut(valid, start, shape)[0]
    return cut(_islands(_bright_blocks(survey(counts, valid), photon), shape), tuple(-s for s in start), shape)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """Blocks of a pattern.

    ``photons`` and ``known_share`` of every block, the number ``island`` of every bright block, 0 elsewhere, and the
    count of islands.
    """

    photons: NDArray[np.float32]
    known_share: NDArray[np.float32]
    island: NDArray[np.int32]
    n_islands: int


def _bright_blocks(seen: Survey, photon: float) -> _Blocks:
    """Return the blocks of a pattern; neighbouring bright blocks make one island."""
    n_axes = seen.values.ndim
    photons = seen.block_means * np.float32(BLOCK**n_axes / photon)
    bright = photons > max(ISLAND_PHOTONS / 4, 8 * float(np.median(photons)))
    labels, n_labels = ndimage.label(bright, structure=np.ones((3,) * n_axes))
    return _Blocks(photons=photons, known_share=seen.known_share, island=labels, n_islands=n_labels)


def _islands(blocks: _Blocks, shape: tuple[int, ...]) -> Bools:
    """Return the voxels of alien islands of a pattern of this shape whose peak is at the origin voxel.

    No voxel is marked if the alien islands together are larger than the brightest island: the brightest island may
    then be a hot spot, and one of the alien islands the Bragg peak.
    """
    labels, numbers = blocks.island, np.arange(blocks.n_islands + 1)
    if blocks.n_islands < 2:
        return np.zeros(shape, dtype=bool)
    sums = ndimage.sum_labels(blocks.photons, labels, numbers)
    partner = ndimage.sum_labels(np.flip(blocks.photons), labels, numbers)
    partner_share = ndimage.mean(np.flip(blocks.known_share), labels, numbers)
    alien = (sums > ISLAND_PHOTONS) & (partner < MIN_ISLAND_PARTNER * sums) & (partner_share > 0.5)
    main = int(np.argmax(sums[1:])) + 1
    alien[[0, main]] = False
    sizes = np.bincount(labels.ravel(), minlength=len(numbers))
    if not alien.any() or sizes[alien].sum() > sizes[main]:
        return np.zeros(shape, dtype=bool)
    is_alien = ndimage.binary_dilation(alien[labels])
    for axis in range(len(shape)):
        is_alien = is_alien.repeat(BLOCK, axis)
    result: Bools = is_alien[tuple(slice(n) for n in shape)]
    return result


def no_count_from(largest: int) -> int:
    """Return the least value that is not a count, for a detector whose data type ends at ``largest``.

    Detectors of 16 bits and more write ``largest`` where there is no pixel, and ``largest - 1`` for a bad or saturated
    pixel.
    """
    return largest if largest < 2**15 - 1 else largest - 1


def saturation_limit(largest: int, saturation_counts: float | None = None) -> float:
    """Return the value from which a voxel is saturated [counts].

    Parameters
    ----------
    largest
        Largest value of the detector's data type.
    saturation_counts
        Saturation value of the detector [counts]; None if it is not known.
    """
    limit = no_count_from(largest)
    return limit if saturation_counts is None else min(limit, saturation_counts)


def is_saturated(counts: Counts, largest: int, saturation_counts: float | None = None) -> Bools:
    """Return the voxels at the end of the data type, or at the detector's saturation value; see `saturation_limit`."""
    return counts >= saturation_limit(largest, saturation_counts)


def good_pixels(top: Counts, bottom: Counts, largest: int) -> Bools:
    """Return the pixels ``(rows, cols)`` that are neither gaps nor hot.

    A gap is at the end of the data type in every frame.  A hot pixel never falls below ten counts, nor below a fifth
    of its own maximum: a Bragg peak would leave the pixel during the scan.

    Parameters
    ----------
    top, bottom
        Largest and smallest count of every pixel over the frames.
    largest
        Largest value of the detector's data type.
    """
    return (bottom < no_count_from(largest)) & ~((bottom >= 10) & (bottom > 0.2 * top))
