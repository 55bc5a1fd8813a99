"""Compare a published crystal with the simulated crystal, up to global phase, shift and twin."""

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
    """Return the simulated crystal on a lab grid [z, y, x], origin at N//2, averaged over each voxel.

    Parameters
    ----------
    crystal
        Simulated crystal.
    q0_lab
        Q [1/m] to which phases refer, that of the reconstruction's origin voxel.  A lattice that diffracts at Q has the
        phase ramp (Q_0 - Q).r.
    sample_to_lab
        Rotation from sample to lab axes.
    shape, voxel_size_m
        Shape and voxel side [m] of the grid.
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
    """Return 1 - |correlation|^2 at the best shift, to a fraction of a voxel, of the crystal or its twin."""
    flipped = np.roll(crystal[::-1, ::-1, ::-1], [1 - n % 2 for n in crystal.shape], (0, 1, 2))
    return min(_nmse_shifted(truth, crystal), _nmse_shifted(truth, flipped.conj()))


def nmse_forbidden(truth: Complex, crystal: Complex) -> float:
    """Return `nmse` of the conjugated or inverted crystal, which a correct result must not resemble."""
    return nmse(truth, crystal.conj())


def _nmse_shifted(truth: Complex, crystal: Complex) -> float:
    """Return 1 - |correlation|^2 at the best shift, refined from the best shift by whole voxels."""
    spectrum = fft.fftn(truth) * fft.fftn(crystal).conj()
    coarse = np.abs(fft.ifftn(spectrum))
    best = np.array(np.unravel_index(coarse.argmax(), coarse.shape), dtype=float)
    norm = np.linalg.norm(truth) * np.linalg.norm(crystal)
    frequencies = [fft.fftfreq(n) for n in truth.shape]

    def correlation(shift: NDArray[np.float64]) -> float:
        """Return |correlation| at a shift [voxels], from 0 to 1."""
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
