"""Unrolled phase retrieval: rounds of projections, each followed by a small network in direct space.

Networks from diffraction to crystal in one step must learn the Fourier transform; here the transform is computed.  Each
round runs a few cycles of relaxed averaged alternating reflections in a loose support on a coarse grid, the middle of
the diffraction (Luke, Inverse Problems 21, 37 (2005), doi:10.1088/0266-5611/21/1/004).  A small U-Net then estimates
the crystal from the result, which may be a mixture of crystal and twin.  The estimate gives start and support of the
next round, so that twin and support are determined step by step.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from cdi_stream.networks.blocks import Fold, Unfold, block
from cdi_stream.networks.coarse import (
    fourier_upsample,
    grow_support,
    half_box,
    middle,
    patterson,
    raar_cycles,
    scale_to_measured,
)

Widths = tuple[int, int, int]
SUPPORT_LEVEL: Final[float] = 0.3
"""Amplitude, relative to the largest, above which a voxel of an estimate belongs to the next support."""
N_SEEN: Final[int] = 24
"""Side of the U-Net's input on the coarse grid [voxels]; a crystal has at most 15."""


class Unrolled(nn.Module):
    """Network from magnitudes ``(batch, n, n, n)`` in [0, 1] to amplitude and phase ``(batch, n/2, n/2, n/2)``.

    Parameters
    ----------
    rounds
        Number of rounds.
    cycles
        Cycles of projections in each round.
    n_voxels
        Side of the coarse grid [voxels], half of the input's.
    widths
        Channels of the three levels of the U-Net.

    Notes
    -----
    The part ``look`` may have its weights in lower precision, as `reducible` says to `cdi_stream.networks.precision`;
    the projections need single precision.
    """

    def __init__(self, rounds: int = 3, cycles: int = 30, n_voxels: int = 32, widths: Widths = (32, 64, 96)) -> None:
        super().__init__()
        self.rounds, self.cycles, self.support_level = rounds, cycles, SUPPORT_LEVEL
        self.reducible = ["look"]
        self.look = DirectSpaceUNet(widths)
        turn = torch.rand((n_voxels,) * 3, generator=torch.Generator().manual_seed(0))
        self.register_buffer("turn", 2 * torch.pi * turn)

    def forward(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Return amplitude, its maximum 1, and phase in radians; the origin is voxel n//2 of each array."""
        turn = self.turn.unsqueeze(0).expand(magnitude.shape[0], -1, -1, -1)  # type: ignore[operator]
        answer = self.answers(magnitude, turn)[-1]
        fine = fourier_upsample(answer, magnitude.shape[-1])
        amplitude = fine.abs()
        return amplitude / amplitude.amax(dim=[1, 2, 3], keepdim=True).clamp_min(1e-30), fine.angle()

    def answers(self, magnitude: Tensor, turn: Tensor) -> list[Tensor]:
        """Return the crystal after each round on the coarse grid ``(batch, m, m, m)``.

        ``turn`` ``(batch, m, m, m)`` holds the phases [rad] of the measured magnitudes in the first round.
        """
        measured = torch.fft.ifftshift(middle(magnitude, turn.shape[-1]), [1, 2, 3])
        support, autocorrelation = half_box(measured), patterson(measured)
        density = torch.fft.fftn(torch.polar(measured, turn), dim=[1, 2, 3], norm="ortho")
        answers: list[Tensor] = []
        for _ in range(self.rounds):
            projected = raar_cycles(density, support, measured, self.cycles)
            answer: Tensor = self.look(projected, support, autocorrelation)
            answers.append(torch.fft.fftshift(answer, [1, 2, 3]))
            density = scale_to_measured(answer.detach(), measured)
            crystal = answer.detach().abs()
            support = grow_support(crystal > self.support_level * crystal.amax([1, 2, 3], keepdim=True))
        return answers


class DirectSpaceUNet(nn.Module):
    """U-Net that estimates the crystal from the result of projections; its first layer folds the array's middle."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        first, second, third = widths
        self.fold, self.unfold = Fold(), Unfold()
        self.first, self.second, self.third = block(48, first), block(first, second), block(second, third)
        self.pool = nn.MaxPool3d(2)
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.back, self.out = block(third + second, second), block(second + first, first)
        self.last = nn.Conv3d(first, 24, 1)

    def forward(self, density: Tensor, support: Tensor, autocorrelation: Tensor) -> Tensor:
        """Return the complex crystal, amplitudes in [0, 1]; all arrays have their origin at voxel 0."""
        density = _normalise(density)
        channels = (support.to(density.real.dtype), autocorrelation.real, autocorrelation.imag)
        volume = _crop(torch.stack((density.real, density.imag, density.abs(), *channels), dim=1))
        first = self.first(self.fold(volume).to(self.last.weight.dtype))
        second = self.second(self.pool(first))
        third = self.third(self.pool(second))
        second = self.back(torch.cat((self.up(third), second), dim=1))
        first = self.out(torch.cat((self.up(second), first), dim=1))
        logit, real, imaginary = self.unfold(self.last(first)).float().unbind(1)
        direction = torch.complex(real + volume[:, 0].float(), imaginary + volume[:, 1].float())
        crystal = direction / direction.abs().clamp_min(1e-6) * torch.sigmoid(logit)
        return _paste(crystal, density.shape[-1])


def _normalise(density: Tensor) -> Tensor:
    """Return a crystal scaled to amplitude 1 where it is homogeneous, with the phase offset that makes its sum real."""
    amplitude = density.abs()
    power = amplitude.square().sum([1, 2, 3], keepdim=True).clamp_min(1e-30)
    level = (amplitude.pow(4).sum([1, 2, 3], keepdim=True) / power).clamp_min(1e-30).sqrt()
    turn = density.sum([1, 2, 3], keepdim=True).angle()
    return density / level * torch.polar(torch.ones_like(turn), -turn)


def _crop(volume: Tensor, n_seen: int = N_SEEN) -> Tensor:
    """Return the middle of an array, ``(batch, channels, 24, 24, 24)``, with its origin at voxel 12."""
    begin = volume.shape[-1] // 2 - n_seen // 2
    end = begin + n_seen
    result: Tensor = torch.fft.fftshift(volume, [2, 3, 4])[:, :, begin:end, begin:end, begin:end]
    return result


def _paste(crystal: Tensor, n: int, n_seen: int = N_SEEN) -> Tensor:
    before = n // 2 - n_seen // 2
    padded = torch.nn.functional.pad(crystal, [before, n - n_seen - before] * 3)
    result: Tensor = torch.fft.ifftshift(padded, [1, 2, 3])
    return result
