"""Refinement of crystals voxel by voxel: the paper's Adam, and projections with momentum.

`refine_object` yields after each step like `cdi_stream.phasing.engine.run`; the starts of a batch never mix.
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
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.shrink_wrap import ShrinkWrap
from cdi_stream.phasing.support import Limits, grow, threshold_support, updated

_RIM_VOX = 2
_FEEDBACK = parse_recipe("SW[off]+300*HIO+20*ER")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam:
    """The refinement of Chan et al. (2021), Appl. Phys. Rev. 8, 021407, doi:10.1063/5.0031486, by their program.

    Adam on real and imaginary parts, crystals scaled to a largest amplitude of 1; the loss is the sum of squared
    differences of magnitudes over their maxima.  The support is thresholded again at most every ``every`` steps,
    once the loss has fallen by the share ``fall``.
    """

    steps: int = 1000
    rate: float = 0.01
    every: int = 50
    fall: float = 0.1
    threshold: float = 0.15
    sigma_vox: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerated:
    """Descent of the amplitude loss with momentum; the support stays unless ``shrink_wrap`` moves it.

    Each step is the longest that lowers the loss for certain, 1 / (2 max gain^2) of the gradient inside the support:
    the loss lies below a paraboloid of that curvature, since sqrt(expected) is convex in the field.  For even gain it
    is a cycle of error reduction.  Momentum k / (k + 3) of Nesterov (1983), Dokl. Akad. Nauk SSSR 269, 543, in
    the form of Beck and Teboulle (2009), SIAM J. Imaging Sci. 2, 183, doi:10.1137/080716542; it starts anew where it
    points uphill, O'Donoghue and Candes (2015), Found. Comput. Math. 15, 715, doi:10.1007/s10208-013-9150-3.
    """

    steps: int = 200
    shrink_wrap: ShrinkWrap | None = None


def refine_object(data: Measurement, start: Batch, settings: Adam | Accelerated) -> Iterator[Batch]:
    """Refine crystals ``(starts, *shape)`` from ``start``, which stays as it is; yield after every step.

    Crystals are zero outside their supports.  Whoever iterates may stop at any time.
    """
    return _adam(data, start, settings) if isinstance(settings, Adam) else _accelerated(data, start, settings)


def is_without_noise(
    data: Measurement, batch: Batch, margin: float = 0.1, is_over: Callable[[], bool] = lambda: False
) -> bool:
    """Whether a crystal explains the data ``1 / margin`` times better than counting noise would let the truth.

    Judged after a short descent in a looser support.  Then the counts are no counts, simulated for instance, and
    `polish_exact` is worth its time.  No answer in time, `is_over`, is no.
    """
    descended = batch
    if fits_noise(_loosened(batch, data).support, data):
        return False
    for descended in refine_object(data, _loosened(batch, data), Accelerated(steps=30)):
        if is_over():
            return False
    model = modelled_magnitude(descended.crystal, data)
    misfit, floor = (measure(model, data.magnitude, data.valid) for measure in (chi2, chi2_floor))
    return bool((misfit < margin * floor).any())


def fits_noise(support: Tensor, data: Measurement) -> bool:
    """Whether a support has so many free numbers, two a voxel, that they may explain the noise of the data, too."""
    return 2 * float(support.float().mean()) > 0.5 * float(data.valid.float().mean())


def polish_exact(data: Measurement, start: Batch, rounds: int = 3) -> Iterator[Batch]:
    """Bring crystals close to the truth, NMSE below 0.05, to what float32 lets them explain of data without noise.

    A support drawn tight cuts the faint rim of the crystal and so limits the misfit; in a looser one descent stops at
    false minima, where faint parts of the field have the wrong sign, and feedback (HIO) does not.  Each round is both,
    in turn: chi2 of simulated crystals at 64^3 goes from 1e-2 to below 1e-7 in one or two.  Counts with noise are
    overfitted: see `is_without_noise`.
    """
    batch = _loosened(start, data)
    for _ in range(rounds):
        fed_back = batch
        for fed_back in run(_FEEDBACK, data, batch):
            yield fed_back
        for batch in refine_object(data, fed_back, Accelerated(steps=100)):
            yield batch


def _loosened(batch: Batch, data: Measurement) -> Batch:
    return replace(batch, support=grow(batch.support, _RIM_VOX, data.n_axes))


def _accelerated(data: Measurement, start: Batch, how: Accelerated) -> Iterator[Batch]:
    descend, support = _descent(data), start.support
    crystal = start.result
    ahead, age = crystal, torch.zeros(len(start), device=crystal.device)
    for step in range(1, how.steps + 1):
        found = descend(ahead) * support
        moved = found - crystal
        age = torch.where(_inner(ahead - found, moved) > 0, 0.0, age + 1)
        crystal = found
        if how.shrink_wrap is not None and how.shrink_wrap.is_due(step):
            support = updated(support, crystal, how.shrink_wrap, "full", Limits())
            crystal, age = crystal * support, torch.zeros_like(age)
        ahead = torch.addcmul(crystal, moved, _per_start(age / (age + 3), crystal).to(crystal.dtype))
        yield Batch(crystal=crystal, support=support, cycle=step)


def _descent(data: Measurement) -> Callable[[Tensor], Tensor]:
    """One step down the amplitude loss, without the support."""
    strongest = torch.where(data.valid, data.gain, 0.0).square().amax().clamp_min(FAINTEST)
    if data.is_plain and bool((data.gain[data.valid].square() == strongest).all()):
        return Projector(data)

    def descend(crystal: Tensor) -> Tensor:
        field = reciprocal(crystal, data.n_axes)
        return crystal - direct(field_gradient(field, data), data.n_axes) / (2 * strongest)

    return descend


def _adam(data: Measurement, start: Batch, how: Adam) -> Iterator[Batch]:
    axes = tuple(range(1, start.crystal.ndim))
    crystal, support = start.result, start.support
    crystal = (crystal / crystal.abs().amax(axes, keepdim=True).clamp_min(FAINTEST)).requires_grad_(True)
    adam = torch.optim.Adam([crystal], lr=how.rate)
    since, reference = torch.zeros(len(start), device=crystal.device), None
    for step in range(1, how.steps + 1):
        losses, scale = _normalised_loss(crystal * support, data)
        adam.zero_grad()
        losses.sum().backward()
        adam.step()
        losses, since = losses.detach(), since + 1
        reference = losses if reference is None else reference
        is_due = (since >= how.every) & (losses <= (1 - how.fall) * reference)
        if bool(is_due.any()):
            proposed = threshold_support(crystal.detach().abs(), how.threshold, how.sigma_vox)
            support = torch.where(_per_start(is_due, support), proposed, support)
            reference, since = torch.where(is_due, losses, reference), since * ~is_due
        yield Batch(crystal=crystal.detach() * support * scale, support=support, cycle=step)


def _normalised_loss(crystal: Tensor, data: Measurement) -> tuple[Tensor, Tensor]:
    """Sum of squares of |F|/max |F| - sqrt n / max sqrt n, ``(starts,)``, and the factor between the maxima."""
    expected = expected_counts(reciprocal(crystal, data.n_axes), data).clamp_min(FAINTEST)
    model, measured = (torch.where(data.valid, values, 0.0) for values in (expected.sqrt(), data.magnitude))
    largest, brightest = model.amax(tuple(range(1, model.ndim)), keepdim=True), measured.amax()
    losses = (model / largest - measured / brightest).square().flatten(1).sum(1)
    return losses, (brightest / largest).detach()


def _per_start(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b> of each start, ``(starts,)``."""
    result: Tensor = torch.linalg.vecdot(torch.view_as_real(a).flatten(1), torch.view_as_real(b).flatten(1))
    return result
