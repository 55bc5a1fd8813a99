"""Train a network on one measured volume without a known truth.

Source: Wu et al., npj Computational Materials 7, 175 (2021), doi:10.1038/s41524-021-00644-z, equations 7 and 8.  The
weights are changed until the diffraction of the network's crystal agrees with the measurement.

    l_u = (beta_1 L_3 + beta_2 L_4) / (beta_1 + beta_2),   beta_2 = 1
    beta_1 = a_0 k/lambda (n/lambda)^(k-1) exp(-(n/lambda)^k) + a_1,   k = 1, lambda = 0.5

L_3 is one minus the correlation of magnitudes, L_4 the chi2 of magnitudes, both over the valid voxels.  In the paper
beta_1 falls from 1e4 to 1 during the run, and the scale of n is not given; here n runs from 0 to `SPAN`.  L_3 uses
Pearson's correlation instead of the paper's, and the scale of the model is fitted, since magnitudes are normalised.
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
"""Value of n in equation 8 at the end of the run."""

_BEGIN, _END, _LAMBDA = 1e4, 1.0, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsupervisedSchedule:
    """Steps and learning rates of two alternating optimisers, Adam first, as in the paper.

    The paper's rate of 0.006 is used for SGD.  Adam needs a lower rate: on the demonstration volume 0.006 raised chi2
    from 0.085 to 0.6 within ten steps, while 0.0005 lowered it to 0.035 in fifty steps.

    Parameters
    ----------
    steps
        Number of steps in all.
    adam_rate, sgd_rate
        Learning rates at the start.
    change_every
        Steps between two changes of the optimiser.
    decay
        Factor of the learning rate at every change.
    """

    steps: int = 400
    adam_rate: float = 0.0005
    sgd_rate: float = 0.006
    change_every: int = 200
    decay: float = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRefinement:
    """Best crystal of the training, complex ``(n/2, n/2, n/2)`` or ``(n, n, n)``, with its loss terms.

    ``steps`` is the step of the best crystal, ``of_steps`` the number of all steps.
    """

    crystal: Tensor
    chi2: float
    correlation: float
    steps: int
    of_steps: int


def beta_1(progress: float) -> float:
    """Return the weight of the correlation term after a share ``progress`` of the run (equation 8)."""
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
) -> WeightRefinement:
    """Train ``network`` on one volume and return the crystal of the step with the lowest chi2.

    Parameters
    ----------
    network
        Network from magnitudes to amplitude and phase; its weights are changed.
    magnitude
        Magnitudes ``(n, n, n)``, maximum 1.
    valid
        True where the magnitude is known; the model is free elsewhere.
    schedule
        Steps and learning rates.
    is_over
        Called after every step; True ends the training.  It may block, or abandon the training by an exception.
    watch
        Called after every step with the number of the step, from 1, its loss, its chi2 and its correlation.
    passed
        Returns the share of the time limit that has passed; 0 where there is no time limit.
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
    return WeightRefinement(crystal=best[0], chi2=best[1], correlation=best[2], steps=best[3], of_steps=step + 1)


def _optimizer(network: nn.Module, schedule: UnsupervisedSchedule, turn: int) -> torch.optim.Optimizer:
    fall = schedule.decay**turn
    if turn % 2:
        return torch.optim.SGD(network.parameters(), lr=schedule.sgd_rate * fall)
    return torch.optim.Adam(network.parameters(), lr=schedule.adam_rate * fall)
