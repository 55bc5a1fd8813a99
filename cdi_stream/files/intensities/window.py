"""The working array: intensities of a file with the Bragg peak at the origin voxel, of even lengths with fast FFTs.

`Window.take` selects voxels of reciprocal space.  `Window.undo` puts the crystal's transform onto the file's voxels and
transforms back.  F(object) at a voxel of the file is then F(crystal) at the corresponding working voxel: a shift of the
peak becomes a phase ramp on the object, and a crop becomes a finer grid in real space.  All origins are at N//2.
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
    """Intensities in the working array; voxels that were not measured have 0 counts, are invalid, and have scale 1.

    ``counts`` and ``expected_scale`` are float32; both and ``valid_pixels`` have the window's shape.  ``frame_shifts``
    are the distances of the frames from even steps ``(n_frames,)`` [steps]; None for even steps.
    """

    counts: Tensor
    valid_pixels: Tensor
    expected_scale: Tensor
    affine: AffineMap | None
    frame_shifts: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Selection of the voxels of a file's array that make the working array, 2D or 3D.

    Parameters
    ----------
    file_shape, shape
        Shapes of the file's array and of the working array.
    peak
        Voxel of the file that becomes the working array's origin.
    is_periodic
        Whether the file's array is periodic, as for its transform; else nothing is known beyond its edges.
    """

    file_shape: Shape
    shape: Shape
    peak: Shape
    is_periodic: bool = True

    def take(self, intensities: Intensities, device: str = "cpu") -> WorkingVolume:
        """Return intensities in the working array."""
        scale, shifts = intensities.expected_scale, intensities.frame_shifts
        return WorkingVolume(
            counts=self.cut(_tensor(intensities.counts.astype(np.float32), device)),
            valid_pixels=self.cut(_tensor(intensities.valid_pixels, device), False),
            expected_scale=torch.ones(self.shape, device=device)
            if scale is None
            else self.cut(_tensor(scale, device), 1.0),
            affine=None if intensities.affine is None else self.affine(intensities.affine),
            frame_shifts=None if shifts is None else self._cut_frames(_tensor(shifts, device)),
        )

    def cut(self, array: Tensor, outside: float = 0.0) -> Tensor:
        """Return the working array of a file's array; voxels that were not measured get the value ``outside``."""
        target, source = self._places(array.device)
        result = torch.full(self.shape, outside, dtype=array.dtype, device=array.device)
        result[target] = array[source]
        return result

    def _cut_frames(self, values: Tensor) -> Tensor:
        """Return the values of the frames of the working array; 0 where no frame was measured."""
        target, source = self._places(values.device)
        result = values.new_zeros(self.shape[0])
        result[target[0]] = values[source[0].flatten()]
        return result

    def affine(self, file_map: AffineMap) -> AffineMap:
        """Return the affine map of the working array of a volume; it does not hold across a periodic edge."""
        start = [p - n // 2 for p, n in zip(self.peak, self.shape, strict=True)]
        shape = (self.shape[0], self.shape[1], self.shape[2])
        return file_map.window(start, shape)

    def undo(self, crystal: Tensor) -> Tensor:
        """Return the object on the file's grid whose transform equals the crystal's at the selected voxels, else 0."""
        n_axes = len(self.shape)
        target, source = self._places(crystal.device)
        field = torch.zeros(self.file_shape, dtype=crystal.dtype, device=crystal.device)
        field[source] = to_reciprocal(crystal, n_axes)[target]
        return to_crystal(field, n_axes)

    def undo_support(self, support: Tensor) -> Tensor:
        """Return the support on the file's grid, from the nearest working voxel; both grids span one field of view."""
        for axis, (n_file, n) in enumerate(zip(self.file_shape, self.shape, strict=True)):
            steps = torch.arange(n_file, device=support.device) - n_file // 2
            nearest = torch.round(steps.double() * n / n_file).long() + n // 2
            support = support.index_select(axis, nearest.clamp(0, n - 1))
        return support

    def _places(self, device: torch.device) -> tuple[tuple[slice, ...], tuple[Tensor, ...]]:
        """Return the measured voxels of the working array, and their places in the file's array."""
        targets, sources = [], []
        n_axes = len(self.shape)
        for axis, (n_file, n, peak) in enumerate(zip(self.file_shape, self.shape, self.peak, strict=True)):
            before, after = (n_file // 2, n_file - n_file // 2) if self.is_periodic else (peak, n_file - peak)
            first, last = max(0, n // 2 - before), min(n, n // 2 + after)
            index = torch.arange(first, last, device=device) - n // 2 + peak
            targets.append(slice(first, last))
            sources.append((index % n_file).reshape([-1 if k == axis else 1 for k in range(n_axes)]))
        return tuple(targets), tuple(sources)


def window_of(intensities: Intensities, max_shape: Shape | None = None) -> Window:
    """Return a window with the Bragg peak at its origin voxel; it holds all voxels, or at most ``max_shape``."""
    limits = intensities.counts.shape if max_shape is None else max_shape
    lengths = [
        padded_length(n) if n <= limit else fast_length(limit)
        for n, limit in zip(intensities.counts.shape, limits, strict=True)
    ]
    return Window(
        file_shape=intensities.counts.shape,
        shape=tuple(lengths),
        peak=peak_of(intensities) if intensities.peak is None else intensities.peak,
        is_periodic=intensities.is_periodic,
    )


def padded_length(n: int) -> int:
    """Return the smallest even length >= ``n`` with no prime factor above 7, at which FFTs are fast."""
    length = n + n % 2
    while fast_length(length) != length:
        length += 2
    return length


def peak_of(intensities: Intensities) -> Shape:
    """Return the voxel with the brightest neighbourhood.

    A hot voxel counts no more than its neighbours together.  Counts are divided by the expected scale.  All sums are
    periodic, so that a rolled array has a rolled peak.
    """
    counts, valid = _tensor(intensities.counts.astype(np.float32), "cpu"), _tensor(intensities.valid_pixels, "cpu")
    scale = (
        torch.ones_like(counts) if intensities.expected_scale is None else _tensor(intensities.expected_scale, "cpu")
    )
    clean = torch.where(valid, counts, 0.0) * weights(valid, scale)
    robust_counts = torch.minimum(clean, _around(clean) - clean)
    index = np.unravel_index(int(_around(robust_counts).argmax()), intensities.counts.shape)
    return tuple(int(k) for k in index)


def _around(array: Tensor) -> Tensor:
    """Return the sum over each voxel and its neighbours, diagonal neighbours included."""
    for axis in range(array.ndim):
        array = array + torch.roll(array, 1, axis) + torch.roll(array, -1, axis)
    return array


def _tensor(array: np.ndarray, device: str) -> Tensor:
    return torch.from_numpy(array.copy() if not array.flags.writeable else array).to(device)
