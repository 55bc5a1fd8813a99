"""Intensities of a volume with its invalid voxels filled from their neighbours: the input of a network only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import boolean, float32, int64, uint32, void
from numpy.typing import NDArray
from torch import Tensor

from cdi_stream.messages import PreparedVolume
from cdi_stream.numerics.compiled import compile_loop, input_volume
from cdi_stream.numerics.interpolate import neighbourhood_sum
from cdi_stream.numerics.parts import in_parts

Array = NDArray[Any]


def filled_intensity(volume: PreparedVolume, device: str = "cpu") -> Tensor:
    """Return counts over expected scale; an invalid voxel has the mean of its valid neighbours, 0 without any."""
    if device != "cpu":
        return _on_device(volume, device)
    given = volume.counts, volume.valid_pixels, volume.expected_scale
    counts, valid, scale = (np.ascontiguousarray(array) for array in given)
    counts = counts if counts.dtype == np.uint32 else counts.astype(np.float32)  # patterns in files may have fractions
    result = np.empty(counts.shape, np.float32)
    in_parts(lambda begin, end: _fill(counts, valid, scale, result, begin, end), len(counts), least=2)
    return torch.from_numpy(result)


def _on_device(volume: PreparedVolume, device: str) -> Tensor:
    valid = torch.from_numpy(volume.valid_pixels.astype(np.float32)).to(device)
    scale = torch.from_numpy(np.array(volume.expected_scale)).to(device)
    counts = torch.from_numpy(volume.counts.astype(np.float32)).to(device)
    intensity = counts / scale * valid
    return torch.where(valid > 0, intensity, neighbourhood_sum(intensity) / neighbourhood_sum(valid).clamp_min(1))


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
    for i in range(begin, end):
        for j in range(n1):
            for k in range(n2):
                if valid[i, j, k]:
                    out[i, j, k] = np.float32(counts[i, j, k]) / scale[i, j, k]
                    continue
                total, n = np.float32(0), 0
                for a in range(max(i - 1, 0), min(i + 2, n0)):
                    for b in range(max(j - 1, 0), min(j + 2, n1)):
                        for c in range(max(k - 1, 0), min(k + 2, n2)):
                            if valid[a, b, c]:
                                total += np.float32(counts[a, b, c]) / scale[a, b, c]
                                n += 1
                out[i, j, k] = total / np.float32(max(n, 1))
