"""One pass over a pattern: what the search for hot voxels and for other crystals' peaks needs of every voxel.

The voxels that may be used are the *known* voxels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import boolean, float32, int64, uint32, void
from numpy.typing import NDArray

from cdi_stream.numerics.compiled import compile_loop, input_volume

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Counts = NDArray[Any]

BLOCK = 4
"""Side of the square or cubic blocks of a `Survey` [voxels]; the last block of an axis may be smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A pattern of two or three axes at a glance.

    Parameters
    ----------
    values
        Intensities, -1 where a voxel is not known; of the pattern's shape.
    lowest
        For each axis, the least known value along that axis, infinite where none is known.
    block_means
        Mean intensity of the voxels of each block, of which one that is not known counts as 0.
    known_share
        Share of the voxels of each block that are known.
    total
        Sum of the known intensities.
    points
        Bright outliers among the known voxels (`cdi_stream.inversion.hot`); None if they were not searched yet.
    """

    values: Floats
    lowest: tuple[Floats, ...]
    block_means: Floats
    known_share: Floats
    total: float
    points: Bools | None = None


class Surveyor:
    """Takes the planes of a pattern in any order; `survey` gives what all planes so far show.

    ``shape`` is the shape of the pattern, of two or three axes; a pattern of two axes is one plane.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        whole = (1,) * (3 - len(shape)) + shape
        blocks = tuple(-(-n // BLOCK) for n in whole)
        self._shape, self._whole = shape, whole
        self._values = np.full(whole, -1, np.float32)
        self._lowest = tuple(np.full(np.delete(whole, axis), np.inf, np.float32) for axis in range(3))
        self._sums, self._n_known = np.zeros(blocks, np.float32), np.zeros(blocks, np.float32)

    def add(self, counts: Counts, valid: Bools, begin: int = 0) -> None:
        """Take planes, of intensities >= 0, with the voxels that may be used; the first plane has the index ``begin``.

        A plane is taken once only.
        """
        if counts.dtype != np.uint32:
            counts = counts.astype(np.float32)  # patterns in files may have fractions
        whole = (*self._whole[: 3 - counts.ndim], *counts.shape)
        counts, valid = (np.ascontiguousarray(array).reshape(whole) for array in (counts, valid))
        low0, low1, low2 = self._lowest
        _look(counts, valid, begin, self._values, low0, low1, low2, self._sums, self._n_known)

    def survey(self) -> Survey:
        """Return the survey of the pattern; planes that are not taken yet are not known.

        Its arrays share the memory of this object: they change when a plane is added.
        """
        sizes = [_sizes(n) for n in self._whole]
        size = np.float32(1) * sizes[0][:, None, None] * sizes[1][:, None] * sizes[2]
        first = 3 - len(self._shape)
        lowest = enumerate(self._lowest[first:])
        return Survey(
            values=self._values.reshape(self._shape),
            lowest=tuple(low.reshape(np.delete(self._shape, axis)) for axis, low in lowest),
            block_means=(self._sums / size).reshape(size.shape[first:]),
            known_share=(self._n_known / size).reshape(size.shape[first:]),
            total=float(self._sums.sum(dtype=np.float64)),
        )


def survey(counts: Counts, valid: Bools) -> Survey:
    """Return the survey of intensities >= 0, 2D or 3D, with the voxels that may be used."""
    surveyor = Surveyor(counts.shape)
    surveyor.add(counts, valid)
    return surveyor.survey()


def without(seen: Survey, voxels: Bools) -> Survey:
    """Return the survey of a pattern without some of its known voxels; only its blocks and its sum are changed.

    ``values`` and ``lowest`` are those of all voxels, and the outliers are not known.
    """
    places = np.stack(np.unravel_index(np.flatnonzero(voxels), voxels.shape), axis=1)
    means, known_share = seen.block_means.copy(), seen.known_share.copy()
    for block in np.unique(places // BLOCK, axis=0):
        here = tuple(slice(BLOCK * k, BLOCK * (k + 1)) for k in block)
        values, is_known = seen.values[here], (seen.values[here] >= 0) & ~voxels[here]
        means[tuple(block)] = np.where(is_known, values, 0).mean()
        known_share[tuple(block)] = is_known.mean()
    total = seen.total - float(np.maximum(seen.values[tuple(places.T)], 0).sum(dtype=np.float64))
    return replace(seen, block_means=means, known_share=known_share, total=total, points=None)


def _sizes(n: int) -> NDArray[np.intp]:
    """Return the lengths of the blocks of an axis of ``n`` voxels [voxels]."""
    return np.diff(np.append(np.arange(0, n, BLOCK), n))


@compile_loop
def _lower(row: Floats, lowest: Floats) -> None:  # pragma: no cover - compiled
    for k in range(len(row)):
        value = row[k] if row[k] >= 0 else np.float32(np.inf)
        lowest[k] = value if value < lowest[k] else lowest[k]


@compile_loop
def _least(row: Floats) -> np.float32:  # pragma: no cover - compiled
    least = np.float32(np.inf)
    for k in range(len(row)):
        value = row[k] if row[k] >= 0 else np.float32(np.inf)
        least = value if value < least else least
    return least


@compile_loop
def _add_blocks(row: Floats, sums: Floats, n_known: Floats) -> None:  # pragma: no cover - compiled
    for k in range(len(row)):
        is_known = row[k] >= 0
        sums[k // BLOCK] += row[k] if is_known else np.float32(0)
        n_known[k // BLOCK] += np.float32(is_known)


@compile_loop(
    [
        void(
            input_volume(kind),
            input_volume(boolean),
            int64,
            float32[:, :, ::1],
            float32[:, ::1],
            float32[:, ::1],
            float32[:, ::1],
            float32[:, :, ::1],
            float32[:, :, ::1],
        )
        for kind in (uint32, float32)
    ]
)
def _look(  # pragma: no cover - compiled
    counts: Counts,
    valid: Bools,
    begin: int,
    values: Floats,
    low0: Floats,
    low1: Floats,
    low2: Floats,
    sums: Floats,
    n_known: Floats,
) -> None:
    n0, n1, n2 = counts.shape
    for plane in range(n0):
        i = begin + plane
        for j in range(n1):
            # Several short loops of few arrays each: the compiler then takes several voxels at a time.
            row, known = values[i, j], valid[plane, j]
            for k in range(n2):
                row[k] = np.float32(counts[plane, j, k]) if known[k] else np.float32(-1)
            _lower(row, low0[j])
            _lower(row, low1[i])
            low2[i, j] = _least(row)
            _add_blocks(row, sums[i // BLOCK, j // BLOCK], n_known[i // BLOCK, j // BLOCK])
