"""Unsupervised refinement of a network on one measured volume.

Wu et al. (2021), npj Computational Materials 7, 175, doi:10.1038/s41524-021-00644-z, equations 7 and 8: the weights are
changed until the diffraction of the network's crystal agrees with the measurement; no truth is needed.

    l_u = (beta_1 L_3 + beta_2 L_4) / (beta_1 + beta_2),   beta_2 = 1
    beta_1 = a_0 k/lambda (n/lambda)^(k-1) exp(-(n/lambda)^k) + a_1,   k = 1, lambda = 0.5

L_3 is one minus the correlation of magnitudes, L_4 the chi2 of magnitudes, both over the known voxels.  The paper lets
beta_1 fall from 1e4 to 1 over the run without giving the scale of n: here n runs from 0 to `SPAN`.  L_3 is the
ordinary correlation, not the paper's, and the scale of the model is fitted, since magnitudes are normalised.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cdi_stream.networks.losses import chi2, pad_to_double, pearson
from cdi_stream.numerics.fourier import to_reciprocal

SPAN = 5.0
_BEGIN, _END, _LAMBDA = 1e4, 1.0, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsupervisedSchedule:
    """Steps of each optimiser in turn, Adam first; the rate falls by ``decay`` at each change, as in the paper.

    The paper's rate of 0.006 is kept for SGD; with Adam it throws this network's start away within ten steps (chi2
    0.085 to 0.6 on the demo's volume, where 0.0005 goes to 0.035 in fifty).
    """

    steps: int = 400
    adam_rate: float = 0.0005
    sgd_rate: float = 0.006
    change_every: int = 200
    decay: float = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """Best crystal found, ``(n/2, n/2, n/2)`` or ``(n, n, n)`` complex, with its loss terms.

    ``steps`` is the step that gave it, ``of_steps`` all of them.
    """

    crystal: Tensor
    chi2: float
    correlation: float
    steps: int
    of_steps: int


def beta_1(progress: float) -> float:
    """Weight of the correlation after a share ``progress`` of the run (equation 8)."""
    a_0 = (_BEGIN - _END) * _LAMBDA
    return a_0 / _LAMBDA * math.exp(-SPAN * progress / _LAMBDA) + _END


def refine_weights(
    network: nn.Module,
    magnitude: Tensor,
    valid: Tensor,
    schedule: UnsupervisedSchedule,
    is_over: Callable[[], bool] = lambda: False,
    watch: Callable[[int, float, float, float], None] = lambda *terms: None,
    passed: Callable[[], float] = lambda: 0.0,
) -> Refined:
    """Change ``network`` until it explains ``magnitude`` ``(n, n, n)``; the best crystal on the way is returned.

    ``valid`` is true where the magnitude is known; elsewhere the model is free.  ``is_over`` is asked after
    every step; it may hold it up, end the refinement, or abandon it by raising.  ``watch`` is told each step,
    counted from 1, with its loss, chi2 and correlation.  ``passed`` is the share of the time that has passed, where
    time will end the run before its steps do.
    """
    magnitude = torch.where(valid, magnitude, 0.0)
    best: tuple[Tensor, float, float, int] | None = None
    optimizer: torch.optim.Optimizer | None = None
    for step in range(schedule.steps):
        if optimizer is None or step % schedule.change_every == 0:
            optimizer = _optimizer(network, schedule, step // schedule.change_every)
        amplitude, phase = network(magnitude[None])
        crystal = torch.polar(amplitude[0], phase[0])
        is_half = crystal.shape != magnitude.shape
        model = to_reciprocal(pad_to_double(crystal) if is_half else crystal).abs() * valid
        misfit, correlation = chi2(model, magnitude), pearson(model, magnitude)
        weight = beta_1(max(step / schedule.steps, passed()))
        loss = (weight * (1 - correlation) + misfit) / (weight + 1)
        if best is None or misfit.item() < best[1]:
            best = crystal.detach(), misfit.item(), correlation.item(), step + 1
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        watch(step + 1, loss.item(), misfit.item(), correlation.item())
        if is_over():
            break
    assert best is not None
    return Refined(crystal=best[0], chi2=best[1], correlation=best[2], steps=best[3], of_steps=step + 1)


def _optimizer(network: nn.Module, schedule: UnsupervisedSchedule, turn: int) -> torch.optim.Optimizer:
    fall = schedule.decay**turn
    if turn % 2:
        return torch.optim.SGD(network.parameters(), lr=schedule.sgd_rate * fall)
    return torch.optim.Adam(network.parameters(), lr=schedule.adam_rate * fall)
