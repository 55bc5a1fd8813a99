"""Draw random crystals for training: shapes and strain fields in voxels, as batches of torch tensors.

Every function takes a ``torch.Generator`` and computes on its device; the functions keep no state.  Arrays are
``(batch, n, n, n)`` in lab axes [z, y, x], the crystal's centre at voxel n//2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from cdi_stream.training.drawing import among, uniform
from cdi_stream.training.fields import FIELDS
from cdi_stream.training.shapes import SHAPES, positions, random_rotations


@dataclass(frozen=True, slots=True, kw_only=True)
class CrystalRanges:
    """Ranges from which training crystals are drawn uniformly.

    Parameters
    ----------
    longest_vox
        Longest extent of the crystal [voxels].
    aspect
        Ratio of each semi-axis to the largest.
    phase_range_rad
        Span of the phase inside the crystal [rad].
    correlation
        Length of the strain field over half of the longest extent.
    unstrained_share
        Share of crystals without strain.
    shapes, fields
        Names in `SHAPES` and `FIELDS`; a name that occurs twice is drawn twice as often.
    """

    longest_vox: tuple[float, float] = (19.0, 29.0)
    aspect: tuple[float, float] = (0.5, 1.0)
    phase_range_rad: tuple[float, float] = (0.0, math.pi)
    correlation: tuple[float, float] = (0.25, 1.0)
    unstrained_share: float = 0.0
    shapes: tuple[str, ...] = ("polyhedron", "polyhedron", "superellipsoid")
    fields: tuple[str, ...] = ("correlated",)


def crystal_source(ranges: CrystalRanges, n: int) -> Callable[[int, Generator], Tensor]:
    """Return a function that draws crystals of ``n`` voxels along each axis, from their number and a generator."""
    return lambda batch, generator: crystals(batch, n, ranges, generator)


def crystals(batch: int, n: int, ranges: CrystalRanges, generator: Generator) -> Tensor:
    """Return random complex crystals ``(batch, n, n, n)``: amplitude 1 inside, soft surface, zero mean phase.

    The centre of mass is at voxel n//2.
    """
    longest = uniform((batch, 1), ranges.longest_vox, generator)
    semi_axes = 0.5 * n * 0.9 * uniform((batch, 3), ranges.aspect, generator)
    depth = among(ranges.shapes, SHAPES, semi_axes, n, generator).reshape(batch, n, n, n)
    amplitude = torch.sigmoid(4 * depth)
    amplitude = _rotate_and_centre(amplitude, random_rotations(batch, generator), longest)
    length = uniform((batch,), ranges.correlation, generator) * 0.5 * longest[:, 0]
    phase = among(ranges.fields, FIELDS, length, n, generator)
    span_rad = uniform((batch,), ranges.phase_range_rad, generator)
    is_strained = uniform((batch,), (0.0, 1.0), generator) >= ranges.unstrained_share
    return torch.polar(amplitude, _scale_inside(phase, amplitude, span_rad * is_strained))


def _rotate_and_centre(amplitude: Tensor, rotation: Tensor, longest: Tensor) -> Tensor:
    """Return amplitudes rotated about the centre of mass, which moves to n//2, with longest lab extent ``longest``."""
    batch, position = amplitude.shape[0], positions(amplitude.shape[-1], amplitude.device)
    mass = amplitude.reshape(batch, -1, 1)
    centre = (mass * position).sum(1) / mass.sum(1)
    lab_position = (position - centre[:, None, :]) @ rotation.transpose(1, 2)
    reach = torch.where(mass > 0.5, lab_position.abs(), 0.0).amax((1, 2))
    return rotate_and_shrink(amplitude[:, None], rotation, 2 * reach / longest[:, 0], centre)[:, 0]


def rotate_and_shrink(volumes: Tensor, rotation: Tensor, shrink: Tensor, centre: Tensor) -> Tensor:
    """Return volumes rotated and shrunk about a centre that moves to voxel n//2, by linear interpolation.

    Parameters
    ----------
    volumes
        Arrays ``(batch, channels, n, n, n)``.
    rotation
        Rotations ``(batch, 3, 3)``.
    shrink
        Factors ``(batch,)`` by which the volumes become smaller.
    centre
        Centres ``(batch, 3)`` [voxels from n//2].
    """
    n = volumes.shape[-1]
    source = shrink[:, None, None] * positions(n, volumes.device) @ rotation + centre[:, None, :]
    grid = (2 * (source + n // 2) + 1) / n - 1
    grid = grid.flip(-1).reshape(-1, n, n, n, 3)
    return torch.nn.functional.grid_sample(volumes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _scale_inside(phase: Tensor, amplitude: Tensor, span_rad: Tensor) -> Tensor:
    inside = amplitude > 0.5
    axes = (1, 2, 3)
    top = torch.where(inside, phase, -torch.inf).amax(axes, keepdim=True)
    bottom = torch.where(inside, phase, torch.inf).amin(axes, keepdim=True)
    scaled = (phase - bottom) / (top - bottom).clamp_min(1e-6) * span_rad[:, None, None, None]
    mean = (scaled * amplitude).sum(axes, keepdim=True) / amplitude.sum(axes, keepdim=True)
    return scaled - mean
