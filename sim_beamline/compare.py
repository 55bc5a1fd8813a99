"""Compare a published crystal with the simulated one: global phase, shift and twin allowed, nothing else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sim_beamline.crystal import ChiralCrystal

Complex = NDArray[np.complex64]


def truth_on_grid(
    crystal: ChiralCrystal,
    q0_lab: NDArray[np.float64],
    sample_to_lab: NDArray[np.float64],
    shape: tuple[int, int, int],
    voxel_size_m: float,
) -> Complex:
    """The simulated crystal on a lab grid [z, y, x], origin at N//2, averaged over each voxel.

    Phases are referred to ``q0_lab`` [1/m], as those of a reconstruction about that voxel are: a lattice
    that diffracts at Q beside Q_0 carries the ramp (Q_0 - Q).r.
    """
    axes = [(np.arange(n) - n // 2) * voxel_size_m for n in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    lab = np.stack((x, y, z), axis=-1)
    total = np.zeros(shape, dtype=np.complex128)
    ramp = sample_to_lab.T @ q0_lab - np.array(crystal.q_bragg)
    offsets = np.array([-1 / 3, 0, 1 / 3]) * voxel_size_m
    for shift in np.stack(np.meshgrid(offsets, offsets, offsets), -1).reshape(-1, 3):
        r = (lab + shift) @ sample_to_lab
        total += crystal.complex_density(r) * np.exp(1j * (r @ ramp))
    return (total / 27).astype(np.complex64)


def nmse(truth: Complex, crystal: Complex) -> float:
    """1 - |correlation|^2 after the best shift (to a fraction of a voxel), the twin allowed."""
    flipped = np.roll(crystal[::-1, ::-1, ::-1], [1 - n % 2 for n in crystal.shape], (0, 1, 2))
    return min(_nmse_shifted(truth, crystal), _nmse_shifted(truth, flipped.conj()))


def nmse_forbidden(truth: Complex, crystal: Complex) -> float:
    """The same for a bare flip and a bare conjugation, which a right result must not resemble."""
    return nmse(truth, crystal.conj())


def _nmse_shifted(truth: Complex, crystal: Complex) -> float:
    """Correlate on a four times finer grid of shifts about the best whole one."""
    spectrum = fft.fftn(truth) * fft.fftn(crystal).conj()
    coarse = np.abs(fft.ifftn(spectrum))
    best = np.array(np.unravel_index(coarse.argmax(), coarse.shape), dtype=float)
    norm = np.linalg.norm(truth) * np.linalg.norm(crystal)
    frequencies = [fft.fftfreq(n) for n in truth.shape]

    def correlation(shift: NDArray[np.float64]) -> float:
        phases = [np.exp(2j * np.pi * f * s) for f, s in zip(frequencies, shift, strict=True)]
        result: float = float(abs(np.einsum("ijk,i,j,k->", spectrum, *phases, optimize=True))) / spectrum.size / norm
        return result

    step, value = 0.5, correlation(best)
    while step > 0.02:
        trials = [best + step * sign * np.eye(3)[axis] for axis in range(3) for sign in (-1, 1)]
        values = [correlation(trial) for trial in trials]
        if max(values) > value:
            value, best = max(values), trials[int(np.argmax(values))]
        else:
            step /= 2
    return float(1 - value**2)
