"""Intensities of a volume with its invalid voxels filled from their neighbours: the input of a network only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import boolean, float32, int64, uint32, void
from numpy.typing import NDArray
from torch import Tensor

from cdi_stream.inversion.frame_inputs import FrameInputs
from cdi_stream.messages import PreparedVolume
from cdi_stream.numerics.compiled import compile_loop, input_volume
from cdi_stream.numerics.interpolate import neighbourhood_sum
from cdi_stream.numerics.parts import in_parts, runs_of
from cdi_stream.numerics.prefilter import to_plane_coefficients

Array = NDArray[Any]


def filled_intensity(volume: PreparedVolume, device: str = "cpu") -> Tensor:
    """Return counts over expected scale; an invalid voxel has the mean of its valid neighbours, 0 without any."""
    return _on_device(volume, device) if device != "cpu" else FilledFrames().of(volume)


class FilledFrames:
    """Keeps the filled intensities of the frames of one window, and computes a frame again when its voxels changed.

    The counts of a valid voxel must not change between two calls.
    """

    def __init__(self) -> None:
        self._inputs = FrameInputs()
        self._filled = self._planes = np.zeros((0, 0, 0), np.float32)
        self._is_solved = np.zeros(0, bool)

    def of(self, volume: PreparedVolume) -> Tensor:
        """Return the filled intensities of a volume, see `filled_intensity`; they may change with the next call."""
        self.update(volume.counts, volume.valid_pixels, volume.expected_scale)
        factor = np.float32(self._inputs.factor)
        return torch.from_numpy(self._filled if factor == 1 else self._filled / factor)

    def update(self, counts: Array, valid: NDArray[np.bool_], scale: NDArray[np.float32]) -> None:
        """Fill the frames whose valid voxels or scale changed, and the frames beside them (`FrameInputs`)."""
        changed = self._inputs.changes(valid, scale)
        if valid.shape != self._filled.shape:
            self._filled, self._planes = np.empty(valid.shape, np.float32), np.empty(valid.shape, np.float32)
            self._is_solved = np.zeros(len(valid), bool)
        changed[1:] |= changed[:-1].copy()
        changed[:-1] |= changed[1:].copy()
        counts = counts if counts.dtype == np.uint32 else counts.astype(np.float32)  # in files there may be fractions
        scale = scale if self._inputs.factor == 1 else scale / np.float32(self._inputs.factor)
        counts, valid, scale = (np.ascontiguousarray(array) for array in (counts, valid, scale))
        for first, last in runs_of(changed):

            def part(begin: int, end: int, first: int = first) -> None:
                """Fill the frames ``first + begin`` to ``first + end`` (excluded)."""
                _fill(counts, valid, scale, self._filled, first + begin, first + end)

            in_parts(part, last - first, least=2)
        self._is_solved &= ~changed

    def planes(self) -> NDArray[np.float32]:
        """Return spline coefficients of the filled intensities along rows and columns, up to a common factor.

        The array changes with the next call.
        """
        for first, last in runs_of(~self._is_solved):
            self._planes[first:last] = self._filled[first:last]
            to_plane_coefficients(self._planes, first, last)
        self._is_solved[:] = True
        return self._planes


def _on_device(volume: PreparedVolume, device: str) -> Tensor:
    valid = torch.from_numpy(volume.valid_pixels.astype(np.float32)).to(device)
    scale = torch.from_numpy(np.array(volume.expected_scale)).to(device)
    counts = torch.from_numpy(volume.counts.astype(np.float32)).to(device)
    intensity = counts / scale * valid
    return torch.where(valid > 0, intensity, neighbourhood_sum(intensity) / neighbourhood_sum(valid).clamp_min(1))


# Several short loops over whole rows: the compiler then takes several voxels at a time.
@compile_loop
def _divide(counts: Array, scale: Array, out: Array) -> None:  # pragma: no cover - compiled
    for k in range(len(counts)):
        out[k] = np.float32(counts[k]) / scale[k]


@compile_loop
def _count(valid: Array) -> int:  # pragma: no cover - compiled
    n = 0
    for k in range(len(valid)):
        n += valid[k]
    return n


@compile_loop
def _add_row(  # pragma: no cover - compiled
    counts: Array, valid: Array, scale: Array, total: Array, n_valid: Array
) -> None:
    """Add the intensities of the valid voxels of a row, and their numbers; the sums begin one voxel before the row."""
    for k in range(len(counts)):
        total[k + 1] += np.float32(counts[k]) / scale[k] if valid[k] else np.float32(0)
        n_valid[k + 1] += np.float32(valid[k])


@compile_loop
def _fill_row(valid: Array, total: Array, n_valid: Array, out: Array) -> None:  # pragma: no cover - compiled
    for k in range(len(out)):
        n = max(n_valid[k] + n_valid[k + 1] + n_valid[k + 2], np.float32(1))
        out[k] = out[k] if valid[k] else (total[k] + total[k + 1] + total[k + 2]) / n


@compile_loop(
    [
        void(input_volume(c), input_volume(boolean), input_volume(float32), float32[:, :, ::1], int64, int64)
        for c in (uint32, float32)
    ]
)
def _fill(  # pragma: no cover - compiled
    counts: Array, valid: Array, scale: Array, out: Array, begin: int, end: int
) -> None:
    n0, n1, n2 = counts.shape
    total, n_valid = np.zeros(n2 + 2, np.float32), np.zeros(n2 + 2, np.float32)
    for i in range(begin, end):
        for j in range(n1):
            _divide(counts[i, j], scale[i, j], out[i, j])
            if _count(valid[i, j]) == n2:
                continue
            total[:] = 0
            n_valid[:] = 0
            for a in range(max(i - 1, 0), min(i + 2, n0)):
                for b in range(max(j - 1, 0), min(j + 2, n1)):
                    _add_row(counts[a, b], valid[a, b], scale[a, b], total, n_valid)
            _fill_row(valid[i, j], total, n_valid, out[i, j])
