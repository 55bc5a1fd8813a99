"""Refinement of crystals by gradients on their voxels: Adam as in Chan et al. (2021), and the exact fit without noise.

Both yield after every step, as `cdi_stream.phasing.engine.run` does.  The starts of a batch are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cdi_stream.phasing.blurred import FAINTEST
from cdi_stream.phasing.engine import Batch, run
from cdi_stream.phasing.measures import chi2, chi2_floor
from cdi_stream.phasing.projections import Measurement, expected_counts, modelled_magnitude, reciprocal
from cdi_stream.phasing.steps import Cycles, descent, recipe_of
from cdi_stream.phasing.support import grow, threshold_support
from cdi_stream.phasing.tuning import TUNING

_FEEDBACK = recipe_of(None, Cycles("HIO", 300), Cycles("ER", 20))
"""Recipe of one round of the exact polish: long feedback in a support that stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam:
    """Settings of the refinement of Chan et al. (2021), Appl. Phys. Rev. 8, 021407, doi:10.1063/5.0031486.

    Adam changes real and imaginary parts of crystals that are scaled to a largest amplitude of 1.  The loss is the sum
    of squared differences of magnitudes, each divided by its maximum.

    Parameters
    ----------
    steps
        Number of steps.
    rate
        Learning rate of Adam.
    every
        Smallest number of steps between two updates of the support.
    fall
        Share by which the loss must have fallen since the last update.
    threshold, sigma_vox
        Threshold of the support, as a share of the largest blurred amplitude, and standard deviation of the blur
        [voxels].
    """

    steps: int = 1000
    rate: float = 0.01
    every: int = 50
    fall: float = 0.1
    threshold: float = 0.15
    sigma_vox: float = 1.0


def is_without_noise(
    data: Measurement,
    batch: Batch,
    margin: float = TUNING.noise_free_margin,
    is_over: Callable[[], bool] = lambda: False,
) -> bool:
    """Return whether the data have no counting noise, as simulated data may; `polish_exact` is for such data.

    True if chi2, after a short descent in a looser support, is below ``margin`` times the value that counting noise
    would leave to the true crystal.  False if the support has enough free numbers to fit the noise, and if ``is_over``
    becomes true before the answer is known.
    """
    end = batch
    if fits_noise(_with_loose_support(batch, data).support, data):
        return False
    for end in run(descent(TUNING.noise_test_steps), data, _with_loose_support(batch, data)):
        if is_over():
            return False
    model = modelled_magnitude(end.crystal, data)
    misfit, floor = (measure(model, data.magnitude, data.valid) for measure in (chi2, chi2_floor))
    return bool((misfit < margin * floor).any())


def fits_noise(support: Tensor, data: Measurement) -> bool:
    """Return whether the free numbers of a support, two per voxel, are enough to fit the noise of the data too."""
    return 2 * float(support.float().mean()) > TUNING.overfitting_share * float(data.valid.float().mean())


def polish_exact(data: Measurement, start: Batch, rounds: int = 3) -> Iterator[Batch]:
    """Fit data without noise to the limit of float32, from crystals with an NMSE below 0.05; yield after every cycle.

    A tight support cuts the faint rim of the crystal, which limits chi2.  In a looser support, descent stops at false
    minima where faint parts of the field have the wrong sign; feedback (HIO) leaves them.  Each round is feedback and
    then descent: chi2 of simulated crystals at 64^3 falls from 1e-2 to below 1e-7 in one or two rounds.  Data with
    counting noise would be overfitted: see `is_without_noise`.
    """
    batch = _with_loose_support(start, data)
    for _ in range(rounds):
        feedback = batch
        for feedback in run(_FEEDBACK, data, batch):
            yield feedback
        for batch in run(descent(TUNING.exact_descent_steps), data, feedback):
            yield batch


def _with_loose_support(batch: Batch, data: Measurement) -> Batch:
    return replace(batch, support=grow(batch.support, TUNING.rim_vox, data.n_axes))


def refine_by_adam(data: Measurement, start: Batch, settings: Adam) -> Iterator[Batch]:
    """Refine crystals ``(starts, *shape)`` from ``start``, which stays as it is; yield after every step.

    Crystals are zero outside their supports.  The iteration may be ended at any step.
    """
    axes = tuple(range(1, start.crystal.ndim))
    crystal, support = start.result, start.support
    crystal = (crystal / crystal.abs().amax(axes, keepdim=True).clamp_min(FAINTEST)).requires_grad_(True)
    adam = torch.optim.Adam([crystal], lr=settings.rate)
    steps_since, reference = torch.zeros(len(start), device=crystal.device), None
    for step in range(1, settings.steps + 1):
        losses, scale = _normalised_loss(crystal * support, data)
        adam.zero_grad()
        losses.sum().backward()
        adam.step()
        losses, steps_since = losses.detach(), steps_since + 1
        reference = losses if reference is None else reference
        is_due = (steps_since >= settings.every) & (losses <= (1 - settings.fall) * reference)
        if bool(is_due.any()):
            update = threshold_support(crystal.detach().abs(), settings.threshold, settings.sigma_vox)
            support = torch.where(_per_start(is_due, support), update, support)
            reference, steps_since = torch.where(is_due, losses, reference), steps_since * ~is_due
        yield Batch(crystal=crystal.detach() * support * scale, support=support, cycle=step)


def _normalised_loss(crystal: Tensor, data: Measurement) -> tuple[Tensor, Tensor]:
    """Return the sum of squares of |F| / max |F| - sqrt n / max sqrt n, ``(starts,)``, and the ratio of the maxima."""
    expected = expected_counts(reciprocal(crystal, data.n_axes), data).clamp_min(FAINTEST)
    model, measured = (torch.where(data.valid, values, 0.0) for values in (expected.sqrt(), data.magnitude))
    largest, brightest = model.amax(tuple(range(1, model.ndim)), keepdim=True), measured.amax()
    losses = (model / largest - measured / brightest).square().flatten(1).sum(1)
    return losses, (brightest / largest).detach()


def _per_start(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (like.ndim - 1))
