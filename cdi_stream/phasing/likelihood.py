"""Losses between modelled and measured counts, with their gradients in closed form.

Both losses are sums over valid voxels of a function of the expected counts lambda and the counts n.  They are zero
where lambda = n.  A gradient costs no more than the model itself:

    amplitude   (sqrt lambda - sqrt n)^2        slope 1 - sqrt(n / lambda)
    poisson     lambda - n + n ln(n / lambda)   slope 1 - n / lambda

At high counts the amplitude loss is half of the Poisson loss.  Godard, Allain, Chamard and
Rodenburg (2012), Opt. Express 20, 25914, doi:10.1364/OE.20.025914.  A gradient is g = dL/dRe + i dL/dIm,
the direction of steepest ascent, as torch defines it: dL = Re sum g* dF, and g is twice the Wirtinger derivative by the
conjugate.  Arrays are in Fourier order, batches ``(starts, *shape)``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cdi_stream.phasing.blurred import FAINTEST
from cdi_stream.phasing.convolution import convolve
from cdi_stream.phasing.frames import along_first, frame_matrix
from cdi_stream.phasing.projections import Measurement, direct, expected_counts, reciprocal

Loss = Literal["amplitude", "poisson"]


def loss(field: Tensor, data: Measurement, kind: Loss = "amplitude") -> Tensor:
    """Return the loss ``(starts,)`` of fields ``(starts, *shape)``; differentiable.  Poisson: half the deviance."""
    expected, counts = expected_counts(field, data).clamp_min(FAINTEST), data.magnitude.square()
    if kind == "amplitude":
        terms = (expected.sqrt() - data.magnitude).square()
    else:
        terms = expected - counts + torch.xlogy(counts, counts.clamp_min(FAINTEST) / expected)
    return torch.where(data.valid, terms, 0.0).flatten(1).sum(1)


def field_gradient(field: Tensor, data: Measurement, kind: Loss = "amplitude") -> Tensor:
    """Return the gradient of `loss` by the fields F, ``(starts, *shape)``.

    2 F K^T P^T[magnitude_scale^2 slope], where K is the convolution with the coherence kernel and P takes intensities
    from even steps to the places of the frames.
    """
    expected = expected_counts(field, data)
    slope = _slope(expected.clamp_min(FAINTEST), data.magnitude, kind)
    weight = data.magnitude_scale.square() * torch.where(data.valid & (expected > FAINTEST), slope, 0.0)
    if data.frame_shifts is not None:
        weight = along_first(frame_matrix(data.frame_shifts).T, weight, data.n_axes)
    if data.coherence is not None:
        weight = convolve(weight, data.coherence.conj(), data.n_axes)
    return 2 * weight * field


def crystal_gradient(crystal: Tensor, data: Measurement, kind: Loss = "amplitude") -> Tensor:
    """Return the gradient of the loss by the voxels of crystals ``(starts, *shape)``; takes two transforms."""
    return direct(field_gradient(reciprocal(crystal, data.n_axes), data, kind), data.n_axes)


def _slope(expected: Tensor, magnitude: Tensor, kind: Loss) -> Tensor:
    ratio = magnitude / expected.sqrt()
    return 1 - (ratio if kind == "amplitude" else ratio.square())
