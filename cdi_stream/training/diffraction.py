"""Simulate the diffraction of training crystals as a detector counts it, in two axes or three."""

from __future__ import annotations

import math
from enum import Enum

import torch
from torch import Generator, Tensor

from cdi_stream.geometry.circles import FOURIER_SIGN
from cdi_stream.networks.losses import pad_to_double
from cdi_stream.numerics.fourier import to_reciprocal
from cdi_stream.training.drawing import uniform
from cdi_stream.training.shapes import positions

Photons = tuple[float, float]


class Array(Enum):
    """Array on which the diffraction of crystals of m voxels along each axis is computed."""

    DOUBLE = "on twice as many voxels, so that it is oversampled"
    SAME = "on as many voxels"
    MIDDLE = "on the middle half of twice as many voxels"

    def voxels(self, m: int) -> tuple[int, int]:
        """Return the side of the transform's array, and the side of the part that is computed [voxels]."""
        return (m, m) if self is Array.SAME else (2 * m, m if self is Array.MIDDLE else 2 * m)


def measure(
    crystal: Tensor,
    generator: Generator,
    photons: Photons = (1e5, 1e8),
    array: Array = Array.DOUBLE,
    gap_share: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the measured magnitudes of crystals, scaled to a maximum of 1, and the crystals that they show.

    Parameters
    ----------
    crystal, generator, photons, array
        As in `draw_counts`.
    gap_share
        Share of the patterns with a detector gap.
    """
    counts, crystal = draw_counts(crystal, generator, photons, array)
    if gap_share:
        counts = counts * _gaps(counts.shape[0], counts.ndim - 1, counts.shape[-1], gap_share, generator)
    return scale_to_maximum(counts.sqrt()), crystal


def draw_counts(
    crystal: Tensor, generator: Generator, photons: Photons = (1e5, 1e8), array: Array = Array.DOUBLE
) -> tuple[Tensor, Tensor]:
    """Return simulated counts of crystals, and the crystals with the phase ramp that the counts imply.

    The Bragg peak lies up to half a voxel off the origin voxel.  Counts have Poisson noise.  Voxels outside a random
    parallelepiped count as not measured.

    Parameters
    ----------
    crystal
        Complex crystals ``(batch, m, m, m)``.
    generator
        Source of random numbers.
    photons
        Smallest and largest number of photons of the whole array.
    array
        Array of the counts.
    """
    batch, n_axes, m = crystal.shape[0], crystal.ndim - 1, crystal.shape[-1]
    n, n_seen = array.voxels(m)
    crystal = crystal * _ramp(torch.rand(batch, n_axes, generator=generator, device=generator.device) - 0.5, m, n)
    peak = _brightest(field(crystal, array).abs().square())
    crystal = crystal * _ramp((n_seen // 2 - peak).float(), m, n)
    intensity = field(crystal, array).abs().square()
    exponent = torch.rand(batch, generator=generator, device=generator.device) * math.log(photons[1] / photons[0])
    total = photons[0] * torch.exp(exponent)
    power = crystal.abs().square().flatten(1).sum(1)  # Parseval
    expected = intensity * _per_crystal(total / power, n_axes)
    window = _measured_window(batch, n_axes, n, n_seen, generator)
    return torch.poisson(expected, generator=generator) * window, crystal


def field(crystal: Tensor, array: Array = Array.DOUBLE) -> Tensor:
    """Return the diffracted field F(q) of a batch on an array, with the normalisation of `to_reciprocal`."""
    n_axes = crystal.ndim - 1
    match array:
        case Array.DOUBLE:
            return to_reciprocal(pad_to_double(crystal, n_axes), n_axes)
        case Array.SAME:
            return to_reciprocal(crystal, n_axes)
        case Array.MIDDLE:  # by matrix products, since an FFT would compute eight times more voxels
            m = crystal.shape[-1]
            position = torch.arange(m, device=crystal.device) - m // 2
            angle = FOURIER_SIGN * 2 * math.pi / (2 * m) * torch.outer(position, position)
            matrix = torch.polar(torch.full_like(angle, (2 * m) ** -0.5), angle)
            for _ in range(n_axes):  # each product transforms the last axis and moves it to the front
                crystal = (crystal @ matrix).movedim(-1, 1)
            return crystal


def scale_to_maximum(values: Tensor) -> Tensor:
    """Return each array of a batch divided by its largest value."""
    return values / _per_crystal(values.flatten(1).amax(1).clamp_min(1e-30), values.ndim - 1)


def _per_crystal(values: Tensor, n_axes: int) -> Tensor:
    return values.reshape(-1, *(1,) * n_axes)


def _ramp(shift_vox: Tensor, m: int, n: int) -> Tensor:
    """Return the phase ramp ``(batch, m, ...)`` that shifts the diffraction by ``shift_vox`` voxels of an n-array."""
    batch, n_axes = shift_vox.shape
    axis = torch.arange(m, dtype=torch.float32, device=shift_vox.device) - m // 2
    total = torch.zeros((batch, *(1,) * n_axes), device=shift_vox.device)
    for k in range(n_axes):
        angle = -2 * math.pi / n * shift_vox[:, k, None] * axis
        total = total + angle.reshape(batch, *(m if k == j else 1 for j in range(n_axes)))
    return torch.polar(torch.ones_like(total), total)


def _brightest(intensity: Tensor) -> Tensor:
    return torch.stack(torch.unravel_index(intensity.flatten(1).argmax(1), intensity.shape[1:]), dim=-1)


def _measured_window(batch: int, n_axes: int, n: int, n_seen: int, generator: Generator) -> Tensor:
    """Return 1 inside a random parallelepiped about the origin, as of a skew measured volume on an orthogonal grid."""
    device, position = generator.device, positions(n_seen, generator.device, n_axes)
    random = torch.randn(batch, n_axes, n_axes, generator=generator, device=device)
    skew = torch.eye(n_axes, device=device) + 0.4 * random
    reach = n / 2 * (0.75 + 0.75 * torch.rand(batch, n_axes, 1, generator=generator, device=device))
    inside = ((skew @ position.T).abs() <= reach).all(1)
    return inside.reshape(batch, *(n_seen,) * n_axes).float()


def _gaps(batch: int, n_axes: int, n: int, share: float, generator: Generator) -> Tensor:
    """Return 0 in a slab of random direction off the peak, one to three voxels thick, as of a detector gap, else 1."""
    device = generator.device
    normal = torch.nn.functional.normalize(torch.randn(batch, n_axes, generator=generator, device=device), dim=1)
    distance = uniform((batch, 1), (3.0, n / 4), generator)
    half_width = uniform((batch, 1), (0.5, 1.5), generator)
    half_width = half_width * (uniform((batch, 1), (0.0, 1.0), generator) < share)
    outside = (normal @ positions(n, device, n_axes).T - distance).abs() >= half_width
    return outside.reshape(batch, *(n,) * n_axes).float()
