"""3D-CDI-NN of Chan et al. (2021), Appl. Phys. Rev. 8, 021407, doi:10.1063/5.0031486, figure 3.

Magnitudes of 32^3 voxels, hardly oversampled, to shape and phase on the same array.  As its program has it, not the
text: 32, 64 and 128 channels, two 3 x 3 x 3 convolutions a level, dropout after each, 3.5 million weights.  `small`
folds space into channels first, an eighth of the work, takes logarithms, normalises each layer, and as it never sees a
crystal twice drops nothing out.  How it begins, and the leaks, are ours: no phase at all is so near to every crystal
that layers without them die, and answer that for good.
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from cdi_stream.networks.blocks import Fold, Unfold, begun, compressed

DROPOUT = 0.1
LEAK = 0.1


class Chan2021(nn.Module):
    """Magnitudes ``(batch, n, n, n)`` in [0, 1] to shape and phase [rad] of the same shape."""

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
        """Return shape, at least 0, and phase, at least -pi; while it is trained, a little below."""
        code = self.encoder((compressed(magnitude) if self.is_folded else magnitude).unsqueeze(1))
        amplitude, phase = self._positive(self.amplitude(code)), self._positive(self.phase(code))
        return amplitude.squeeze(1), 2 * math.pi * (phase.squeeze(1) - 0.5)

    def _positive(self, volume: Tensor) -> Tensor:
        """ReLU; leaky while it is trained, or voxels that once fell below zero everywhere would learn no more."""
        return nn.functional.leaky_relu(volume, 0.01 if self.training else 0.0)


def small() -> Chan2021:
    """A size that a CPU can train."""
    return Chan2021(is_folded=True)


def _decoder(widths: tuple[int, ...], n_last: int, bias: float, dropout: float) -> nn.Sequential:
    """Up again; it begins near ``bias`` everywhere, or mean absolute errors of small crystals draw it to zero."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise((widths[-1], *reversed(widths))):
        layers += [*_pair(n_in, n_out, dropout), nn.Upsample(scale_factor=2.0, mode="nearest")]
    last = nn.Conv3d(widths[0], n_last, 3, padding=1)
    nn.init.normal_(last.weight, std=0.001)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, last, *([Unfold()] if n_last > 1 else []))


def _pair(n_in: int, n_out: int, dropout: float) -> list[nn.Module]:
    """Two convolutions, each rectified and, where nothing is dropped out, normalised."""
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers.append(begun(nn.Conv3d(n, n_out, 3, padding=1), slope=0.0))
        if dropout > 0:
            layers += [nn.LeakyReLU(LEAK), nn.Dropout(dropout)]
        else:
            layers += [nn.BatchNorm3d(n_out), nn.LeakyReLU(LEAK)]
    return layers
