"""Losses of the supervised training, per crystal of a batch; ``n_axes`` are the last axes, three or two.

Wu et al. (2021), npj Comput. Mater. 7, 175, equation 6, weighs three terms: amplitude, phase and
the correlation of diffraction magnitudes.  Two changes keep the terms meaningful: amplitude and
phase are compared as one complex crystal, blind to the global phase, and each crystal is compared
with the truth and with its twin, because the data cannot tell them apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cdi_stream.numerics.fourier import to_reciprocal, twin


def pad_to_double(crystal: Tensor, n_axes: int = 3) -> Tensor:
    """Embed ``(..., n, n, n)`` into ``(..., 2n, 2n, 2n)``, origin voxel onto origin voxel."""
    half = crystal.shape[-1] // 2
    return torch.nn.functional.pad(crystal, [half] * (2 * n_axes))


def pearson(first: Tensor, second: Tensor, n_axes: int = 3) -> Tensor:
    """Ordinary correlation coefficient over the last axes (the paper's is biased)."""
    axes = _last(n_axes)
    a = first - first.mean(axes, keepdim=True)
    b = second - second.mean(axes, keepdim=True)
    return (a * b).sum(axes) / (a.square().sum(axes) * b.square().sum(axes)).clamp_min(1e-30).sqrt()


def chi2(model_magnitude: Tensor, magnitude: Tensor, n_axes: int = 3) -> Tensor:
    """Sum of squared magnitude differences over the sum of intensities, one fitted scale (Wu 2021, L4)."""
    axes = _last(n_axes)
    scale = (model_magnitude * magnitude).sum(axes, keepdim=True)
    scale = scale / model_magnitude.square().sum(axes, keepdim=True).clamp_min(1e-30)
    return (scale * model_magnitude - magnitude).square().sum(axes) / magnitude.square().sum(axes)


def crystal_mismatch(predicted: Tensor, truth: Tensor, n_axes: int = 3) -> Tensor:
    """1 - |correlation| of complex crystals plus the relative error of amplitudes, ``(batch,)``."""
    axes = _last(n_axes)
    overlap = (predicted.conj() * truth).sum(axes).abs()
    norms = (predicted.abs().square().sum(axes) * truth.abs().square().sum(axes)).sqrt()
    amplitude_error = (predicted.abs() - truth.abs()).square().sum(axes) / truth.abs().square().sum(axes)
    return 1 - overlap / norms.clamp_min(1e-12) + amplitude_error


def mismatch_anywhere(predicted: Tensor, truth: Tensor) -> Tensor:
    """1 - |correlation| of complex crystals, and 1 - that of amplitudes, with the truth or its twin, ``(batch,)``.

    Both where the complex crystals agree best among all shifts by whole voxels: the data know of none of the three.
    """
    crystal, amplitude = overlaps(predicted, truth)
    return 2 - (crystal + amplitude)


def overlaps(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """|Correlation| of crystals and of their amplitudes, ``(batch,)``, as the truth or its twin lies best."""
    best = [_best_overlap(predicted, one) for one in (truth, twin(truth))]
    crystals, amplitudes = (torch.stack(part) for part in zip(*best, strict=True))
    nearest = crystals.argmax(0, keepdim=True)
    return crystals.gather(0, nearest)[0], amplitudes.gather(0, nearest)[0]


def _best_overlap(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Correlation of crystals at the best shift, and of their amplitudes there."""
    crystal = _correlations(predicted, truth)
    amplitude = _correlations(predicted.abs().to(predicted.dtype), truth.abs().to(truth.dtype))
    best = crystal.argmax(1, keepdim=True)
    return crystal.gather(1, best)[:, 0], amplitude.gather(1, best)[:, 0]


def _correlations(predicted: Tensor, truth: Tensor) -> Tensor:
    """|Correlation| of crystals ``(batch, n, n, n)`` at every shift, ``(batch, n**3)``."""
    axes = _last(3)
    product = torch.fft.fftn(predicted, dim=axes) * torch.fft.fftn(truth, dim=axes).conj()
    norms = (predicted.abs().square().sum(axes) * truth.abs().square().sum(axes)).clamp_min(1e-24).sqrt()
    result: Tensor = torch.fft.ifftn(product, dim=axes).flatten(1).abs() / norms[:, None]
    return result


def supervised(amplitude: Tensor, phase: Tensor, truth: Tensor) -> Tensor:
    """Mean loss of a batch: crystal (truth or twin, the nearer) and diffraction, weighed equally."""
    n_axes = truth.ndim - 1
    predicted = torch.polar(amplitude, phase)
    mismatches = (crystal_mismatch(predicted, one, n_axes) for one in (truth, twin(truth, n_axes)))
    model, data = (to_reciprocal(pad_to_double(one, n_axes), n_axes).abs() for one in (predicted, truth))
    nearest = torch.minimum(*mismatches)
    return (nearest + (1 - pearson(model, data, n_axes)) + chi2(model, data, n_axes)).mean()


def incoherence(phase: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted coherent average of phase differences in reciprocal space, ``(batch,)``: 0 is perfect.

    Masto et al. (2025), equations 1 and 2, over sum of weights instead of number of voxels, so that the best value is
    0; blind to an offset, to wraps, and to the sign of all phases together.  ``truth`` and ``phase`` in radians.
    """
    axes = _last(truth.ndim - 1)
    coherent = [
        (weight * torch.polar(torch.ones_like(phase), sign * truth - phase)).sum(axes).abs() for sign in (1.0, -1.0)
    ]
    return 1 - torch.maximum(*coherent) / weight.sum(axes).clamp_min(1e-30)


def _last(n_axes: int) -> tuple[int, ...]:
    return tuple(range(-n_axes, 0))
