"""The two-decoder 3D network of Wu et al. (2021), npj Computational Materials 7, 175.

doi:10.1038/s41524-021-00644-z, figure 1: one encoder of convolution blocks and max-pooling, and
two decoders that return amplitude and phase of the crystal on half of the input's array.  A block
is a 3x3x3 convolution followed by the separable triple 3x1x1, 1x3x1, 1x1x3.

Where this differs from the paper, and why:

* the first step folds 2x2x2 voxels into channels (space to depth): eight times fewer voxels at
  full width, which is what makes a forward pass fit the live path on two CPU cores;
* batch normalisation comes before the activation, so that it folds into the convolution;
* the paper scales each phase to [0, 1] and ends with a ReLU, which loses the strain scale; here
  the amplitude ends in a sigmoid and the phase, in radians, in no activation at all;
* the magnitudes are compressed by a logarithm, so that weak fringes count.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn

LOG_GAIN: Final[float] = 300.0
"""Magnitudes enter as log(1 + gain |F|) / log(1 + gain), |F| scaled to a maximum of 1."""


def _convolution(n_in: int, n_out: int, kernel: tuple[int, int, int]) -> nn.Conv3d:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(n_in, n_out, kernel, padding=padding, bias=False)


def block(n_in: int, n_out: int) -> nn.Sequential:
    """Build one block: 3x3x3 convolution, then the separable triple, each normalised and rectified."""
    return nn.Sequential(
        _convolution(n_in, n_out, (3, 3, 3)),
        nn.BatchNorm3d(n_out),
        nn.LeakyReLU(0.1),
        _convolution(n_out, n_out, (3, 1, 1)),
        _convolution(n_out, n_out, (1, 3, 1)),
        _convolution(n_out, n_out, (1, 1, 3)),
        nn.BatchNorm3d(n_out),
        nn.LeakyReLU(0.1),
    )


def _decoder(widths: tuple[int, ...], bias: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Upsample(scale_factor=2.0, mode="nearest"), block(n_in, n_out)]
    last = nn.Conv3d(widths[-1], 1, 3, padding=1)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, last)


class Wu2021(nn.Module):
    """Magnitudes ``(batch, n, n, n)`` in [0, 1] to amplitude and phase ``(batch, n/2, n/2, n/2)``.

    Parameters
    ----------
    encoder
        Channels after each level; between two levels lies a max-pooling by two.
    decoder
        Channels of each decoder's levels, each after an upsampling by two.
    """

    def __init__(self, encoder: tuple[int, ...] = (24, 48, 96, 160), decoder: tuple[int, ...] = (96, 24, 12)) -> None:
        super().__init__()
        self.log_gain = LOG_GAIN
        levels: list[nn.Module] = [block(8, encoder[0])]
        for n_in, n_out in pairwise(encoder):
            levels += [nn.MaxPool3d(2), block(n_in, n_out)]
        self.encoder = nn.Sequential(*levels)
        self.amplitude = _decoder((encoder[-1], *decoder), bias=-2.0)  # most of the array is empty
        self.phase = _decoder((encoder[-1], *decoder), bias=0.0)

    def forward(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Return amplitude in [0, 1] and phase in radians; the origin is voxel n//2 of each array."""
        compressed = torch.log1p(self.log_gain * magnitude) / math.log1p(self.log_gain)
        code = self.encoder(_space_to_depth(compressed))
        return torch.sigmoid(self.amplitude(code)).squeeze(1), self.phase(code).squeeze(1)


def _space_to_depth(volume: Tensor) -> Tensor:
    batch, n = volume.shape[0], volume.shape[1] // 2
    cells = volume.reshape(batch, n, 2, n, 2, n, 2)
    return cells.permute(0, 2, 4, 6, 1, 3, 5).reshape(batch, 8, n, n, n)
