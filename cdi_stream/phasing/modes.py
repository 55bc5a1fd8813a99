"""Mean and orthogonal modes of several aligned crystals of the same measurement.

Crystals from different starts agree on the features that the data determine.  Crystals are ``(n, *shape)``, aligned by
`cdi_stream.phasing.align`.  Weights ``(n,)`` are scaled to a sum of one; None weighs all crystals equally.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cdi_stream.errors import InputError

Weights = Tensor | Sequence[float] | None

_BLOCK = 1 << 18
"""Voxels that are converted to double precision at a time; limits the memory."""
_TINY = 1e-30
"""Smallest divisor; avoids divisions by zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes:
    """Orthogonal modes ``modes (n, *shape)``, strongest first, and the share of the power of each, ``shares (n,)``.

    The powers of all modes sum to the mean power of the crystals, so that the first mode is close to the mean crystal.
    """

    modes: Tensor
    shares: Tensor


def mean_crystal(crystals: Tensor, weights: Weights = None) -> Tensor:
    """Return the weighted mean ``(*shape)`` of crystals ``(n, *shape)``."""
    return _combine(crystals, _normalised(crystals, weights))


def modes(crystals: Tensor, weights: Weights = None) -> Modes:
    """Return the orthogonal modes of crystals ``(n, *shape)``, from a singular value decomposition.

    With x_i the crystals times sqrt(w_i), G_ij = <x_j, x_i> = U diag(s^2) U^H; mode k = sum_i U*_ik x_i has the
    power s_k^2.  The phase of each mode is such that the mean crystal is a sum of modes with factors >= 0.
    Favre-Nicolin et al. (2020), J. Appl. Cryst. 53, 1404, doi:10.1107/S1600576720010985.  Masto et al.
    (2025), arXiv:2507.06644, doi:10.48550/arXiv.2507.06644, use them on their best runs.

    Raises
    ------
    InputError
        If the weights are not one per crystal, if one is negative, or if all are zero.
    """
    root = _normalised(crystals, weights).sqrt()
    power, vectors = torch.linalg.eigh(_gram(crystals) * root[:, None] * root)
    power, vectors = power.flip(0).clamp_min(0), vectors.flip(1)
    to_mean = (root.to(vectors) @ vectors).angle()
    vectors = vectors.conj() * root[:, None] * torch.polar(torch.ones_like(to_mean), to_mean)
    return Modes(modes=_combine(crystals, vectors.T), shares=power / power.sum().clamp_min(_TINY))


def mode_shares(crystals: Tensor, weights: Weights = None) -> Tensor:
    """Return the shares of `modes` alone, ``(n,)``, strongest first."""
    root = _normalised(crystals, weights).sqrt()
    power = torch.linalg.eigvalsh(_gram(crystals) * root[:, None] * root).flip(0).clamp_min(0)
    result: Tensor = power / power.sum().clamp_min(_TINY)
    return result


def spread(crystals: Tensor, weights: Weights = None) -> float:
    """Return how much crystals ``(n, *shape)`` differ, 0 to 1; 0 if all agree.

    1 - weighted mean of |<x_i, m>| / (|x_i| |m|), where m is the mean crystal; a crystal of zeros has the overlap 0.
    """
    share = _normalised(crystals, weights)
    gram = _gram(crystals)
    overlap = (gram @ share.to(gram)).abs()
    power = gram.diagonal().real * (share.to(gram) @ gram @ share.to(gram)).real
    return max(float(1 - (share * overlap / power.clamp_min(_TINY).sqrt()).sum()), 0.0)


def _normalised(crystals: Tensor, weights: Weights) -> Tensor:
    n = len(crystals)
    values = torch.ones(n) if weights is None else torch.as_tensor(weights)
    share = values.to(crystals.device, torch.float64)
    if share.shape != (n,) or not bool((share >= 0).all() and share.sum() > 0):
        raise InputError(f"weights: expected {n} numbers >= 0, one per crystal and not all zero, got {weights}")
    return share / share.sum()


def _gram(crystals: Tensor) -> Tensor:
    """Return G_ij = sum x_i x_j^*, ``(n, n)`` complex128, summed in blocks of `_BLOCK` voxels."""
    total = torch.zeros((), dtype=torch.complex128, device=crystals.device)
    for block in crystals.flatten(1).split(_BLOCK, dim=1):
        part = block.to(torch.complex128)
        total = total + part @ part.conj().T
    return total


def _combine(crystals: Tensor, factors: Tensor) -> Tensor:
    """Return the sums over crystals times factors ``(..., n)``: ``(..., *shape)``."""
    result: Tensor = torch.tensordot(factors.to(crystals.dtype), crystals, dims=1)
    return result
