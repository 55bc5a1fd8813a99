"""Layers shared by the networks, in two and in three axes."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn

LOG_GAIN: Final[float] = 300.0
"""Gain of the compression log(1 + gain |F|) / log(1 + gain) of input magnitudes, |F| scaled to a maximum of 1."""

CONVOLUTION: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
POOL: dict[int, type[nn.MaxPool2d | nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_NORMALISATION: dict[int, type[nn.BatchNorm2d | nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def compress_magnitude(magnitude: Tensor, gain: float = LOG_GAIN) -> Tensor:
    """Return magnitudes in [0, 1] compressed by a logarithm to [0, 1], so that weak fringes have weight."""
    return torch.log1p(gain * magnitude) / math.log1p(gain)


def convolution(n_in: int, n_out: int, kernel: tuple[int, ...], dilation: int = 1) -> nn.Module:
    """Return a convolution without bias that keeps the shape of the array; the kernel has its number of axes."""
    kind: type[Any] = CONVOLUTION[len(kernel)]
    padding = tuple(dilation * (k // 2) for k in kernel)
    layer: nn.Module = kind(n_in, n_out, kernel, padding=padding, bias=False, dilation=dilation)
    return layer


def kaiming_initialised(layer: nn.Module, slope: float) -> nn.Module:
    """Return a layer with Kaiming-initialised weights, which keep the variance behind a rectifier of this slope.

    Source: He et al. (2015), https://arxiv.org/abs/1502.01852.
    """
    nn.init.kaiming_normal_(layer.weight, a=slope)  # type: ignore[arg-type]
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def block(n_in: int, n_out: int, n_axes: int = 3) -> nn.Sequential:
    """Return a convolution of 3 voxels along all axes, then one along each single axis, normalised and rectified."""
    separable = [tuple(3 if k == axis else 1 for k in range(n_axes)) for axis in range(n_axes)]
    normalise = _NORMALISATION[n_axes]
    return nn.Sequential(
        convolution(n_in, n_out, (3,) * n_axes),
        normalise(n_out),
        nn.LeakyReLU(0.1),
        *(convolution(n_out, n_out, kernel) for kernel in separable),
        normalise(n_out),
        nn.LeakyReLU(0.1),
    )


def encoder(widths: tuple[int, ...], n_axes: int = 3) -> nn.Sequential:
    """Return blocks with max-pooling by two in between; ``widths`` are the channels of the input and of the blocks."""
    levels: list[nn.Module] = [block(widths[0], widths[1], n_axes)]
    for n_in, n_out in pairwise(widths[1:]):
        levels += [POOL[n_axes](2), block(n_in, n_out, n_axes)]
    return nn.Sequential(*levels)


def decoder(widths: tuple[int, ...], bias: float, n_axes: int = 3) -> nn.Sequential:
    """Return blocks of ``widths`` channels, each behind an upsampling by two, and a convolution to one channel.

    Parameters
    ----------
    widths
        Channels of the input and of the blocks.
    bias
        Initial bias of the last convolution.
    n_axes
        Two or three.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Upsample(scale_factor=2.0, mode="nearest"), block(n_in, n_out, n_axes)]
    last = CONVOLUTION[n_axes](widths[-1], 1, 3, padding=1)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, last)


class Fold(nn.Module):
    """Space to depth: 2 x 2 x 2 voxels into channels, ``(batch, c, n, n, n)`` to ``(batch, 8c, n/2, n/2, n/2)``."""

    def forward(self, volume: Tensor) -> Tensor:
        """Return the folded volume."""
        batch, channels, n = volume.shape[0], volume.shape[1], volume.shape[2] // 2
        cells = volume.reshape(batch, channels, n, 2, n, 2, n, 2)
        return cells.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, 8 * channels, n, n, n)


class Unfold(nn.Module):
    """Depth to space, the inverse of `Fold`."""

    def forward(self, folded: Tensor) -> Tensor:
        """Return the unfolded volume."""
        batch, channels, n = folded.shape[0], folded.shape[1] // 8, folded.shape[2]
        cells = folded.reshape(batch, channels, 2, 2, 2, n, n, n).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return cells.reshape(batch, channels, 2 * n, 2 * n, 2 * n)
