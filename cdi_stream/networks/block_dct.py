"""Downsample measured data by block-wise cosine transforms, as Chan et al. (2021) do for their network.

Source: Chan et al., Applied Physics Reviews 8, 021407 (2021), doi:10.1063/5.0031486: transform, crop and inverse
transform of each block.  The paper does not give the size of the blocks; `BLOCK` was chosen here.  The live path
averages over blocks instead, which has a smaller error on smooth peaks.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct, idct
from torch import Tensor

BLOCK = 8
"""Side of a block [voxels]."""


def downsample(volume: Tensor, factor: int = 2, block: int = BLOCK) -> Tensor:
    """Return a volume with ``factor`` times fewer voxels along each axis; a constant volume keeps its value.

    Voxel k of the result lies at voxel ``factor k`` of the volume, so that the origin N//2 stays a voxel.  In the
    paper's transform the origin lies between voxels, which adds a phase ramp to the crystal.

    Parameters
    ----------
    volume
        Volume of any number of axes.
    factor
        Ratio of the numbers of voxels.
    block
        Side of a block [voxels].

    Raises
    ------
    ValueError
        If blocks do not fill the volume, or ``factor`` does not divide them.
    """
    if block % factor or any(n % block for n in volume.shape):
        raise ValueError(
            f"expected axes of whole blocks of {block} voxels, divisible by {factor}, got {tuple(volume.shape)}"
        )
    matrix = torch.from_numpy(_lowest_cosines(block, block // factor)).to(volume)
    for axis in range(volume.ndim):
        blocks = volume.movedim(axis, -1).unflatten(-1, (-1, block))
        volume = (blocks @ matrix.T).flatten(-2).movedim(-1, axis)
    return volume


def _lowest_cosines(n: int, m: int) -> NDArray[np.float64]:
    """Return the matrix ``(m, n)`` from n voxels to their lowest m cosine components at every (n/m)-th voxel."""
    lowest = dct(np.eye(n), axis=0, norm="ortho")
    lowest[m:] = 0
    matrix: NDArray[np.float64] = idct(lowest, axis=0, norm="ortho")[:: n // m]
    return matrix
