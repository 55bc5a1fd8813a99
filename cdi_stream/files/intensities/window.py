"""The working frame: a file's intensities with their peak at the origin voxel, on even lengths that transform fast.

The way in takes voxels of reciprocal space; the way back puts the crystal's transform onto the file's voxels and
transforms there.  So F(object) at a voxel of the file is F(crystal) at the working voxel that was taken from it:
a shift of the peak becomes a phase ramp on the object, a crop a finer grid in real space.  All origins are at N//2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cdi_stream.files.intensities.volume import Intensities
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.inversion.window import fast_length
from cdi_stream.numerics.fourier import to_crystal, to_reciprocal
from cdi_stream.phasing.autocorrelation import weights

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkingVolume:
    """Intensities in the working frame; outside of what was measured counts are 0, invalid, of scale 1.

    ``counts`` and ``expected_scale`` are float32, all of the window's shape.
    """

    counts: Tensor
    valid_pixels: Tensor
    expected_scale: Tensor
    affine: AffineMap | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Which voxels of a file's array make up the working array, 2D or 3D.

    Parameters
    ----------
    file_shape, shape
        Shapes of the file's array and of the working array.
    peak
        Voxel of the file that becomes the working array's origin.
    is_periodic
        Whether the array goes on at its other end, as for its transform; else nothing is known beyond its edges.
    """

    file_shape: Shape
    shape: Shape
    peak: Shape
    is_periodic: bool = True

    def take(self, found: Intensities, device: str = "cpu") -> WorkingVolume:
        """Bring intensities to the working frame."""
        scale = found.expected_scale
        return WorkingVolume(
            counts=self.cut(_tensor(found.counts.astype(np.float32), device)),
            valid_pixels=self.cut(_tensor(found.valid_pixels, device), False),
            expected_scale=torch.ones(self.shape, device=device)
            if scale is None
            else self.cut(_tensor(scale, device), 1.0),
            affine=None if found.affine is None else self.affine(found.affine),
        )

    def cut(self, array: Tensor, outside: float = 0.0) -> Tensor:
        """Working array of a file's array; ``outside`` fills what was not measured."""
        target, source = self._places(array.device)
        result = torch.full(self.shape, outside, dtype=array.dtype, device=array.device)
        result[target] = array[source]
        return result

    def affine(self, file_map: AffineMap) -> AffineMap:
        """Map of the working array of a volume; across a periodic edge it does not hold."""
        start = [p - n // 2 for p, n in zip(self.peak, self.shape, strict=True)]
        shape = (self.shape[0], self.shape[1], self.shape[2])
        return file_map.window(start, shape)

    def undo(self, crystal: Tensor) -> Tensor:
        """Object on the file's grid whose transform is the crystal's, voxel for voxel; 0 where none was taken."""
        n_axes = len(self.shape)
        target, source = self._places(crystal.device)
        field = torch.zeros(self.file_shape, dtype=crystal.dtype, device=crystal.device)
        field[source] = to_reciprocal(crystal, n_axes)[target]
        return to_crystal(field, n_axes)

    def undo_support(self, support: Tensor) -> Tensor:
        """Support on the file's grid: that of the nearest working voxel in real space, where both span one field."""
        for axis, (n_file, n) in enumerate(zip(self.file_shape, self.shape, strict=True)):
            steps = torch.arange(n_file, device=support.device) - n_file // 2
            nearest = torch.round(steps.double() * n / n_file).long() + n // 2
            support = support.index_select(axis, nearest.clamp(0, n - 1))
        return support

    def _places(self, device: torch.device) -> tuple[tuple[slice, ...], tuple[Tensor, ...]]:
        """Working voxels that were measured, and where in the file they lie."""
        targets, sources = [], []
        n_axes = len(self.shape)
        for axis, (n_file, n, peak) in enumerate(zip(self.file_shape, self.shape, self.peak, strict=True)):
            before, after = (n_file // 2, n_file - n_file // 2) if self.is_periodic else (peak, n_file - peak)
            first, last = max(0, n // 2 - before), min(n, n // 2 + after)
            index = torch.arange(first, last, device=device) - n // 2 + peak
            targets.append(slice(first, last))
            sources.append((index % n_file).reshape([-1 if k == axis else 1 for k in range(n_axes)]))
        return tuple(targets), tuple(sources)


def window_of(found: Intensities, max_shape: Shape | None = None) -> Window:
    """Window with the peak at its origin voxel and no voxel lost, unless ``max_shape`` asks for a crop."""
    limits = found.counts.shape if max_shape is None else max_shape
    lengths = [
        padded_length(n) if n <= limit else fast_length(limit)
        for n, limit in zip(found.counts.shape, limits, strict=True)
    ]
    return Window(
        file_shape=found.counts.shape,
        shape=tuple(lengths),
        peak=peak_of(found) if found.peak is None else found.peak,
        is_periodic=found.is_periodic,
    )


def padded_length(n: int) -> int:
    """Smallest even length from ``n`` with no prime factor above 7."""
    length = n + n % 2
    while fast_length(length) != length:
        length += 2
    return length


def peak_of(found: Intensities) -> Shape:
    """Voxel about which the neighbourhood is brightest; a hot voxel counts no more than its neighbours together.

    Counts behind an absorber are worth as much as without.  All sums go around the edges, so that a rolled array has
    its peak rolled.
    """
    counts, valid = _tensor(found.counts.astype(np.float32), "cpu"), _tensor(found.valid_pixels, "cpu")
    scale = torch.ones_like(counts) if found.expected_scale is None else _tensor(found.expected_scale, "cpu")
    clean = torch.where(valid, counts, 0.0) * weights(valid, scale)
    trusted = torch.minimum(clean, _around(clean) - clean)
    index = np.unravel_index(int(_around(trusted).argmax()), found.counts.shape)
    return tuple(int(k) for k in index)


def _around(array: Tensor) -> Tensor:
    """Sum over each voxel and its neighbours, diagonal ones included."""
    for axis in range(array.ndim):
        array = array + torch.roll(array, 1, axis) + torch.roll(array, -1, axis)
    return array


def _tensor(array: np.ndarray, device: str) -> Tensor:
    return torch.from_numpy(array.copy() if not array.flags.writeable else array).to(device)
