"""Cross-check of one reconstruction against independent random starts on a coarse grid.

A crystal from a single start, for example the network's, says nothing about its own reliability.  Random starts on the
coarsest grid cost little and are independent.  A few starts are run first, and more while they disagree with the
crystal.  If they still disagree, the best random start is refined on the finest grid; it replaces the crystal if the
other random starts agree better with the replacement, and it explains the data about as well (decision record 0011).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cdi_stream.metrics import Metrics
from cdi_stream.numerics.workers import one_thread_each
from cdi_stream.phasing.align import align_all
from cdi_stream.phasing.coherence import GaussianKernel
from cdi_stream.phasing.coherence_search import find_coherence, improve_kernel, refine_with
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.explore import Exploration, explore
from cdi_stream.phasing.grid_level import GridLevel, Search, level_of, refine, refine_each, support_of
from cdi_stream.phasing.judge import LEAST_AGREEMENT
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.pyramid import coarsen, coarsest_shape, resample_crystals
from cdi_stream.phasing.quality import amplitude_spread, misfit, size_of
from cdi_stream.phasing.ranking import Candidates, score_batch
from cdi_stream.phasing.schedules import VARIANTS, final_recipes, settle_recipe
from cdi_stream.phasing.steps import Recipe
from cdi_stream.phasing.support import Limits
from cdi_stream.phasing.tuning import TUNING


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossCheck:
    """Result of a cross-check: a crystal and its support, both in Fourier order, and the numbers that judge it.

    ``kernel`` is the coherence kernel of the measurement; None for coherent light.
    """

    crystal: Tensor
    support: Tensor
    metrics: Metrics
    kernel: GaussianKernel | None = None


def cross_check(
    data: Measurement,
    start: Batch,
    recipe_for: Callable[[float], Recipe],
    seed: int,
    extent: Exploration,
    deadline: Deadline,
) -> CrossCheck:
    """Refine a crystal, cross-check it against random starts, and return the better crystal of both.

    Parameters
    ----------
    data
        The measurement.
    start
        The crystal, as a batch; of several starts, the start counts whose refined crystal has the best score.
    recipe_for
        Returns the recipe that refines the crystal, for the mean extent of the crystal [voxels].
    seed
        Seed of the random starts.
    extent
        Number of random starts.  The first check runs ``extent.least_rounds`` rounds with half of its
        ``starts_a_round``; later checks run the same rounds with all starts.
    deadline
        Time budget of the whole check.

    Returns
    -------
    CrossCheck
        In its metrics, ``agreement`` is the mean correlation of the returned crystal with the random starts next to the
        best, and ``cycles`` counts all starts.
    """
    search, level = Search(deadline), level_of(data)
    recipe = recipe_for(level.extent_vox)
    later_extent = replace(extent, most_rounds=extent.least_rounds)
    first_extent = replace(later_extent, starts_a_round=extent.starts_a_round // 2)
    starts = _random_starts_of(data, seed, first_extent, search, TUNING.first_check_share)
    starts, kernel = starts.find_coherence(recipe.cycles * data.magnitude.numel(), extent, search)
    if kernel is not None:
        level = replace(level, data=kernel.apply_to(data))
    best = refine(level, start, recipe, deadline, Limits())
    search.add(best, starts=len(best))
    best, agreement = _compare(_best_of(best, level.data), starts, level, seed, later_extent, search)
    if kernel is not None:
        kernel = improve_kernel(level, best, kernel)
        level = replace(level, data=data if kernel is None else kernel.apply_to(data))
    return CrossCheck(
        crystal=best.result[0],
        support=best.support[0],
        metrics=_metrics_of(best, level.data, agreement, search),
        kernel=kernel,
    )


def _compare(
    best: Batch, starts: _RandomStarts, level: GridLevel, seed: int, extent: Exploration, search: Search
) -> tuple[Batch, float]:
    """Compare a crystal with the random starts, and with more while they disagree.

    Returns the crystal, or the best random start if that is trusted more, and its agreement with the random starts.
    """
    deadline = search.deadline
    agreement = starts.agreement_with(best.result[0], search)
    for _ in range(TUNING.most_extra_rounds):
        if agreement < LEAST_AGREEMENT and not deadline.is_over(TUNING.more_checks_share):
            starts = _random_starts_of(level.data, seed, extent, search, TUNING.more_checks_share, starts)
            agreement = starts.agreement_with(best.result[0], search)
    if agreement < LEAST_AGREEMENT and not deadline.is_over():
        rival, rival_agreement = starts.refine_best(level, search)
        limit = TUNING.largest_score_ratio * _score_of(best, level.data)
        if rival_agreement > agreement and _score_of(rival, level.data) < limit:
            best, agreement = rival, rival_agreement
    return best, agreement


def _metrics_of(best: Batch, data: Measurement, agreement: float, search: Search) -> Metrics:
    crystal, support = best.result[0], best.support[0]
    return Metrics(
        **misfit(crystal, data),
        **size_of(support, data),
        amplitude_spread=amplitude_spread(crystal, support),
        agreement=agreement,
        starts=search.starts,
        cycles=search.cycles,
        is_truncated=search.deadline.is_over(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _RandomStarts:
    """Random starts on the coarsest grid.

    ``pool`` holds the candidates, best first; ``settled`` the candidates next to the best after `settle_recipe`;
    ``first_round`` the number of the first round of the last exploration.
    """

    level: GridLevel
    pool: Candidates
    settled: Tensor
    first_round: int

    def find_coherence(
        self, n_voxel_cycles: int, extent: Exploration, search: Search
    ) -> tuple[_RandomStarts, GaussianKernel | None]:
        """Return the starts after cycles with the coherence kernel that they show, and the kernel.

        Without a kernel the starts stay as they are: if the light is coherent, and if the time left is too short for
        ``n_voxel_cycles`` (voxels times cycles) with a kernel.
        """
        blurred_s = TUNING.cost_of_kernel * search.cycle_s(n_voxel_cycles)
        if blurred_s > TUNING.planned_time_share * search.deadline.left_s:
            return self, None
        kernel = find_coherence(self.level, self.pool.best(TUNING.candidates_for_quick_coherence), search.deadline)
        if kernel is None:
            return self, None
        level, pool = refine_with(kernel, self.level, self.pool.best(1 + extent.agreeing), search)
        settled = _settle(level, pool.crystal[1:], search)
        return _RandomStarts(level=level, pool=pool, settled=settled, first_round=self.first_round), kernel

    def refine_best(self, finer: GridLevel, search: Search) -> tuple[Batch, float]:
        """Refine the best candidate on a finer grid; return the result, and its agreement with the other candidates."""
        level = replace(finer, coarser_share=float(self.pool.support[:1].float().mean()))
        crystal = resample_crystals(self.pool.crystal[:1], tuple(finer.data.magnitude.shape))
        start = Batch(crystal=crystal, support=support_of(crystal, level))
        batch = refine(level, start, final_recipes(level.extent_vox)[-1], search.deadline)
        search.add(batch)
        return batch, self.agreement_with(batch.result[0], search)

    def agreement_with(self, crystal: Tensor, search: Search) -> float:
        """Return the mean correlation of a crystal of any grid with the candidates next to the best.

        The crystal is settled on the coarsest grid first, as the candidates are.  NaN without such candidates.
        """
        if not len(self.settled):
            return math.nan
        coarse = resample_crystals(crystal[None], tuple(self.level.data.magnitude.shape))
        (settled_crystal,) = _settle(self.level, coarse, search)
        return sum(match.correlation for match in align_all(settled_crystal, self.settled)) / len(self.settled)


def _best_of(batch: Batch, data: Measurement) -> Batch:
    """Return the start of a batch that has the best score, as a batch of one."""
    best = score_batch(data, batch)
    return batch if len(batch) == 1 else Batch(crystal=best.crystal[:1], support=best.support[:1], cycle=batch.cycle)


def _score_of(batch: Batch, data: Measurement) -> float:
    return float(score_batch(data, batch).score[0])


def _random_starts_of(
    data: Measurement,
    seed: int,
    extent: Exploration,
    search: Search,
    share: float,
    before: _RandomStarts | None = None,
) -> _RandomStarts:
    """Explore until ``share`` of the time budget; return the best of the new starts and of the starts ``before``.

    The numbers of the new rounds are such that the rounds use the same variants as the rounds before.
    """
    level = level_of(coarsen(data, coarsest_shape(data))) if before is None else before.level
    part, first = Search(search.deadline.part(share)), 0 if before is None else before.first_round + len(VARIANTS)
    with one_thread_each():
        pool, _ = explore(level, seed, replace(extent, share=1.0), first, part)
    pool = pool.merge(None if before is None else before.pool).best(extent.pool)
    search.include(part)
    settled = _settle(level, pool.crystal[1 : 1 + extent.agreeing], search)
    return _RandomStarts(level=level, pool=pool, settled=settled, first_round=first)


def _settle(level: GridLevel, crystals: Tensor, search: Search) -> Tensor:
    """Return crystals ``(n, *shape)`` after `settle_recipe`, each in its own support."""
    if not len(crystals):
        return crystals
    recipe = settle_recipe(level.extent_vox)
    jobs = [(Batch(crystal=part, support=support_of(part, level)), recipe) for part in crystals.split(1)]
    return torch.cat([candidates.crystal for candidates in refine_each(level, jobs, search)])
