"""The network 3D-CDI-NN of Chan et al. (2021): shape and phase of a crystal from its diffraction magnitudes.

Source: Chan et al., Applied Physics Reviews 8, 021407 (2021), doi:10.1063/5.0031486, figure 3.  Input and output have
32^3 voxels; the input is hardly oversampled.  The layers follow the authors' program rather than the text: 32, 64 and
128 channels, two 3 x 3 x 3 convolutions a level, each with dropout, 3.5 million weights.

`small` differs from the paper: it folds space into channels first (an eighth of the work), compresses magnitudes by a
logarithm, normalises each layer, and needs no dropout, since it never gets a crystal twice.  Both sizes have their own
initial weights and leaky rectifiers: otherwise training stops at a phase of zero, which is close to every crystal.
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from cdi_stream.networks.blocks import Fold, Unfold, compress_magnitude, kaiming_initialised

DROPOUT = 0.1
"""Share of the channels that dropout sets to zero in training."""

LEAK = 0.1
"""Slope of the leaky rectifiers below zero."""


class Chan2021(nn.Module):
    """Network from magnitudes ``(batch, n, n, n)`` in [0, 1] to amplitude and phase [rad] of the same shape."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128), *, is_folded: bool = False) -> None:
        super().__init__()
        n_first, dropout = (8, 0.0) if is_folded else (1, DROPOUT)
        down: list[nn.Module] = [Fold()] if is_folded else []
        for n_in, n_out in pairwise((n_first, *widths)):
            down += [*_pair(n_in, n_out, dropout), nn.MaxPool3d(2)]
        self.is_folded = is_folded
        self.encoder = nn.Sequential(*down)
        self.amplitude, self.phase = (_decoder(widths, n_first, bias, dropout) for bias in (0.1, 0.5))

    def forward(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Return amplitude >= 0 and phase >= -pi; in training both may be slightly lower."""
        code = self.encoder((compress_magnitude(magnitude) if self.is_folded else magnitude).unsqueeze(1))
        amplitude, phase = self._positive(self.amplitude(code)), self._positive(self.phase(code))
        return amplitude.squeeze(1), 2 * math.pi * (phase.squeeze(1) - 0.5)

    def _positive(self, volume: Tensor) -> Tensor:
        """Return the values rectified; in training leaky, so that voxels below zero keep a gradient."""
        return nn.functional.leaky_relu(volume, 0.01 if self.training else 0.0)


def small() -> Chan2021:
    """Return the network in a size that a CPU can train."""
    return Chan2021(is_folded=True)


def _decoder(widths: tuple[int, ...], n_last: int, bias: float, dropout: float) -> nn.Sequential:
    """Return a decoder whose output is near ``bias`` before training.

    From other initial values the mean absolute errors of small crystals draw the output to zero.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise((widths[-1], *reversed(widths))):
        layers += [*_pair(n_in, n_out, dropout), nn.Upsample(scale_factor=2.0, mode="nearest")]
    last = nn.Conv3d(widths[0], n_last, 3, padding=1)
    nn.init.normal_(last.weight, std=0.001)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, last, *([Unfold()] if n_last > 1 else []))


def _pair(n_in: int, n_out: int, dropout: float) -> list[nn.Module]:
    """Return two convolutions, each rectified, and normalised where there is no dropout."""
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers.append(kaiming_initialised(nn.Conv3d(n, n_out, 3, padding=1), slope=0.0))
        if dropout > 0:
            layers += [nn.LeakyReLU(LEAK), nn.Dropout(dropout)]
        else:
            layers += [nn.BatchNorm3d(n_out), nn.LeakyReLU(LEAK)]
    return layers
