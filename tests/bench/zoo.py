"""Crystals and measurements as beamlines meet them: many shapes, blurred or cut intensities, uneven angles.

A `Sample` is drawn from its number; nothing in the package was tuned on the numbers from `FIRST` on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

Complex = NDArray[np.complex64]
Floats = NDArray[np.float64]

SHAPES = (
    "polyhedron",
    "superellipsoid",
    "core-shell",
    "two materials",
    "partly lit",
    "domains",
    "void",
    "dislocation",
    "L shape",
    "platelet",
    "rod",
)
EFFECTS = ("none", "blurred", "blurred unevenly", "centre", "gaps", "alien", "background", "slope", "uneven angles")
N = 64
"""Voxels along each axis."""

FIRST = 740_000
"""First number of the samples of the table."""

TRIAL = 300_000
"""First number of the samples on which settings were chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One crystal and the way it is measured.

    ``oversampling`` is the array over the crystal's longest extent, ``blur_vox`` the rms widths of the coherence kernel
    along the axes, ``angles`` the places of the frames in steps.
    """

    number: int
    shape: str
    effect: str
    phase_pi: float
    photons: float
    oversampling: float
    blur_vox: tuple[float, float, float]

    @property
    def rng(self) -> np.random.Generator:
        """Generator of the sample's random numbers, always from its begin."""
        return np.random.default_rng(self.number)

    @property
    def frame_shifts(self) -> Floats:
        """Distances of the frames from even steps [steps]."""
        if self.effect != "uneven angles":
            return np.zeros(N)
        return np.random.default_rng(self.number + 2).normal(0, 0.15, N)


def sample(number: int) -> Sample:
    """Return the sample of a number: shape, effect and all else drawn independently."""
    rng = np.random.default_rng(number + 1)
    effect = str(rng.choice(EFFECTS))
    width = float(rng.uniform(0.3, 1.0))
    widths = {"blurred": (width,) * 3, "blurred unevenly": (width, *rng.uniform(0.0, 1.0, 2).tolist())}
    return Sample(
        number=number,
        shape=str(rng.choice(SHAPES)),
        effect=effect,
        phase_pi=float(rng.uniform(1, 5)),
        photons=float(10 ** rng.uniform(5, 7)),
        oversampling=float(rng.uniform(2, 4)),
        blur_vox=widths.get(effect, (0.0, 0.0, 0.0)),
    )


