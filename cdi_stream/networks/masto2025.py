"""The U-Net of Masto et al. (2025) for highly strained crystals: the phase of the diffracted field.

Source: Masto et al. (2025), arXiv:2507.06644, section 2.2.  The input is the logarithm of the intensities; the output
is the phase in reciprocal space, without a last activation, so that the phase may be unwrapped.  The first levels have
dilated convolutions; each skip passes a convolution that halves the channels; transposed convolutions lead up again.
Rectifiers are LeakyReLU with slope 0.2, and there is no normalisation.

The paper's network has 143 million weights.  This network is smaller: it folds space into channels first, kernels have
3 voxels along each axis instead of 5, and the lowest level has 2^3 voxels.  The initial weights differ from torch's
default, which without normalisation lets the signal of the lowest level vanish.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from cdi_stream.networks.blocks import Fold, Unfold, compress_magnitude, convolution, kaiming_initialised

SLOPE = 0.2
"""Slope of the leaky rectifiers below zero."""

RATES = ((4, 2, 1), (3, 2, 1))
"""Dilations of the first two levels [folded voxels]; half of the paper's, since a folded voxel is twice as long."""

LOG_GAIN: Final[float] = 1e5
"""Gain of the compression log(1 + gain |F|^2) / log(1 + gain), |F| scaled to a maximum of 1.

It equals the paper's log(I + 1) for a peak of as many counts.
"""


def compress_intensity(magnitude: Tensor, gain: float = LOG_GAIN) -> Tensor:
    """Return the logarithm of the intensities, scaled to [0, 1]."""
    return compress_magnitude(magnitude.square(), gain)


class Masto2025(nn.Module):
    """U-Net from magnitudes ``(batch, n, n, n)`` in [0, 1] to the phase [rad] of the field, of the same shape."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 192)) -> None:
        super().__init__()
        self.fold, self.unfold = Fold(), Unfold()
        self.down = nn.ModuleList()
        self.skips = nn.ModuleList()
        n_in = 8
        for level, width in enumerate(widths):
            self.down.append(DilatedBlock(n_in, width, RATES[level]) if level < len(RATES) else _plain(n_in, width))
            self.skips.append(_plain(width, width // 2))
            n_in = width
        self.bottom = _plain(n_in, n_in)
        below = (widths[-1], *reversed(widths[1:]))
        pairs = list(zip(below, reversed(widths), strict=True))
        self.up = nn.ModuleList(_upwards(n) for n, _ in pairs)
        self.merged = nn.ModuleList(_plain(n // 2 + width // 2, width) for n, width in pairs)
        self.last = nn.Conv3d(widths[0], 8, 1)

    def forward(self, magnitude: Tensor) -> Tensor:
        """Return the phase [rad] of the diffracted field."""
        volume = self.fold(compress_intensity(magnitude).unsqueeze(1))
        skip_volumes: list[Tensor] = []
        for down, skip in zip(self.down, self.skips, strict=True):
            volume = down(volume)
            skip_volumes.append(skip(volume))
            volume = torch.nn.functional.max_pool3d(volume, 2)
        volume = self.bottom(volume)
        for k, (up, merge) in enumerate(zip(self.up, self.merged, strict=True)):
            volume = merge(torch.cat((up(volume), skip_volumes[len(skip_volumes) - 1 - k]), dim=1))
        result: Tensor = self.unfold(self.last(volume)).squeeze(1)
        return result


def small() -> Masto2025:
    """Return the network in a size that a CPU can train: a million weights."""
    return Masto2025((12, 24, 48, 96))


class FieldPhase(nn.Module):
    """Module that converts the network's phase to amplitude and phase of the crystal on half of the array."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Return amplitude, its maximum 1, and phase in radians; the origin is voxel n//2 of each array."""
        axes = [1, 2, 3]
        field = torch.polar(magnitude, self.network(magnitude).float())
        crystal = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(field, axes), dim=axes, norm="ortho"), axes)
        n = magnitude.shape[-1]
        middle = crystal[:, n // 4 : n // 4 + n // 2, n // 4 : n // 4 + n // 2, n // 4 : n // 4 + n // 2]
        amplitude = middle.abs()
        return amplitude / amplitude.amax(dim=axes, keepdim=True).clamp_min(1e-30), middle.angle()


class DilatedBlock(nn.Module):
    """Parallel convolutions of several dilations, concatenated with their input and mixed by one convolution."""

    def __init__(self, n_in: int, n_out: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        share = n_out // len(rates)
        self.parts = nn.ModuleList(
            nn.Sequential(kaiming_initialised(convolution(n_in, share, (3, 3, 3), rate), SLOPE), nn.LeakyReLU(SLOPE))
            for rate in rates
        )
        self.mixed = _plain(n_in + share * len(rates), n_out)

    def forward(self, volume: Tensor) -> Tensor:
        """Return the mixed channels of all dilations."""
        parts = [volume]
        parts.extend([part(volume) for part in self.parts])
        result: Tensor = self.mixed(torch.cat(parts, dim=1))
        return result


def _upwards(n_in: int) -> nn.ConvTranspose3d:
    """Return a transposed convolution to twice as many voxels along each axis, initialised to keep the variance."""
    layer = nn.ConvTranspose3d(n_in, n_in // 2, 2, stride=2)
    nn.init.normal_(layer.weight, std=n_in**-0.5)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _plain(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(kaiming_initialised(nn.Conv3d(n_in, n_out, 3, padding=1), SLOPE), nn.LeakyReLU(SLOPE))
