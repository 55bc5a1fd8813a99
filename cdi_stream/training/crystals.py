"""Random crystals to train on: shapes and strain fields, in voxels, batched on torch.

Every function takes a ``torch.Generator`` and computes on its device; nothing here keeps state.
Arrays are ``(batch, n, n, n)`` in lab axes [z, y, x], the crystal's centre at voxel n//2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class CrystalRanges:
    """What the training crystals are drawn from; lengths in voxels, angles in radians."""

    longest_vox: tuple[float, float] = (19.0, 29.0)
    aspect: tuple[float, float] = (0.5, 1.0)
    phase_range_rad: tuple[float, float] = (0.0, math.pi)
    correlation: tuple[float, float] = (0.25, 1.0)  # length over half the longest extent
    faceted_share: float = 0.7


def _uniform(shape: tuple[int, ...], bounds: tuple[float, float], generator: Generator) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(shape, generator=generator, device=generator.device)


def random_rotations(batch: int, generator: Generator) -> Tensor:
    """Rotations ``(batch, 3, 3)`` uniform over SO(3), by QR of Gaussian matrices."""
    q, r = torch.linalg.qr(torch.randn(batch, 3, 3, generator=generator, device=generator.device))
    q = q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1))[:, None, :]
    return q * torch.sign(torch.linalg.det(q))[:, None, None]


def _positions(n: int, device: torch.device) -> Tensor:
    axis = torch.arange(n, dtype=torch.float32, device=device) - n // 2
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def superellipsoids(semi_axes: Tensor, n: int, generator: Generator) -> Tensor:
    """Signed depth ``(batch, n**3)`` [voxels, positive inside] of superellipsoids.

    Wu et al. (2021), npj Comput. Mater. 7, 175, equation 4.
    """
    batch = semi_axes.shape[0]
    e = _uniform((batch, 1), (0.3, 1.3), generator)
    m = _uniform((batch, 1), (0.3, 1.3), generator)
    x, y, z = (_positions(n, semi_axes.device)[None] / semi_axes[:, None, :]).abs().clamp_min(1e-4).unbind(-1)
    radius = ((x ** (2 / e) + y ** (2 / e)) ** (e / m) + z ** (2 / m)) ** (m / 2)
    return (1 - radius) * semi_axes.amin(-1, keepdim=True)


def polyhedra(semi_axes: Tensor, n: int, generator: Generator, n_planes: int = 14) -> Tensor:
    """Signed depth ``(batch, n**3)`` [voxels, positive inside] of convex polyhedra.

    Each is cut by ``n_planes`` random planes at 0.55 to 1 of the ellipsoid's reach along their normals.
    """
    batch, position = semi_axes.shape[0], _positions(n, semi_axes.device)
    normals = torch.nn.functional.normalize(
        torch.randn(batch, n_planes, 3, generator=generator, device=generator.device), dim=-1
    )
    reach = (normals * semi_axes[:, None, :]).norm(dim=-1) * _uniform((batch, n_planes), (0.55, 1.0), generator)
    box = (semi_axes[:, None, :] - position.abs()).amin(-1)
    cuts = (reach[:, :, None] - normals @ position.T).amin(1)
    return torch.minimum(box, cuts)


def correlated_phases(length_vox: Tensor, n: int, generator: Generator) -> Tensor:
    """Gaussian-correlated fields ``(batch, n, n, n)`` of zero mean, correlation length [voxels] per crystal.

    Wu et al. (2021), equation 5, evaluated in reciprocal space.
    """
    noise = torch.randn(length_vox.shape[0], n, n, n, generator=generator, device=generator.device)
    frequency = torch.fft.fftfreq(n, device=noise.device)
    half = torch.fft.rfftfreq(n, device=noise.device)
    f2 = frequency[:, None, None] ** 2 + frequency[None, :, None] ** 2 + half[None, None, :] ** 2
    window = torch.exp(-2 * (math.pi * length_vox[:, None, None, None]) ** 2 * f2)
    return torch.fft.irfftn(torch.fft.rfftn(noise, dim=(1, 2, 3)) * window, s=(n, n, n), dim=(1, 2, 3))


def crystals(batch: int, n: int, ranges: CrystalRanges, generator: Generator) -> Tensor:
    """Draw complex crystals ``(batch, n, n, n)``: amplitude 1 inside, soft border, zero mean phase.

    The phase spans a random part of ``ranges.phase_range_rad``; the centre of mass is at voxel n//2.
    """
    longest = _uniform((batch, 1), ranges.longest_vox, generator)
    semi_axes = 0.5 * n * 0.9 * _uniform((batch, 3), ranges.aspect, generator)
    is_faceted = torch.rand(batch, 1, generator=generator, device=generator.device) < ranges.faceted_share
    depth = torch.where(
        is_faceted, polyhedra(semi_axes, n, generator), superellipsoids(semi_axes, n, generator)
    ).reshape(batch, n, n, n)
    amplitude = torch.sigmoid(4 * depth)
    amplitude = _rotate_and_centre(amplitude, random_rotations(batch, generator), longest)
    length = _uniform((batch,), ranges.correlation, generator) * 0.5 * longest[:, 0]
    phase = correlated_phases(length, n, generator)
    wanted = _uniform((batch,), ranges.phase_range_rad, generator)
    return torch.polar(amplitude, _scale_inside(phase, amplitude, wanted))


def _rotate_and_centre(amplitude: Tensor, rotation: Tensor, longest: Tensor) -> Tensor:
    """Rotate about the centre of mass, bring that to voxel n//2 and the longest lab extent to ``longest``."""
    batch, n, position = amplitude.shape[0], amplitude.shape[-1], _positions(amplitude.shape[-1], amplitude.device)
    mass = amplitude.reshape(batch, -1, 1)
    centre = (mass * position).sum(1) / mass.sum(1)
    turned = (position - centre[:, None, :]) @ rotation.transpose(1, 2)
    reach = torch.where(mass > 0.5, turned.abs(), 0.0).amax((1, 2))
    shrink = 2 * reach / longest[:, 0]
    source = shrink[:, None, None] * position @ rotation + centre[:, None, :]
    grid = (2 * (source + n // 2) + 1) / n - 1
    grid = grid.flip(-1).reshape(batch, n, n, n, 3)
    return torch.nn.functional.grid_sample(
        amplitude[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )[:, 0]


def _scale_inside(phase: Tensor, amplitude: Tensor, wanted_range: Tensor) -> Tensor:
    inside = amplitude > 0.5
    axes = (1, 2, 3)
    top = torch.where(inside, phase, -torch.inf).amax(axes, keepdim=True)
    bottom = torch.where(inside, phase, torch.inf).amin(axes, keepdim=True)
    scaled = (phase - bottom) / (top - bottom).clamp_min(1e-6) * wanted_range[:, None, None, None]
    mean = (scaled * amplitude).sum(axes, keepdim=True) / amplitude.sum(axes, keepdim=True)
    return scaled - mean
