"""Parts that networks of two and of three axes share."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn

LOG_GAIN: Final[float] = 300.0
"""Magnitudes enter as log(1 + gain |F|) / log(1 + gain), |F| scaled to a maximum of 1."""

CONVOLUTION: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
POOL: dict[int, type[nn.MaxPool2d | nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_NORMALISATION: dict[int, type[nn.BatchNorm2d | nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def compressed(magnitude: Tensor, gain: float = LOG_GAIN) -> Tensor:
    """Magnitudes in [0, 1] by their logarithm, in [0, 1] too, so that weak fringes count."""
    return torch.log1p(gain * magnitude) / math.log1p(gain)


def convolution(n_in: int, n_out: int, kernel: tuple[int, ...], dilation: int = 1) -> nn.Module:
    """A convolution without bias that keeps the shape; its axes are those of the kernel."""
    make: type[Any] = CONVOLUTION[len(kernel)]
    padding = tuple(dilation * (k // 2) for k in kernel)
    made: nn.Module = make(n_in, n_out, kernel, padding=padding, bias=False, dilation=dilation)
    return made


def begun(layer: nn.Module, slope: float) -> nn.Module:
    """A layer with weights that keep the variance of what comes through a rectifier of this slope before it."""
    nn.init.kaiming_normal_(layer.weight, a=slope)  # type: ignore[arg-type]
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def block(n_in: int, n_out: int, n_axes: int = 3) -> nn.Sequential:
    """Convolution of 3 voxels an axis, then one an axis of 3 along it alone, each normalised and rectified."""
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
    """Blocks from ``widths[0]`` channels to the others in turn, with max-pooling by two between them."""
    levels: list[nn.Module] = [block(widths[0], widths[1], n_axes)]
    for n_in, n_out in pairwise(widths[1:]):
        levels += [POOL[n_axes](2), block(n_in, n_out, n_axes)]
    return nn.Sequential(*levels)


def decoder(widths: tuple[int, ...], bias: float, n_axes: int = 3) -> nn.Sequential:
    """Blocks, each after an upsampling by two, and a last convolution to one channel with this bias."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Upsample(scale_factor=2.0, mode="nearest"), block(n_in, n_out, n_axes)]
    last = CONVOLUTION[n_axes](widths[-1], 1, 3, padding=1)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, last)


class Fold(nn.Module):
    """Space to depth: 2 x 2 x 2 voxels into channels, ``(batch, c, n, n, n)`` to ``(batch, 8c, n/2, n/2, n/2)``."""

    def forward(self, volume: Tensor) -> Tensor:
        """Fold."""
        batch, channels, n = volume.shape[0], volume.shape[1], volume.shape[2] // 2
        cells = volume.reshape(batch, channels, n, 2, n, 2, n, 2)
        return cells.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, 8 * channels, n, n, n)


class Unfold(nn.Module):
    """Depth to space, the inverse of `Fold`."""

    def forward(self, folded: Tensor) -> Tensor:
        """Unfold."""
        batch, channels, n = folded.shape[0], folded.shape[1] // 8, folded.shape[2]
        cells = folded.reshape(batch, channels, 2, 2, 2, n, n, n).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return cells.reshape(batch, channels, 2 * n, 2 * n, 2 * n)
