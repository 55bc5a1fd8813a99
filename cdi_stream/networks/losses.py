"""Losses of the supervised training, per crystal of a batch.

Wu et al. (2021), npj Comput. Mater. 7, 175, equation 6, weighs three terms: amplitude, phase and
the correlation of diffraction magnitudes.  Two changes keep the terms meaningful: amplitude and
phase are compared as one complex crystal, blind to the global phase, and each crystal is compared
with the truth and with its twin, because the data cannot tell them apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cdi_stream.fourier import to_reciprocal, twin

_AXES = (-3, -2, -1)


def pad_to_double(crystal: Tensor) -> Tensor:
    """Embed ``(..., n, n, n)`` into ``(..., 2n, 2n, 2n)``, origin voxel onto origin voxel."""
    half = crystal.shape[-1] // 2
    return torch.nn.functional.pad(crystal, [half] * 6)


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """Ordinary correlation coefficient over the last three axes (the paper's is biased)."""
    a = first - first.mean(_AXES, keepdim=True)
    b = second - second.mean(_AXES, keepdim=True)
    return (a * b).sum(_AXES) / (a.square().sum(_AXES) * b.square().sum(_AXES)).clamp_min(1e-30).sqrt()


def chi2(model_magnitude: Tensor, magnitude: Tensor) -> Tensor:
    """Sum of squared magnitude differences over the sum of intensities, one fitted scale (Wu 2021, L4)."""
    scale = (model_magnitude * magnitude).sum(_AXES) / model_magnitude.square().sum(_AXES).clamp_min(1e-30)
    residual = scale[..., None, None, None] * model_magnitude - magnitude
    return residual.square().sum(_AXES) / magnitude.square().sum(_AXES)


def crystal_mismatch(predicted: Tensor, truth: Tensor) -> Tensor:
    """1 - |correlation| of complex crystals plus the relative error of amplitudes, ``(batch,)``."""
    overlap = (predicted.conj() * truth).sum(_AXES).abs()
    norms = (predicted.abs().square().sum(_AXES) * truth.abs().square().sum(_AXES)).sqrt()
    amplitude_error = (predicted.abs() - truth.abs()).square().sum(_AXES) / truth.abs().square().sum(_AXES)
    return 1 - overlap / norms.clamp_min(1e-12) + amplitude_error


def supervised(amplitude: Tensor, phase: Tensor, truth: Tensor) -> Tensor:
    """Mean loss of a batch: crystal (truth or twin, the nearer) and diffraction, weighed equally."""
    predicted = torch.polar(amplitude, phase)
    nearest = torch.minimum(crystal_mismatch(predicted, truth), crystal_mismatch(predicted, twin(truth)))
    model, data = (to_reciprocal(pad_to_double(crystal)).abs() for crystal in (predicted, truth))
    return (nearest + (1 - pearson(model, data)) + chi2(model, data)).mean()
