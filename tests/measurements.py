"""Simulated measurements as phasing takes them, and budgets that no clock decides."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy import ndimage

from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.align import align
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.measures import nmse
from cdi_stream.phasing.projections import Measurement
from tests.bench.crystals import Case, crystal, measured


def unlimited() -> Deadline:
    """Return a budget whose clock stands still: only the numbers of starts and cycles end a search."""
    return Deadline(60.0, clock=lambda: 0.0)


def spent() -> Deadline:
    """Return a budget that is over before the first cycle."""
    return Deadline(0.0, begin_s=-1e9)


def ordered(array: np.ndarray) -> torch.Tensor:
    """Return an array in Fourier order, its origin at index 0 instead of N//2."""
    return to_fourier_order(torch.from_numpy(array)).contiguous()


def data_of(counts: np.ndarray, valid: np.ndarray | None = None) -> Measurement:
    """Return the measurement of counts whose origin is at N//2."""
    valid = np.ones(counts.shape, dtype=bool) if valid is None else valid
    magnitude = ordered(counts.astype(np.float32)).sqrt()
    return Measurement(magnitude=magnitude, magnitude_scale=torch.ones_like(magnitude), valid=ordered(valid))


@cache
def case_of(case: Case) -> tuple[Measurement, torch.Tensor]:
    """Return the measurement of a simulated case, and its crystal in Fourier order."""
    truth = crystal(case)
    return data_of(*measured(case, truth)), ordered(truth)


def blurred_of(case: Case, width_vox: float) -> tuple[Measurement, torch.Tensor]:
    """Return the measurement of a case whose intensity scipy blurs by a Gaussian [voxels], and its crystal."""
    truth = crystal(case)
    intensity = np.abs(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(truth)))) ** 2
    if width_vox:
        intensity = ndimage.gaussian_filter(intensity, width_vox, mode="wrap", truncate=8)
    counts = np.random.default_rng(case.seed).poisson(intensity * case.photons / intensity.sum())
    return data_of(counts), ordered(truth)


def error(reconstructed: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the normalised mean square error of a crystal, up to position, twin and global phase."""
    return float(nmse(truth, align(truth, reconstructed).crystal))
