"""Phase retrieval with a network inside: cycles of projections, then a look at the crystal that they reached.

The papers' networks go from diffraction to crystal in one step, and must learn the Fourier transform on the way.  Here
the transform is computed.  On a coarse grid, the middle of the diffraction, a few cycles of relaxed averaged
alternating reflections (Luke 2005, Inverse Problems 21, 37, doi:10.1088/0266-5611/21/1/004) run in a loose support;
then a small network sees in direct space what they reached, blurred between the twins perhaps, and answers with the
crystal that it takes it for.  That is the next start and the next support: so twin and support are found by turns.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from cdi_stream.networks.blocks import Fold, Unfold, block
from cdi_stream.networks.coarse import grown, half_box, middle, patterson, reached, refined, scaled_like

Widths = tuple[int, int, int]
SUPPORT_LEVEL: Final[float] = 0.3
"""Amplitude above which an answer means crystal."""
N_SEEN: Final[int] = 24
"""Voxels along an axis, of the coarse grid, that the network sees: a crystal has at most 15."""


class Unrolled(nn.Module):
    """Magnitudes ``(batch, n, n, n)`` in [0, 1] to amplitude and phase ``(batch, n/2, n/2, n/2)``.

    Parameters
    ----------
    rounds
        How often the network looks.
    cycles
        Projections before each look.
    n_voxels
        Along an axis of the coarse grid, half of the input's.
    widths
        Channels of the three levels of the network inside.
    """

    def __init__(self, rounds: int = 3, cycles: int = 30, n_voxels: int = 32, widths: Widths = (32, 64, 96)) -> None:
        super().__init__()
        self.rounds, self.cycles, self.support_level = rounds, cycles, SUPPORT_LEVEL
        self.look = Look(widths)
        turn = torch.rand((n_voxels,) * 3, generator=torch.Generator().manual_seed(0))
        self.register_buffer("turn", 2 * torch.pi * turn)

    def forward(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Return amplitude, its maximum 1, and phase in radians; the origin is voxel n//2 of each array."""
        turn = self.turn.unsqueeze(0).expand(magnitude.shape[0], -1, -1, -1)  # type: ignore[operator]
        answer = self.answers(magnitude, turn)[-1]
        fine = refined(answer, magnitude.shape[-1])
        amplitude = fine.abs()
        return amplitude / amplitude.amax(dim=[1, 2, 3], keepdim=True).clamp_min(1e-30), fine.angle()

    def answers(self, magnitude: Tensor, turn: Tensor) -> list[Tensor]:
        """The crystal after each look on the coarse grid ``(batch, m, m, m)``, from starts of these phases [rad]."""
        measured = torch.fft.ifftshift(middle(magnitude, turn.shape[-1]), [1, 2, 3])
        support, autocorrelation = half_box(measured), patterson(measured)
        density = torch.fft.fftn(torch.polar(measured, turn), dim=[1, 2, 3], norm="ortho")
        found: list[Tensor] = []
        for _ in range(self.rounds):
            explained = reached(density, support, measured, self.cycles)
            answer: Tensor = self.look(explained, support, autocorrelation)
            found.append(torch.fft.fftshift(answer, [1, 2, 3]))
            density = scaled_like(answer.detach(), measured)
            crystal = answer.detach().abs()
            support = grown(crystal > self.support_level * crystal.amax([1, 2, 3], keepdim=True))
        return found


class Look(nn.Module):
    """What crystal it is, by what projections reached: a U-Net on the middle of the array, space folded first."""

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
        """Return the crystal, amplitudes in [0, 1], origin at voxel 0 like all that goes in."""
        density = _levelled(density)
        known = (support.to(density.real.dtype), autocorrelation.real, autocorrelation.imag)
        volume = _cut(torch.stack((density.real, density.imag, density.abs(), *known), dim=1))
        first = self.first(self.fold(volume))
        second = self.second(self.pool(first))
        third = self.third(self.pool(second))
        second = self.back(torch.cat((self.up(third), second), dim=1))
        first = self.out(torch.cat((self.up(second), first), dim=1))
        logit, real, imaginary = self.unfold(self.last(first)).float().unbind(1)
        direction = torch.complex(real + volume[:, 0].float(), imaginary + volume[:, 1].float())
        crystal = direction / direction.abs().clamp_min(1e-6) * torch.sigmoid(logit)
        return _pasted(crystal, density.shape[-1])


def _levelled(density: Tensor) -> Tensor:
    """Scaled so that a crystal of one density has amplitude 1, turned so that its sum is real."""
    amplitude = density.abs()
    power = amplitude.square().sum([1, 2, 3], keepdim=True).clamp_min(1e-30)
    level = (amplitude.pow(4).sum([1, 2, 3], keepdim=True) / power).clamp_min(1e-30).sqrt()
    turn = density.sum([1, 2, 3], keepdim=True).angle()
    return density / level * torch.polar(torch.ones_like(turn), -turn)


def _cut(volume: Tensor, n_seen: int = N_SEEN) -> Tensor:
    """The middle that the network sees, ``(batch, channels, 24, 24, 24)``, origin at its voxel 12."""
    begin = volume.shape[-1] // 2 - n_seen // 2
    end = begin + n_seen
    result: Tensor = torch.fft.fftshift(volume, [2, 3, 4])[:, :, begin:end, begin:end, begin:end]
    return result


def _pasted(crystal: Tensor, n: int, n_seen: int = N_SEEN) -> Tensor:
    before = n // 2 - n_seen // 2
    whole = torch.nn.functional.pad(crystal, [before, n - n_seen - before] * 3)
    result: Tensor = torch.fft.ifftshift(whole, [1, 2, 3])
    return result
