"""Draw phases of training crystals, ``(batch, n, n, n)`` of arbitrary scale, from lengths ``(batch,)`` [voxels]."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from cdi_stream.training.drawing import Draws, uniform
from cdi_stream.training.shapes import positions


def correlated_phases(length_vox: Tensor, n: int, generator: Generator) -> Tensor:
    """Return Gaussian-correlated fields ``(batch, n, n, n)`` of zero mean with correlation lengths ``length_vox``.

    Source: Wu et al., npj Computational Materials 7, 175 (2021), doi:10.1038/s41524-021-00644-z, equation 5, evaluated
    in reciprocal space.
    """
    noise = torch.randn(length_vox.shape[0], n, n, n, generator=generator, device=generator.device)
    frequency = torch.fft.fftfreq(n, device=noise.device)
    half = torch.fft.rfftfreq(n, device=noise.device)
    f2 = frequency[:, None, None] ** 2 + frequency[None, :, None] ** 2 + half[None, None, :] ** 2
    window = torch.exp(-2 * (math.pi * length_vox[:, None, None, None]) ** 2 * f2)
    return torch.fft.irfftn(torch.fft.rfftn(noise, dim=(1, 2, 3)) * window, s=(n, n, n), dim=(1, 2, 3))


def gaussian_phases(length_vox: Tensor, n: int, generator: Generator) -> Tensor:
    """Return fields of two Gaussians of either sign, centred within ``length_vox`` of the origin along each axis.

    Source: Masto et al. (2025), arXiv:2507.06644, section 2.1.
    """
    batch, total = length_vox.shape[0], torch.zeros(length_vox.shape[0], n**3, device=length_vox.device)
    for _ in range(2):
        centre = uniform((batch, 1, 3), (-1.0, 1.0), generator) * length_vox[:, None, None]
        width = length_vox[:, None] * uniform((batch, 1), (0.5, 1.5), generator)
        square = (positions(n, length_vox.device)[None] - centre).square().sum(-1)
        total = total + uniform((batch, 1), (-1.0, 1.0), generator) * torch.exp(-square / (2 * width.square()))
    return total.reshape(batch, n, n, n)


def cosine_phases(length_vox: Tensor, n: int, generator: Generator) -> Tensor:
    """Return fields of two plane waves of random direction, with wavelengths of three to six times ``length_vox``.

    Source: Masto et al. (2025), arXiv:2507.06644, section 2.1.
    """
    batch, total = length_vox.shape[0], torch.zeros(length_vox.shape[0], n**3, device=length_vox.device)
    for _ in range(2):
        direction = torch.randn(batch, 3, generator=generator, device=generator.device)
        wave = torch.nn.functional.normalize(direction, dim=-1) * 2 * math.pi
        wave = wave / (length_vox[:, None] * uniform((batch, 1), (3.0, 6.0), generator))
        offset = uniform((batch, 1), (0.0, 2 * math.pi), generator)
        amplitude = uniform((batch, 1), (0.3, 1.0), generator)
        total = total + amplitude * torch.cos(wave @ positions(n, length_vox.device).T + offset)
    return total.reshape(batch, n, n, n)


FIELDS: Draws = {"correlated": correlated_phases, "gaussian": gaussian_phases, "cosine": cosine_phases}
