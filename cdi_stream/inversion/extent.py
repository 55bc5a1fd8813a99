"""Extent of the crystal, from the autocorrelation of the innermost voxels of a window."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cdi_stream.geometry.affine import AffineMap, Shape
from cdi_stream.inversion.frame_inputs import FrameInputs
from cdi_stream.phasing.autocorrelation import island, lengths_vox, tapered, weights
from cdi_stream.phasing.tuning import TUNING

Triple = tuple[float, float, float]
Offsets = NDArray[np.int64]

AUTOCORRELATION_THRESHOLD = 0.02
"""Share of the largest autocorrelation above which a voxel belongs to the crystal's extent."""

_MOST_VOX = 64
"""Voxels along each axis that suffice: they have the field of view of the whole array at a lower resolution."""


class CrystalOffsets:
    """Keeps the offsets of `offsets` for one window, and finds them again when the innermost voxels changed.

    The counts of a valid voxel must not change between two calls.
    """

    def __init__(self) -> None:
        self._inputs = FrameInputs()
        self._offsets = np.zeros((0, 3), np.int64)

    def offsets(self, counts: NDArray[np.uint32], valid: NDArray[np.bool_], scale: NDArray[np.float32]) -> Offsets:
        """Return the offsets ``(n, 3)`` [voxels] at which the autocorrelation of the innermost voxels is large.

        Parameters
        ----------
        counts, valid, scale
            Counts, valid voxels and expected scale of the window.
        """
        inner = innermost(counts.shape)
        inner_valid, inner_scale = valid[inner], scale[inner]
        if self._inputs.changes(inner_valid, inner_scale).any():
            inner_counts = torch.from_numpy(counts[inner].astype(np.float32))
            weight = weights(torch.from_numpy(inner_valid.copy()), torch.from_numpy(inner_scale.copy()))
            self._offsets = island(inner_counts, tapered(inner_counts, weight), AUTOCORRELATION_THRESHOLD)
        return self._offsets


def crystal_extent(offsets: Offsets, affine: AffineMap) -> tuple[Triple, Triple]:
    """Return the crystal's extent along lab (x, y, z) [m], and the oversampling along the array's axes.

    Both follow from the autocorrelation, whose extent is twice the crystal's.

    Parameters
    ----------
    offsets
        Offsets of `CrystalOffsets` for the window.
    affine
        Map of the window's voxels.
    """
    inner = innermost(affine.shape)
    start: Shape = (inner[0].start, inner[1].start, inner[2].start)
    shape: Shape = tuple(along.stop - along.start for along in inner)
    extent = TUNING.tail_correction * np.abs(offsets @ affine.window(start, shape).br.T).max(axis=0)
    oversampling = np.array(shape) / lengths_vox(offsets)
    return tuple(map(float, extent)), tuple(map(float, oversampling))  # type: ignore[return-value]


def innermost(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the slices of the innermost voxels of a window."""
    sizes = [min(_MOST_VOX, n) for n in shape]
    return tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(shape, sizes, strict=True))
