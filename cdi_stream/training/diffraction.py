"""From training crystals to what a detector would have counted, as the network will see it; two axes or three."""

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
    """Where the diffraction of crystals of m voxels along an axis is computed."""

    DOUBLE = "on twice as many voxels, so that it is oversampled"
    SAME = "on as many"
    MIDDLE = "on the middle half of twice as many"

    def voxels(self, m: int) -> tuple[int, int]:
        """Of the array that the transform is of, and how many of them are computed."""
        return (m, m) if self is Array.SAME else (2 * m, m if self is Array.MIDDLE else 2 * m)


def measure(
    crystal: Tensor,
    generator: Generator,
    photons: Photons = (1e5, 1e8),
    array: Array = Array.DOUBLE,
    gap_share: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Measured magnitudes of crystals, see `counted`, scaled to a maximum of 1, and the crystals.

    ``gap_share`` of them fell on a detector with a gap.
    """
    counts, crystal = counted(crystal, generator, photons, array)
    if gap_share:
        counts = counts * _gaps(counts.shape[0], counts.ndim - 1, counts.shape[-1], gap_share, generator)
    return scaled(counts.sqrt()), crystal


def counted(
    crystal: Tensor, generator: Generator, photons: Photons = (1e5, 1e8), array: Array = Array.DOUBLE
) -> tuple[Tensor, Tensor]:
    """Simulate the counts of crystals ``(batch, m, m, m)`` on an array.

    Returns the crystals too, as the data show them: with the phase ramp that a peak centred to the voxel leaves.  The
    peak lies off the voxel by up to half a step, photons are counted, and the far corners were not measured.
    ``photons`` are those of the whole array.
    """
    batch, n_axes, m = crystal.shape[0], crystal.ndim - 1, crystal.shape[-1]
    n, n_seen = array.voxels(m)
    crystal = crystal * _ramp(torch.rand(batch, n_axes, generator=generator, device=generator.device) - 0.5, m, n)
    peak = _brightest(field(crystal, array).abs().square())
    crystal = crystal * _ramp((n_seen // 2 - peak).float(), m, n)
    intensity = field(crystal, array).abs().square()
    exponent = torch.rand(batch, generator=generator, device=generator.device) * math.log(photons[1] / photons[0])
    total = photons[0] * torch.exp(exponent)
    whole = crystal.abs().square().flatten(1).sum(1)  # Parseval
    expected = intensity * _per_crystal(total / whole, n_axes)
    window = _measured_window(batch, n_axes, n, n_seen, generator)
    return torch.poisson(expected, generator=generator) * window, crystal


def field(crystal: Tensor, array: Array = Array.DOUBLE) -> Tensor:
    """F(q) of a batch on an array, orthonormal as `to_reciprocal`."""
    n_axes = crystal.ndim - 1
    match array:
        case Array.DOUBLE:
            return to_reciprocal(pad_to_double(crystal, n_axes), n_axes)
        case Array.SAME:
            return to_reciprocal(crystal, n_axes)
        case Array.MIDDLE:  # by matrices: eight times fewer voxels than there would be to transform
            m = crystal.shape[-1]
            position = torch.arange(m, device=crystal.device) - m // 2
            angle = FOURIER_SIGN * 2 * math.pi / (2 * m) * torch.outer(position, position)
            matrix = torch.polar(torch.full_like(angle, (2 * m) ** -0.5), angle)
            for _ in range(n_axes):  # each turns the last axis and brings it to the front of the others
                crystal = (crystal @ matrix).movedim(-1, 1)
            return crystal


def scaled(values: Tensor) -> Tensor:
    """Each of a batch over its largest value."""
    return values / _per_crystal(values.flatten(1).amax(1).clamp_min(1e-30), values.ndim - 1)


def _per_crystal(values: Tensor, n_axes: int) -> Tensor:
    return values.reshape(-1, *(1,) * n_axes)


def _ramp(shift_vox: Tensor, m: int, n: int) -> Tensor:
    """Phase ramp ``(batch, m, ...)`` that moves the diffraction by ``shift_vox`` voxels of an n-array."""
    batch, n_axes = shift_vox.shape
    axis = torch.arange(m, dtype=torch.float32, device=shift_vox.device) - m // 2
    total = torch.zeros((batch, *(1,) * n_axes), device=shift_vox.device)
    for k in range(n_axes):
        angle = -2 * math.pi / n * shift_vox[:, k, None] * axis
        total = total + angle.reshape(batch, *(m if k == other else 1 for other in range(n_axes)))
    return torch.polar(torch.ones_like(total), total)


def _brightest(intensity: Tensor) -> Tensor:
    return torch.stack(torch.unravel_index(intensity.flatten(1).argmax(1), intensity.shape[1:]), dim=-1)


def _measured_window(batch: int, n_axes: int, n: int, n_seen: int, generator: Generator) -> Tensor:
    """1 inside a random parallelepiped about the origin: a skew volume seen on an orthogonal grid."""
    device, position = generator.device, positions(n_seen, generator.device, n_axes)
    random = torch.randn(batch, n_axes, n_axes, generator=generator, device=device)
    skew = torch.eye(n_axes, device=device) + 0.4 * random
    reach = n / 2 * (0.75 + 0.75 * torch.rand(batch, n_axes, 1, generator=generator, device=device))
    inside = ((skew @ position.T).abs() <= reach).all(1)
    return inside.reshape(batch, *(n_seen,) * n_axes).float()


def _gaps(batch: int, n_axes: int, n: int, share: float, generator: Generator) -> Tensor:
    """0 in a slab of random direction, one to three voxels thick, off the peak: a gap between two detector modules."""
    device = generator.device
    normal = torch.nn.functional.normalize(torch.randn(batch, n_axes, generator=generator, device=device), dim=1)
    distance = uniform((batch, 1), (3.0, n / 4), generator)
    half_width = uniform((batch, 1), (0.5, 1.5), generator)
    half_width = half_width * (uniform((batch, 1), (0.0, 1.0), generator) < share)
    outside = (normal @ positions(n, device, n_axes).T - distance).abs() >= half_width
    return outside.reshape(batch, *(n,) * n_axes).float()
