"""Compute the diffraction of the simulated crystal by a direct sum over exact momentum transfers.

The computation is slow and independent of `cdi_stream.geometry.circles`: it uses neither a Fourier transform nor a
linear map, takes rotations from scipy, and uses the exact q of each voxel.  The density lies on a regular grid, so that
the exponential factorises along its axes and the sum becomes matrix products, without approximation.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sim_beamline.crystal import ChiralCrystal

Floats = NDArray[np.float64]

_HC_EV_M = 1.2398419843320026e-6
_LETTERS = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Geometry of a simulated experiment: circles by signed axes (outermost first), angles, energy and detector.

    ``sample_deg`` and ``arm_deg`` hold a number, or a number for each frame, for each circle by name.
    """

    sample_circles: dict[str, str]
    arm_circles: dict[str, str]
    sample_deg: dict[str, float | tuple[float, ...]]
    arm_deg: dict[str, float | tuple[float, ...]]
    photon_energy_ev: float | tuple[float, ...]
    row_direction: str
    col_direction: str
    distance_m: float
    pixel_row_m: float
    pixel_col_m: float
    beam_row: float
    beam_col: float
    shape: tuple[int, int, int]


def signed_axis(name: str) -> Floats:
    """Return the unit vector of a signed axis such as ``"y-"``."""
    return np.array(_LETTERS[name[0]]) * (1.0 if name[1] == "+" else -1.0)


def at_frame(value: float | tuple[float, ...], frame: int) -> float:
    """Return the value of a fixed or scanned quantity at one frame."""
    return float(value[frame]) if isinstance(value, tuple) else float(value)


def circles_rotation(circles: dict[str, str], degrees: dict[str, float | tuple[float, ...]], frame: int) -> Rotation:
    """Return the total rotation of circles, outermost first, at one frame."""
    total = Rotation.identity()
    for name, axis in circles.items():
        total = total * Rotation.from_rotvec(np.deg2rad(at_frame(degrees[name], frame)) * signed_axis(axis))
    return total


def q_sample(experiment: Experiment, frame: int) -> Floats:
    """Return the exact Q ``(rows, cols, 3)`` [1/m] of every pixel of a frame in sample axes; the beam is +z."""
    _, rows, cols = experiment.shape
    row = (np.arange(rows) - experiment.beam_row)[:, None, None] * experiment.pixel_row_m
    col = (np.arange(cols) - experiment.beam_col)[None, :, None] * experiment.pixel_col_m
    pixel = row * signed_axis(experiment.row_direction) + col * signed_axis(experiment.col_direction)
    pixel = (pixel + experiment.distance_m * signed_axis("z+")).reshape(-1, 3)
    arm = circles_rotation(experiment.arm_circles, experiment.arm_deg, frame)
    k = 2 * np.pi * at_frame(experiment.photon_energy_ev, frame) / _HC_EV_M
    k_out = k * arm.apply(pixel / np.linalg.norm(pixel, axis=1, keepdims=True))
    sample = circles_rotation(experiment.sample_circles, experiment.sample_deg, frame)
    result: Floats = sample.inv().apply(k_out - k * signed_axis("z+")).reshape(rows, cols, 3)
    return result


def direct_sum(crystal: ChiralCrystal, q: Floats, pitch_m: float) -> NDArray[np.complex64]:
    """Return the sum of rho exp(i (q - Q).r) over a grid of step ``pitch_m`` at every q ``(..., 3)`` [1/m].

    Q is ``crystal.q_bragg``.
    """
    density, axes = _density(crystal, pitch_m)
    offset = (q - np.array(crystal.q_bragg)).reshape(-1, 3)
    total = np.empty(len(offset), dtype=np.complex64)
    for start in range(0, len(offset), 4096):
        part = offset[start : start + 4096]
        x, y, z = (np.exp(1j * np.outer(part[:, k], axes[k])).astype(np.complex64) for k in range(3))
        over_z = (z @ density.reshape(-1, density.shape[2]).T).reshape(len(part), *density.shape[:2])
        over_y = (over_z @ y[:, :, None])[:, :, 0]
        total[start : start + 4096] = (over_y * x).sum(axis=1)
    return total.reshape(q.shape[:-1])


@functools.lru_cache(maxsize=8)
def _density(crystal: ChiralCrystal, pitch_m: float) -> tuple[NDArray[np.complex64], list[Floats]]:
    """Return the density on a grid of step ``pitch_m``, and the axes of the grid [m]."""
    n = int(np.ceil(0.75 * crystal.size_m / pitch_m))
    axis: Floats = (np.arange(-n, n + 1) * pitch_m).astype(np.float64)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    return _trimmed(crystal.complex_density(grid).astype(np.complex64), axis)


def _trimmed(density: NDArray[np.complex64], axis: Floats) -> tuple[NDArray[np.complex64], list[Floats]]:
    """Return the density without empty outer planes of the grid, and the axes of the remaining grid."""
    is_crystal = np.abs(density) > 1e-7
    axes = []
    for k in range(3):
        inside = np.flatnonzero(is_crystal.any(axis=tuple(m for m in range(3) if m != k)))
        keep = slice(int(inside[0]), int(inside[-1]) + 1)
        density = np.moveaxis(np.moveaxis(density, k, 0)[keep], 0, k)
        axes.append(axis[keep])
    return np.ascontiguousarray(density), axes


def rocking_curve(crystal: ChiralCrystal, experiment: Experiment, pitch_m: float) -> NDArray[np.float64]:
    """Return the intensities ``[frame, row, col]`` of the whole scan, in arbitrary units."""
    frames = range(experiment.shape[0])
    return np.stack([np.abs(direct_sum(crystal, q_sample(experiment, f), pitch_m)) ** 2 for f in frames])
