"""Losses of the supervised training, for each crystal of a batch; ``n_axes`` is the number of its axes, three or two.

Wu et al., npj Computational Materials 7, 175 (2021), doi:10.1038/s41524-021-00644-z, equation 6, weighs three terms:
amplitude, phase and the correlation of diffraction magnitudes.  Two changes were made here.  Amplitude and phase are
compared as one complex crystal, up to a global phase.  Each crystal is compared with the truth and with its twin, since
the data cannot distinguish them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cdi_stream.numerics.fourier import to_reciprocal, twin


def pad_to_double(crystal: Tensor, n_axes: int = 3) -> Tensor:
    """Return ``(..., n, n, n)`` padded to ``(..., 2n, 2n, 2n)``, origin voxel onto origin voxel."""
    half = crystal.shape[-1] // 2
    return torch.nn.functional.pad(crystal, [half] * (2 * n_axes))


def pearson(first: Tensor, second: Tensor, n_axes: int = 3) -> Tensor:
    """Return Pearson's correlation coefficient over the last axes; the coefficient of Wu et al. (2021) is biased."""
    axes = _last(n_axes)
    a = first - first.mean(axes, keepdim=True)
    b = second - second.mean(axes, keepdim=True)
    return (a * b).sum(axes) / (a.square().sum(axes) * b.square().sum(axes)).clamp_min(1e-30).sqrt()


def chi2(model_magnitude: Tensor, magnitude: Tensor, n_axes: int = 3) -> Tensor:
    """Return the sum of squared magnitude differences over the sum of intensities, with one fitted scale.

    Source: loss L4 of Wu et al. (2021), see the module.
    """
    axes = _last(n_axes)
    scale = (model_magnitude * magnitude).sum(axes, keepdim=True)
    scale = scale / model_magnitude.square().sum(axes, keepdim=True).clamp_min(1e-30)
    return (scale * model_magnitude - magnitude).square().sum(axes) / magnitude.square().sum(axes)


def crystal_mismatch(predicted: Tensor, truth: Tensor, n_axes: int = 3) -> Tensor:
    """Return 1 - |correlation| of complex crystals plus the relative squared error of amplitudes, ``(batch,)``."""
    axes = _last(n_axes)
    overlap = (predicted.conj() * truth).sum(axes).abs()
    norms = (predicted.abs().square().sum(axes) * truth.abs().square().sum(axes)).sqrt()
    amplitude_error = (predicted.abs() - truth.abs()).square().sum(axes) / truth.abs().square().sum(axes)
    return 1 - overlap / norms.clamp_min(1e-12) + amplitude_error


def mismatch_anywhere(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return 2 - |correlation| of complex crystals - correlation of amplitudes, ``(batch,)``.

    Both correlations are with the truth or its twin, at the shift by whole voxels where the complex crystals
    agree best.  The data determine neither twin, nor shift, nor global phase.
    """
    crystal, amplitude = overlaps(predicted, truth)
    return 2 - (crystal + amplitude)


def overlaps(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return |correlation| of crystals and of amplitudes, ``(batch,)``, at the best shift of the truth or its twin."""
    best = [_best_overlap(predicted, image) for image in (truth, twin(truth))]
    crystals, amplitudes = (torch.stack(part) for part in zip(*best, strict=True))
    index = crystals.argmax(0, keepdim=True)
    return crystals.gather(0, index)[0], amplitudes.gather(0, index)[0]


def _best_overlap(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return |correlation| of crystals at the best shift, and of amplitudes at the same shift."""
    crystal = _correlations(predicted, truth)
    amplitude = _correlations(predicted.abs().to(predicted.dtype), truth.abs().to(truth.dtype))
    best = crystal.argmax(1, keepdim=True)
    return crystal.gather(1, best)[:, 0], amplitude.gather(1, best)[:, 0]


def _correlations(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return |correlation| of crystals ``(batch, n, n, n)`` at every shift by whole voxels, ``(batch, n**3)``."""
    axes = _last(3)
    product = torch.fft.fftn(predicted, dim=axes) * torch.fft.fftn(truth, dim=axes).conj()
    norms = (predicted.abs().square().sum(axes) * truth.abs().square().sum(axes)).clamp_min(1e-24).sqrt()
    result: Tensor = torch.fft.ifftn(product, dim=axes).flatten(1).abs() / norms[:, None]
    return result


def supervised_loss(amplitude: Tensor, phase: Tensor, truth: Tensor) -> Tensor:
    """Return the mean loss of a batch: the smaller mismatch with truth and twin, and the mismatch of the diffraction.

    ``amplitude``, ``phase`` [rad] and the complex ``truth`` have the shape ``(batch, n, ...)``; terms weigh equally.
    """
    n_axes = truth.ndim - 1
    predicted = torch.polar(amplitude, phase)
    mismatches = (crystal_mismatch(predicted, image, n_axes) for image in (truth, twin(truth, n_axes)))
    model, data = (to_reciprocal(pad_to_double(crystal, n_axes), n_axes).abs() for crystal in (predicted, truth))
    mismatch = torch.minimum(*mismatches)
    return (mismatch + (1 - pearson(model, data, n_axes)) + chi2(model, data, n_axes)).mean()


def incoherence(phase: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Return 1 - |weighted mean of exp(i difference)| of phases in reciprocal space, ``(batch,)``; 0 is perfect.

    The value does not depend on an offset, on wraps, or on the common sign of all phases.  Source: Masto et al. (2025),
    arXiv:2507.06644, equations 1 and 2, divided by the sum of weights instead of the number of voxels.

    Parameters
    ----------
    phase, truth
        Phases [rad].
    weight
        Weight of each voxel, >= 0.
    """
    axes = _last(truth.ndim - 1)
    coherence = [
        (weight * torch.polar(torch.ones_like(phase), sign * truth - phase)).sum(axes).abs() for sign in (1.0, -1.0)
    ]
    return 1 - torch.maximum(*coherence) / weight.sum(axes).clamp_min(1e-30)


def _last(n_axes: int) -> tuple[int, ...]:
    return tuple(range(-n_axes, 0))
