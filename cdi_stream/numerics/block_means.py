"""Means over the blocks of a volume."""

from __future__ import annotations

import numpy as np
import torch
from numba import boolean, float32, int64, void
from numpy.typing import NDArray
from torch import Tensor

from cdi_stream.numerics.compiled import compile_loop, input_volume
from cdi_stream.numerics.parts import in_parts

Shape = tuple[int, int, int]
Voxels = NDArray[np.float32] | NDArray[np.bool_]


def block_means(volume: Tensor, factors: Shape) -> Tensor:
    """Return the means over blocks of ``factors`` voxels; voxels at the end that fill no block are left out.

    Parameters
    ----------
    volume
        Volume ``(n0, n1, n2)``, float32 or bool; the mean of a bool volume is the share of its true voxels.
    factors
        Sides of a block [voxels].
    """
    if volume.device.type != "cpu":
        pooled: Tensor = torch.nn.functional.avg_pool3d(volume[None, None].float(), factors)
        return pooled[0, 0]
    values = volume.contiguous().numpy()
    means = np.empty([n // factor for n, factor in zip(values.shape, factors, strict=True)], np.float32)
    in_parts(lambda begin, end: _mean(values, *factors, begin, end, means), len(means), least=2)
    return torch.from_numpy(means)


@compile_loop
def _add(row: Voxels, total: NDArray[np.float32]) -> None:  # pragma: no cover - compiled
    for k in range(len(total)):
        total[k] += row[k]


@compile_loop(
    [void(input_volume(kind), int64, int64, int64, int64, int64, float32[:, :, ::1]) for kind in (float32, boolean)]
)
def _mean(  # pragma: no cover - compiled
    values: Voxels, f0: int, f1: int, f2: int, begin: int, end: int, means: NDArray[np.float32]
) -> None:
    """Write the planes ``begin`` to ``end`` (excluded) of the means."""
    _, n1, n2 = means.shape
    total, share = np.zeros(values.shape[2], np.float32), np.float32(1 / (f0 * f1 * f2))
    for i in range(begin, end):
        for j in range(n1):
            total[:] = 0
            for a in range(f0):
                for b in range(f1):
                    _add(values[i * f0 + a, j * f1 + b], total)
            for k in range(n2):
                of_block = np.float32(0)
                for c in range(f2):
                    of_block += total[k * f2 + c]
                means[i, j, k] = share * of_block