def crystal(case: Sample) -> Complex:
    """Return the complex crystal ``(N, N, N)``, origin at N//2."""
    rng = case.rng
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    place = np.tensordot(rotation, np.mgrid[:N, :N, :N] - N // 2, axes=1) * (2 * case.oversampling / N)
    amplitude = _amplitude(case.shape, place, rng)
    solid = amplitude > 0.3
    phase = _strain(rng)
    phase = (phase - phase[solid].min()) / np.ptp(phase[solid]) * case.phase_pi * np.pi
    phase = phase + _jump(case.shape, place, rng)
    phase -= np.average(phase, weights=amplitude)
    return (amplitude * np.exp(1j * phase)).astype(np.complex64)


def measure(case: Sample, truth: Complex) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return counts with Poisson noise, and valid voxels; the sign of the transform is the project's."""
    rng, valid = np.random.default_rng(case.number + 3), np.ones((N, N, N), bool)
    intensity = _intensity(truth, case.frame_shifts)
    if any(case.blur_vox):
        intensity = gaussian_filter(intensity, case.blur_vox, mode="wrap", truncate=8)
    expected = intensity * (case.photons / intensity.sum())
    middle = N // 2
    match case.effect:
        case "centre":
            valid[(slice(middle - 3, middle + 4),) * 3] = False
        case "gaps":
            for axis in (1, 2):
                at = middle + int(rng.choice((-1, 1))) * int(rng.integers(5, 16))
                valid[(slice(None),) * axis + (slice(at, at + 4),)] = False
        case "alien":
            at = rng.permuted([int(rng.integers(8, 14)), int(rng.integers(44, 56)), int(rng.integers(8, 56))])
            spot = sum((x - a) ** 2 for x, a in zip(np.mgrid[:N, :N, :N], at, strict=True))
            expected += 0.02 * case.photons * np.exp(-spot / 4) / 22.0
        case "background":
            expected += 0.05 * case.photons / expected.size
        case "slope":
            ramp = np.linspace(0.2, 1.8, N)[None, :, None] * np.linspace(0.6, 1.4, N)[None, None, :]
            expected += 0.05 * case.photons / expected.size * ramp
    return rng.poisson(expected).astype(np.float32) * valid, valid


def _intensity(truth: Complex, shifts: Floats) -> Floats:
    """Return |F|^2, of each frame at its own place along the first axis."""
    field = np.fft.ifftn(np.fft.ifftshift(truth, (1, 2)), axes=(1, 2))
    index = np.arange(N) - N // 2
    field = np.tensordot(np.exp(2j * np.pi / N * np.outer(index + shifts, index)), field, axes=1)
    return np.abs(np.fft.fftshift(field, (1, 2))) ** 2


def _amplitude(shape: str, place: Floats, rng: np.random.Generator) -> Floats:
    """Return the amplitude; the crystal reaches about from -1 to 1 in units of ``place``, with an edge of a voxel."""
    x, y, z = place
    body = _polyhedron(place, rng) if rng.random() < 0.5 else _ellipsoid(place, rng)
    match shape:
        case "polyhedron":
            body = _polyhedron(place, rng)
        case "superellipsoid":
            body = _ellipsoid(place, rng)
        case "L shape":
            body = _polyhedron(place, rng) & ((x < -0.1) | (y < -0.1))
        case "platelet":
            body = _ellipsoid(place, rng) & (abs(z) < 0.25)
        case "rod":
            body = (abs(x) < 0.95) & (y**2 + z**2 < 0.12)
        case "void":
            hole = rng.uniform(-0.2, 0.2, 3)
            body &= sum((p - h) ** 2 for p, h in zip(place, hole, strict=True)) > 0.06
    level = body.astype(float)
    if shape == "core-shell":
        level *= np.where(_ellipsoid(place / 0.6, rng), 1.0, 0.6)
    if shape == "two materials":
        level *= np.where(x > 0.1, 1.0, 0.55)
    if shape == "partly lit":
        level *= 1 - 0.35 * np.clip(x, -1, 1)
    return gaussian_filter(level, 0.5)


def _strain(rng: np.random.Generator) -> Floats:
    return gaussian_filter(zoom(rng.normal(size=(16, 16, 16)), N / 16, order=1), rng.uniform(0.1, 0.16) * N)


def _jump(shape: str, place: Floats, rng: np.random.Generator) -> Floats:
    """Return the phase that is not smooth: of two domains, or about a dislocation line."""
    x, y, _ = place
    if shape == "domains":
        return np.where(x > rng.uniform(-0.2, 0.2), rng.uniform(0.5, 1.0) * np.pi, 0.0)
    if shape == "dislocation":
        return np.arctan2(y - rng.uniform(-0.2, 0.2), x - rng.uniform(-0.2, 0.2))
    return np.zeros((N, N, N))


def _polyhedron(place: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
    normals = np.concatenate((rng.normal(size=(int(rng.integers(6, 18)), 3)), np.eye(3), -np.eye(3)))
    normals /= np.linalg.norm(normals, axis=1)[:, None]
    distances = rng.uniform(0.5, 0.95, len(normals))
    return np.all([np.tensordot(u, place, axes=1) < d for u, d in zip(normals, distances, strict=True)], axis=0)


def _ellipsoid(place: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
    x, y, z = (abs(p) / a for p, a in zip(place, rng.uniform(0.55, 0.95, 3), strict=True))
    e, m = rng.uniform(0.4, 1.2, 2)
    return (x ** (2 / e) + y ** (2 / e)) ** (e / m) + z ** (2 / m) < 1
