"""How well a model explains the counts, and the gradients of that in closed form.

Both losses are sums over valid voxels of a function of the expected counts lambda and the counts n, zero if they
agree, so that a gradient costs no more than the model itself:

    amplitude   (sqrt lambda - sqrt n)^2        slope 1 - sqrt(n / lambda)
    poisson     lambda - n + n ln(n / lambda)   slope 1 - n / lambda

The first is the second with its variance made even: at high counts it is half of it.  Godard, Allain, Chamard and
Rodenburg (2012), Opt. Express 20, 25914, doi:10.1364/OE.20.025914.  Gradients are those of steepest ascent,
dL/dRe + i dL/dIm, twice the Wirtinger derivative by the conjugate, as torch's: dL = Re sum g* dF.  Arrays are in
Fourier order, batches ``(starts, *shape)``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cdi_stream.phasing.projections import Measurement, direct, expected_counts, reciprocal

Loss = Literal["amplitude", "poisson"]

FAINTEST = 1e-9
"""Least expected counts: keeps the slopes finite where a field passes through zero."""


def loss(field: Tensor, data: Measurement, kind: Loss = "amplitude") -> Tensor:
    """Loss of fields ``(starts, *shape)``, ``(starts,)``; differentiable.  Poisson's is half the deviance."""
    expected, counts = expected_counts(field, data).clamp_min(FAINTEST), data.magnitude.square()
    if kind == "amplitude":
        terms = (expected.sqrt() - data.magnitude).square()
    else:
        terms = expected - counts + torch.xlogy(counts, counts.clamp_min(FAINTEST) / expected)
    return torch.where(data.valid, terms, 0.0).flatten(1).sum(1)


def field_gradient(field: Tensor, data: Measurement, kind: Loss = "amplitude") -> Tensor:
    """Gradient of `loss` by the fields, ``(starts, *shape)``: 2 F K^T[gain^2 slope], K the coherence kernel."""
    slope = _slope(expected_counts(field, data).clamp_min(FAINTEST), data.magnitude, kind)
    weight = data.magnitude_scale.square() * torch.where(data.valid, slope, 0.0)
    if data.coherence is not None:
        axes = tuple(range(-data.n_axes, 0))
        spectrum = torch.fft.rfftn(weight, dim=axes) * data.coherence.conj()
        weight = torch.fft.irfftn(spectrum, s=data.magnitude.shape, dim=axes)
    return 2 * weight * field


def crystal_gradient(crystal: Tensor, data: Measurement, kind: Loss = "amplitude") -> Tensor:
    """Gradient of the loss by the voxels of crystals ``(starts, *shape)``; one pair of transforms."""
    return direct(field_gradient(reciprocal(crystal, data.n_axes), data, kind), data.n_axes)


def _slope(expected: Tensor, magnitude: Tensor, kind: Loss) -> Tensor:
    ratio = magnitude / expected.sqrt()
    return 1 - (ratio if kind == "amplitude" else ratio.square())
