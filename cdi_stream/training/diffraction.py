"""From training crystals to what a detector would have counted, as the network will see it."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from cdi_stream.fourier import to_reciprocal
from cdi_stream.networks.losses import pad_to_double

_AXES = (-3, -2, -1)


def measure(crystal: Tensor, generator: Generator, photons: tuple[float, float] = (1e5, 1e8)) -> tuple[Tensor, Tensor]:
    """Simulate measured magnitudes of crystals ``(batch, n, n, n)``.

    Returns the magnitudes ``(batch, 2n, 2n, 2n)``, scaled to a maximum of 1, and the crystals as the
    data show them: with the phase ramp that a peak centred to the voxel leaves.  The peak lies off
    the voxel by up to half a step, photons are counted, and the far corners were not measured.
    """
    batch, n = crystal.shape[0], 2 * crystal.shape[-1]
    crystal = crystal * _ramp(
        torch.rand(batch, 3, generator=generator, device=generator.device) - 0.5, n, crystal.shape[-1]
    )
    intensity = to_reciprocal(pad_to_double(crystal)).abs().square()
    peak = _brightest(intensity)
    crystal = crystal * _ramp((n // 2 - peak).float(), n, crystal.shape[-1])
    intensity = to_reciprocal(pad_to_double(crystal)).abs().square()
    exponent = torch.rand(batch, generator=generator, device=generator.device) * math.log(photons[1] / photons[0])
    total = photons[0] * torch.exp(exponent)
    expected = intensity * (total / intensity.sum(_AXES))[:, None, None, None]
    counts = torch.poisson(expected, generator=generator) * _measured_window(batch, n, generator)
    return (counts / counts.amax(_AXES, keepdim=True)).sqrt(), crystal


def _ramp(shift_vox: Tensor, n: int, n_crystal: int) -> Tensor:
    """Phase ramp that moves the diffraction by ``shift_vox`` reciprocal voxels of an n-array."""
    axis = torch.arange(n_crystal, dtype=torch.float32, device=shift_vox.device) - n_crystal // 2
    angle = -2 * math.pi / n * shift_vox[:, :, None] * axis
    total = angle[:, 0, :, None, None] + angle[:, 1, None, :, None] + angle[:, 2, None, None, :]
    return torch.polar(torch.ones_like(total), total)


def _brightest(intensity: Tensor) -> Tensor:
    n = intensity.shape[-1]
    flat = intensity.reshape(intensity.shape[0], -1).argmax(-1)
    return torch.stack((flat // n**2, flat // n % n, flat % n), dim=-1)


def _measured_window(batch: int, n: int, generator: Generator) -> Tensor:
    """1 inside a random parallelepiped about the origin: a skew volume seen on an orthogonal grid."""
    device = generator.device
    axis = torch.arange(n, dtype=torch.float32, device=device) - n // 2
    position = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    skew = torch.eye(3, device=device) + 0.4 * torch.randn(batch, 3, 3, generator=generator, device=device)
    reach = n / 2 * (0.75 + 0.75 * torch.rand(batch, 3, 1, generator=generator, device=device))
    inside = ((skew @ position.T).abs() <= reach).all(1)
    return inside.reshape(batch, n, n, n).float()
