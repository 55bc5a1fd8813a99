"""Fewer voxels by block-wise cosine transforms, as Chan et al. (2021) feed measured data to their network.

Appl. Phys. Rev. 8, 021407, doi:10.1063/5.0031486: transform, crop, transform back, in blocks.  The paper does not say
how large they are: `BLOCK` is ours.  The live path bins instead, which errs less on smooth peaks.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct, idct
from torch import Tensor

BLOCK = 8
"""Voxels of a block along each axis."""


def downsampled(volume: Tensor, factor: int = 2, block: int = BLOCK) -> Tensor:
    """A volume with ``factor`` times fewer voxels along each axis; a constant stays what it is.

    Voxel k of the result lies where voxel ``factor k`` was, so that the origin N//2 stays a voxel; by the paper's own
    transform it would lie between voxels, which turns the crystal's phase by a ramp.

    Raises
    ------
    ValueError
        If blocks do not fill the volume, or ``factor`` does not divide them.
    """
    if block % factor or any(n % block for n in volume.shape):
        raise ValueError(
            f"expected axes that blocks of {block} voxels fill, cut by {factor}, got {tuple(volume.shape)}"
        )
    matrix = torch.from_numpy(_kept(block, block // factor)).to(volume)
    for axis in range(volume.ndim):
        blocks = volume.movedim(axis, -1).unflatten(-1, (-1, block))
        volume = (blocks @ matrix.T).flatten(-2).movedim(-1, axis)
    return volume


def _kept(n: int, m: int) -> NDArray[np.float64]:
    """Matrix ``(m, n)`` from n voxels to what their lowest m cosines are at m of them."""
    lowest = dct(np.eye(n), axis=0, norm="ortho")
    lowest[m:] = 0
    matrix: NDArray[np.float64] = idct(lowest, axis=0, norm="ortho")[:: n // m]
    return matrix
