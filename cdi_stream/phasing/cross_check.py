"""A crystal from a single start, and what others say of it: random starts on a coarse grid, which cost little.

A few first; while these do not agree with it, more.  Where they found another crystal, theirs goes to the finest grid
too, and is taken if those that neither of the two came from agree better with it, and it explains the data no worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cdi_stream.metrics import Metrics
from cdi_stream.phasing.align import align_all
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.explore import Exploration, explore
from cdi_stream.phasing.grid_level import GridLevel, Search, level_of, refine, refine_each, support_of
from cdi_stream.phasing.judge import LEAST_AGREEMENT
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.pyramid import coarsen, coarsest_shape, resample_crystals
from cdi_stream.phasing.quality import misfit, size_of
from cdi_stream.phasing.ranking import Candidates, score_batch
from cdi_stream.phasing.schedules import VARIANTS, final_recipes, settle_recipe
from cdi_stream.phasing.support import Limits
from cdi_stream.phasing.workers import one_thread_each

Recipes = Callable[[float], str]
EXPLORING, MORE = 0.4, 0.7
"""Share of the budget by which a few random starts are done at the latest, and by which more are."""
AGAIN = 3
"""How often more are tried while they do not agree, always by the variants that the first went by: those find most."""
NOT_WORSE = 1.1
"""Score of the crystal that is taken instead over that of the one there was, at most: starts may agree on nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossCheck:
    """A crystal with its support in Fourier order, and numbers by which it is judged."""

    crystal: Tensor
    support: Tensor
    metrics: Metrics


def cross_check(
    data: Measurement, start: Batch, recipe: Recipes, seed: int, how: Exploration, deadline: Deadline
) -> CrossCheck:
    """Run the recipe for the crystal's extent [voxels] from a start, and from the best random one if others disagree.

    All within the deadline.
    ``agreement`` is the mean correlation of the others with what is taken, ``cycles`` are those of all together.
    """
    search, level = Search(deadline), level_of(data)
    more = replace(how, most_rounds=how.least_rounds)
    few = replace(more, starts_a_round=how.starts_a_round // 2)
    others = _random_starts_of(data, seed, few, search, EXPLORING)
    found = refine(level, start, recipe(level.extent_vox), deadline, Limits())
    search.add(found, starts=1)
    agreed = others.agreement_with(found.result[0], search)
    for _ in range(AGAIN):
        if agreed < LEAST_AGREEMENT and not deadline.is_over(MORE):
            others = _random_starts_of(data, seed, more, search, MORE, others)
            agreed = others.agreement_with(found.result[0], search)
    if agreed < LEAST_AGREEMENT and not deadline.is_over():
        theirs, agreed_then = others.finished(level, search)
        if agreed_then > agreed and _score_of(theirs, data) < NOT_WORSE * _score_of(found, data):
            found, agreed = theirs, agreed_then
    crystal, support = found.result[0], found.support[0]
    metrics = Metrics(
        **misfit(crystal, data),
        **size_of(support, data),
        agreement=agreed,
        starts=search.starts,
        cycles=search.cycles,
        is_truncated=deadline.is_over(),
    )
    return CrossCheck(crystal=crystal, support=support, metrics=metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class _RandomStarts:
    """Random starts on the coarsest grid, the best first, and those next to it, settled there.

    ``first_round`` is where the last of them began.
    """

    level: GridLevel
    pool: Candidates
    settled: Tensor
    first_round: int

    def finished(self, finer: GridLevel, search: Search) -> tuple[Batch, float]:
        """The best on a finer grid, not to become much larger there, and how far those next to it agree then."""
        level = replace(finer, found_share=float(self.pool.support[:1].float().mean()))
        crystal = resample_crystals(self.pool.crystal[:1], tuple(finer.data.magnitude.shape))
        start = Batch(crystal=crystal, support=support_of(crystal, level))
        found = refine(level, start, final_recipes(level.extent_vox)[-1], search.deadline)
        search.add(found)
        return found, self.agreement_with(found.result[0], search)

    def agreement_with(self, crystal: Tensor, search: Search) -> float:
        """Mean correlation of those next to the best with a crystal of any grid, settled as they are; NaN of none."""
        if not len(self.settled):
            return math.nan
        (found,) = _settle(self.level, resample_crystals(crystal[None], tuple(self.level.data.magnitude.shape)), search)
        return sum(one.correlation for one in align_all(found, self.settled)) / len(self.settled)


def _score_of(batch: Batch, data: Measurement) -> float:
    return float(score_batch(data, batch).score[0])


def _random_starts_of(
    data: Measurement, seed: int, how: Exploration, search: Search, share: float, before: _RandomStarts | None = None
) -> _RandomStarts:
    """Explore until that share of the budget; with what was found ``before`` in one pool, by the same variants."""
    level = level_of(coarsen(data, coarsest_shape(data))) if before is None else before.level
    part, first = Search(search.deadline.part(share)), 0 if before is None else before.first_round + len(VARIANTS)
    with one_thread_each():
        pool, _ = explore(level, seed, replace(how, share=1.0), first, part)
    pool = pool.merge(None if before is None else before.pool).best(how.pool)
    search.starts, search.cycles = search.starts + part.starts, search.cycles + part.cycles
    settled = _settle(level, pool.crystal[1 : 1 + how.agreeing], search)
    return _RandomStarts(level=level, pool=pool, settled=settled, first_round=first)


def _settle(level: GridLevel, crystals: Tensor, search: Search) -> Tensor:
    """Crystals after a few cycles of error reduction, the same for all, each in the support that it then has."""
    text = settle_recipe(level.extent_vox)
    if not len(crystals):
        return crystals
    jobs = [(Batch(crystal=one[None], support=support_of(one[None], level)), text) for one in crystals]
    return torch.cat([found.crystal for found in refine_each(level, jobs, search)])
