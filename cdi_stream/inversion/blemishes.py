"""Which voxels of a pattern are not to be trusted: one code for live curves, recorded scans and plain files.

Nothing here changes a count, voxels are only marked; arrays are plain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from cdi_stream.inversion.hot import Index, centre_of, hot_voxels
from cdi_stream.inversion.outliers import Bools
from cdi_stream.inversion.window import cut

Counts = NDArray[Any]

BLOCK = 4
"""Side of the blocks [voxels] in which islands are looked for."""

ISLAND_PHOTONS = 200.0
"""Fewest photons of an island."""

MATE = 0.02
"""Least strength of what lies opposite the peak, over that of an island, to call both diffraction of one crystal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blemishes:
    """Voxels of one pattern that are not its crystal's diffraction; arrays of the pattern's shape.

    Parameters
    ----------
    hot
        Single voxels, lines and planes far brighter than their neighbourhood.
    alien
        Islands of counts apart from the peak's, with nothing opposite the peak: other grains.
    lone_peak
        Voxel of the Bragg peak if it stands out as a hot voxel would; it is never among ``hot``.
    """

    hot: Bools
    alien: Bools
    lone_peak: Index | None

    @property
    def voxels(self) -> Bools:
        """All of them."""
        return self.hot | self.alien


def find_blemishes(
    counts: Counts, valid: Bools, *, peak: Index | None = None, photon: float = 1.0, wraps: bool = False
) -> Blemishes:
    """Find hot voxels and alien islands of a pattern, 2D or 3D.

    Parameters
    ----------
    counts, valid
        Intensities >= 0 and where they may be used, of one shape.
    peak
        Voxel of the peak where it is known.
    photon
        What one photon adds to ``counts``: 1 for counts.
    wraps
        Whether the array goes on at its other end, as a pattern given by itself may.
    """
    hot = hot_voxels(counts, valid, photon=photon, wraps=wraps)
    rest = valid & ~hot.voxels
    peak = hot.lone_peak if peak is None else peak
    return Blemishes(
        hot=hot.voxels,
        alien=rest & alien_islands(counts, rest, peak, photon=photon, wraps=wraps),
        lone_peak=hot.lone_peak,
    )


def brightest_of(counts: Counts, valid: Bools, wraps: bool = False) -> Index:
    """Voxel of the peak of a pattern without hot voxels."""
    values = np.where(valid, counts.astype(np.float32), np.float32(-1))
    return centre_of(values, np.zeros_like(valid), wraps)


def alien_islands(
    counts: Counts, valid: Bools, peak: Index | None = None, *, photon: float = 1.0, wraps: bool = False
) -> Bools:
    """Return which voxels belong to islands of counts apart from the peak's and without a mate opposite it.

    Diffraction of one crystal is connected through its streaks, or has a partner at -q of like strength.  Without a
    ``peak`` it is looked for; other parameters as in `find_blemishes`.
    """
    if _bright_blocks(counts, valid, photon)[2] < 2:
        return np.zeros(counts.shape, dtype=bool)
    shape = counts.shape
    peak = brightest_of(counts, valid, wraps) if peak is None else peak
    start = tuple(p - n // 2 for p, n in zip(peak, shape, strict=True))
    if not any(start):
        return _islands(counts, valid, photon)
    axes = tuple(range(len(shape)))
    if wraps:
        back = tuple(-s for s in start)
        return np.roll(_islands(np.roll(counts, back, axes), np.roll(valid, back, axes), photon), start, axes)
    found = _islands(cut(counts, start, shape)[0], cut(valid, start, shape)[0], photon)
    return cut(found, tuple(-s for s in start), shape)[0]


def _bright_blocks(counts: Counts, valid: Bools, photon: float) -> tuple[NDArray[np.float32], NDArray[np.int32], int]:
    """Photons of every block, the islands of bright blocks by number, and how many islands there are."""
    blocks = _block_means(np.where(valid, counts, 0), BLOCK) * np.float32(BLOCK**counts.ndim / photon)
    bright = blocks > max(ISLAND_PHOTONS / 4, 8 * float(np.median(blocks)))
    labels, n_labels = ndimage.label(bright, structure=np.ones((3,) * counts.ndim))
    return blocks, labels, n_labels


def _islands(counts: Counts, valid: Bools, photon: float) -> Bools:
    """Alien islands of a pattern whose peak is at the origin voxel.

    None where they are larger than the island of the brightest: that may be a hot spot, and one of them the peak's.
    """
    blocks, labels, n_labels = _bright_blocks(counts, valid, photon)
    if n_labels < 2:
        return np.zeros(counts.shape, dtype=bool)
    sums = ndimage.sum_labels(blocks, labels, np.arange(n_labels + 1))
    mate = ndimage.sum_labels(np.flip(blocks), labels, np.arange(n_labels + 1))
    mate_seen = ndimage.mean(np.flip(_block_means(valid, BLOCK)), labels, np.arange(n_labels + 1))
    alien = (sums > ISLAND_PHOTONS) & (mate < MATE * sums) & (mate_seen > 0.5)
    main = int(np.argmax(sums[1:])) + 1
    alien[[0, main]] = False
    sizes = np.bincount(labels.ravel(), minlength=n_labels + 1)
    if sizes[alien].sum() > sizes[main]:
        return np.zeros(counts.shape, dtype=bool)
    flagged = ndimage.binary_dilation(alien[labels]) if alien.any() else alien[labels]
    for axis in range(counts.ndim):
        flagged = flagged.repeat(BLOCK, axis)
    result: Bools = flagged[tuple(slice(n) for n in counts.shape)]
    return result


def _block_means(volume: NDArray[Any], block: int) -> NDArray[np.float32]:
    """Mean over squares or cubes of ``block`` voxels; the last along an axis may be smaller."""
    values = torch.from_numpy(volume.astype(np.float32))[None, None]
    pool = {2: torch.nn.functional.avg_pool2d, 3: torch.nn.functional.avg_pool3d}[volume.ndim]
    means: NDArray[np.float32] = pool(values, block, ceil_mode=True)[0, 0].numpy()
    return means


def no_count_from(largest: int) -> int:
    """Least value that is no count of a detector whose data type ends at ``largest``.

    Detectors of 16 bits and more write the largest value where there is no pixel, and the one below it for a bad or
    saturated pixel.
    """
    return largest if largest < 2**15 - 1 else largest - 1


def is_saturated(counts: Counts, largest: int, saturation_counts: float | None = None) -> Bools:
    """Voxels at the end of the data type, or at the detector's saturation value."""
    limit = no_count_from(largest)
    return counts >= (limit if saturation_counts is None else min(limit, saturation_counts))


def good_pixels(top: Counts, bottom: Counts, largest: int) -> Bools:
    """Pixels ``(rows, cols)`` that are no gap and not hot, from their largest and smallest count over the frames.

    A pixel at the end of the data type in every frame is a gap; one that never falls below a fifth of its own maximum,
    nor below ten counts, is hot: a Bragg peak always passes.
    """
    return (bottom < no_count_from(largest)) & ~((bottom >= 10) & (bottom > 0.2 * top))
