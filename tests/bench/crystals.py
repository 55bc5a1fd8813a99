"""Crystals to measure phasing on: not those that anything was tuned or trained on, each from its seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

Complex = NDArray[np.complex64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One simulated measurement; ``phase_pi`` is the range of the phase over pi."""

    seed: int
    kind: str
    phase_pi: float
    photons: float = 1e6
    n: int = 64
    has_gaps: bool = False


def crystal(case: Case) -> Complex:
    """Complex crystal ``(n, n, n)``, origin at n//2, its amplitude 1 with an edge of half a voxel or so."""
    rng = np.random.default_rng(case.seed)
    grid = (np.mgrid[: case.n, : case.n, : case.n] - case.n // 2) / (case.n / 2)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    axes = np.tensordot(rotation, grid, axes=1)
    inside = _polyhedron(axes, rng) if case.kind == "polyhedron" else _superellipsoid(axes, rng)
    amplitude = gaussian_filter(inside.astype(float), 0.5 * case.n / 64)
    phase = _smooth_noise(case.n, rng)
    solid = amplitude > 0.5
    phase = (phase - phase[solid].min()) / np.ptp(phase[solid]) * case.phase_pi * np.pi
    phase -= np.average(phase, weights=amplitude)
    return (amplitude * np.exp(1j * phase)).astype(np.complex64)


def measured(case: Case, truth: Complex) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Counts with Poisson noise (none if ``photons`` is infinite), and valid voxels; the sign is the project's."""
    rng = np.random.default_rng(case.seed + 7919)
    intensity = np.abs(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(truth)))) ** 2
    valid = np.ones(truth.shape, bool)
    if case.has_gaps:
        for axis in (1, 2):
            at = int(rng.integers(case.n // 8, case.n - case.n // 8))
            at += 8 * (abs(at - case.n // 2) < 4)  # a beamline keeps the peak off the gap
            valid[(slice(None),) * axis + (slice(at, at + 3),)] = False
    if not np.isfinite(case.photons):
        return (intensity * 1e6 / intensity.sum()).astype(np.float32), valid
    return rng.poisson(intensity * case.photons / intensity.sum()).astype(np.float32) * valid, valid


def _polyhedron(axes: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    normals = rng.normal(size=(int(rng.integers(6, 18)), 3))
    normals = np.concatenate((normals, np.eye(3), -np.eye(3)))
    normals /= np.linalg.norm(normals, axis=1)[:, None]
    distances = rng.uniform(0.2, 0.38, len(normals))
    return np.all([np.tensordot(u, axes, axes=1) < d for u, d in zip(normals, distances, strict=True)], axis=0)


def _superellipsoid(axes: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.bool_]:
    a, b, c = rng.uniform(0.22, 0.4, 3)
    e, m = rng.uniform(0.4, 1.2, 2)
    x, y, z = (abs(axis) for axis in axes)
    return ((x / a) ** (2 / e) + (y / b) ** (2 / e)) ** (e / m) + (z / c) ** (2 / m) < 1


def _smooth_noise(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return gaussian_filter(zoom(rng.normal(size=(16, 16, 16)), n / 16, order=1), rng.uniform(0.1, 0.16) * n)
