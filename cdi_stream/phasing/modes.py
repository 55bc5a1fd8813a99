"""What several aligned crystals have in common: their mean, and their orthogonal modes.

Runs from different starts agree on what the data determine.  Averages are over crystals ``(n, *shape)`` that
`cdi_stream.phasing.align` has laid on one another, with weights ``(n,)`` of sum one after scaling; None weighs
all alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cdi_stream.errors import InputError

Weights = Tensor | Sequence[float] | None

_BLOCK = 1 << 18
_TINY = 1e-30


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes:
    """Orthogonal ``modes (n, *shape)``, the strongest first, and the ``shares (n,)`` of power they carry.

    The first is close to the mean crystal, in amplitude too: the powers of all modes sum to the mean power of the
    crystals.
    """

    modes: Tensor
    shares: Tensor


def mean_crystal(crystals: Tensor, weights: Weights = None) -> Tensor:
    """Weighted mean of crystals ``(n, *shape)``: ``(*shape)``."""
    return _combine(crystals, _normalised(crystals, weights))


def modes(crystals: Tensor, weights: Weights = None) -> Modes:
    """Decompose crystals ``(n, *shape)`` into orthogonal modes by singular values, largest first.

    With x_i the crystals times sqrt(w_i), G_ij = <x_j, x_i> = U diag(s^2) U^H; mode k = sum_i U*_ik x_i has the
    power s_k^2.  The phase of each mode is such that the mean crystal is a sum of modes with factors >= 0.
    Favre-Nicolin et al. (2020), J. Appl. Cryst. 53, 1404, doi:10.1107/S1600576720010985; used by Masto et al.
    (2025) on the best runs.

    Raises
    ------
    InputError
        If the weights are not one per crystal, none below zero, some above.
    """
    root = _normalised(crystals, weights).sqrt()
    power, vectors = torch.linalg.eigh(_gram(crystals) * root[:, None] * root)
    power, vectors = power.flip(0).clamp_min(0), vectors.flip(1)
    to_mean = (root.to(vectors) @ vectors).angle()
    vectors = vectors.conj() * root[:, None] * torch.polar(torch.ones_like(to_mean), to_mean)
    return Modes(modes=_combine(crystals, vectors.T), shares=power / power.sum().clamp_min(_TINY))


def spread(crystals: Tensor, weights: Weights = None) -> float:
    """How far runs differ: 1 - weighted mean of |<x_i, m>| / (|x_i| |m|), m the mean crystal; 0 if all agree.

    Crystals are ``(n, *shape)``; a crystal of zeros counts as wholly different.
    """
    share = _normalised(crystals, weights)
    gram = _gram(crystals)
    overlap = (gram @ share.to(gram)).abs()
    power = gram.diagonal().real * (share.to(gram) @ gram @ share.to(gram)).real
    return max(float(1 - (share * overlap / power.clamp_min(_TINY).sqrt()).sum()), 0.0)


def _normalised(crystals: Tensor, weights: Weights) -> Tensor:
    n = len(crystals)
    given = torch.ones(n) if weights is None else torch.as_tensor(weights)
    share = given.to(crystals.device, torch.float64)
    if share.shape != (n,) or not bool((share >= 0).all() and share.sum() > 0):
        raise InputError(f"weights: expected one for each of {n} crystals, none below zero, some above, got {weights}")
    return share / share.sum()


def _gram(crystals: Tensor) -> Tensor:
    """G_ij = sum x_i x_j^*, ``(n, n)`` complex128, summed in blocks so that only a block is in double precision."""
    total = torch.zeros((), dtype=torch.complex128, device=crystals.device)
    for block in crystals.flatten(1).split(_BLOCK, dim=1):
        part = block.to(torch.complex128)
        total = total + part @ part.conj().T
    return total


def _combine(crystals: Tensor, factors: Tensor) -> Tensor:
    """Sums of crystals times factors ``(..., n)``."""
    result: Tensor = torch.tensordot(factors.to(crystals.dtype), crystals, dims=1)
    return result
