"""Refinement of crystals by gradients on their voxels: Adam as in Chan et al. (2021), and descent with momentum.

`refine_object` yields after every step, as `cdi_stream.phasing.engine.run` does.  The starts of a batch are
independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cdi_stream.phasing.engine import Batch, run
from cdi_stream.phasing.likelihood import FAINTEST, field_gradient
from cdi_stream.phasing.measures import chi2, chi2_floor
from cdi_stream.phasing.projections import (
    Measurement,
    Projector,
    direct,
    expected_counts,
    modelled_magnitude,
    reciprocal,
)
from cdi_stream.phasing.shrink_wrap import ShrinkWrap
from cdi_stream.phasing.steps import Cycles, recipe_of
from cdi_stream.phasing.support import Limits, grow, threshold_support, update_support
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratedDescent:
    """Settings of the descent of the amplitude loss with momentum; only ``shrink_wrap`` changes the support.

    A step is the gradient inside the support over 2 max(magnitude_scale^2), the longest step that certainly lowers the
    loss: the loss lies below a paraboloid of that curvature, since sqrt(expected counts) is convex in the field.  Where
    the magnitude scale is the same for all voxels, a step is a cycle of error reduction.  The
    momentum k / (k + 3) is that of Nesterov (1983), Dokl. Akad. Nauk SSSR 269, 543, in the form of Beck and Teboulle
    (2009), SIAM J. Imaging Sci. 2, 183, doi:10.1137/080716542.  It is set to zero where it points uphill: O'Donoghue
    and Candes (2015), Found. Comput. Math. 15, 715, doi:10.1007/s10208-013-9150-3.
    """

    steps: int = 200
    shrink_wrap: ShrinkWrap | None = None


def refine_object(
    data: Measurement, start: Batch, settings: Adam | AcceleratedDescent, limits: Limits | None = None
) -> Iterator[Batch]:
    """Refine crystals ``(starts, *shape)`` from ``start``, which stays as it is; yield after every step.

    Crystals are zero outside their supports.  ``limits`` are those of supports that `AcceleratedDescent` updates;
    without limits by default.  The iteration may be ended at any step.
    """
    if isinstance(settings, Adam):
        return _adam_steps(data, start, settings)
    return _accelerated_steps(data, start, settings, limits or Limits())


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
    for end in refine_object(data, _with_loose_support(batch, data), AcceleratedDescent(steps=TUNING.noise_test_steps)):
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
        for batch in refine_object(data, feedback, AcceleratedDescent(steps=TUNING.exact_descent_steps)):
            yield batch


def _with_loose_support(batch: Batch, data: Measurement) -> Batch:
    return replace(batch, support=grow(batch.support, TUNING.rim_vox, data.n_axes))


def _accelerated_steps(
    data: Measurement, start: Batch, settings: AcceleratedDescent, limits: Limits
) -> Iterator[Batch]:
    descend, support = _descent(data), start.support
    crystal = start.result
    extrapolation, inside = crystal.clone(), _Inside(support)
    values, age = inside.take(crystal), torch.zeros(len(start), device=crystal.device)
    for step in range(1, settings.steps + 1):
        lower = inside.take(descend(extrapolation))
        change = lower - values
        age = torch.where(inside.inner(inside.take(extrapolation) - lower, change) > 0, 0.0, age + 1)
        inside.put(lower, crystal)
        if settings.shrink_wrap is not None and settings.shrink_wrap.is_due(step):
            support = update_support(support, crystal, settings.shrink_wrap, "full", limits)
            crystal, age, inside = crystal * support, torch.zeros_like(age), _Inside(support)
            values, extrapolation = inside.take(crystal), crystal.clone()
        else:
            inside.put(lower + inside.per_voxel(age / (age + 3)) * change, extrapolation)
            values = lower
        yield Batch(crystal=crystal, support=support, cycle=step)


class _Inside:
    """The voxels inside the supports of a batch, one after the other: a few percent of the array."""

    def __init__(self, support: Tensor) -> None:
        self._index = support.flatten().nonzero()[:, 0]
        self._start = self._index // support[0].numel()
        self._n_starts = len(support)

    def take(self, crystals: Tensor) -> Tensor:
        """Return the values ``(n,)`` of crystals ``(starts, *shape)`` at these voxels."""
        return crystals.reshape(-1)[self._index]

    def put(self, values: Tensor, crystals: Tensor) -> None:
        """Set the values of crystals ``(starts, *shape)`` at these voxels."""
        crystals.view(-1)[self._index] = values

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return Re <a, b> of each start, ``(starts,)``."""
        product = a.real * b.real + a.imag * b.imag
        return product.new_zeros(self._n_starts).index_add_(0, self._start, product)

    def per_voxel(self, of_start: Tensor) -> Tensor:
        """Return a value of each start at its voxels."""
        return of_start[self._start]


def _descent(data: Measurement) -> Callable[[Tensor], Tensor]:
    """Return the function that takes one step down the amplitude loss, regardless of the support."""
    strongest = torch.where(data.valid, data.magnitude_scale, 0.0).square().amax().clamp_min(FAINTEST)
    if data.is_plain and bool((data.magnitude_scale[data.valid].square() == strongest).all()):
        return Projector(data)

    def descend(crystal: Tensor) -> Tensor:
        """Return the crystals ``(starts, *shape)`` after one step down the amplitude loss."""
        field = reciprocal(crystal, data.n_axes)
        return crystal - direct(field_gradient(field, data), data.n_axes) / (2 * strongest)

    return descend


def _adam_steps(data: Measurement, start: Batch, settings: Adam) -> Iterator[Batch]:
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
