"""Phase retrieval of large volumes: many starts on a coarse grid, and few steps of descent on the finest grid.

The middle of the diffraction holds almost all counts, so the coarsest grid shows the whole crystal but for its fine
details.  Starts cost little there, and their agreement tells how far the crystal can be trusted.  The best crystal is
carried to the next grid and then to the finest, where descent with momentum adds the details in a few dozen steps; HIO
and RAAR would leave the crystal that is known already and take hundreds of cycles to come back to it (decision records
0024 and 0031).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from cdi_stream.metrics import Metrics
from cdi_stream.numerics.workers import n_callers, one_thread_each, side_by_side
from cdi_stream.phasing.aliens import find_aliens
from cdi_stream.phasing.coherence import GaussianKernel
from cdi_stream.phasing.coherence_search import find_coherence, improve_kernel, refine_with
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.explore import Exploration, explore
from cdi_stream.phasing.grid_level import GridLevel, Search, carried, climb, level_of, refine, refine_each
from cdi_stream.phasing.judge import LEAST_AGREEMENT
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.pyramid import Lengths, coarsen, grid_shapes, resample_crystals
from cdi_stream.phasing.quality import amplitude_spread, misfit, size_of
from cdi_stream.phasing.ranking import Candidates, agreement, without
from cdi_stream.phasing.schedules import VARIANTS, large_recipe, mend_recipe, middle_recipe, settle_recipe
from cdi_stream.phasing.steps import Recipe
from cdi_stream.phasing.tuning import TUNING

_FIRST_PORTIONS = 2
"""Number of explorations with few starts and a short schedule."""

RecipeFor = Callable[[float], Recipe]
"""Returns a recipe for the mean extent of a crystal [voxels]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeSolution:
    """A crystal and its support, both in Fourier order, and the numbers that judge the crystal.

    ``kernel`` is the coherence kernel of the measurement; None for coherent light.
    """

    crystal: Tensor
    support: Tensor
    metrics: Metrics
    kernel: GaussianKernel | None = None


def solve_large(
    data: Measurement, known: Batch, recipe_for: RecipeFor, seed: int, extent: Exploration, deadline: Deadline
) -> LargeSolution:
    """Find the crystal of a large volume within a time budget.

    Parameters
    ----------
    data
        The measurement, in Fourier order.
    known
        Crystals that compete with the random starts, on the finest grid: the network's, and that of an earlier scan.
    recipe_for
        Recipe of the known crystals on the coarsest grid.
    seed
        Seed of the random starts.
    extent
        Number of random starts.  The first two explorations run ``extent.least_rounds`` rounds with a quarter of its
        ``starts_a_round`` and a short schedule, the second one while the starts disagree; while they still disagree,
        later explorations run as many rounds with all starts and the full schedule.
    deadline
        Time budget.

    Returns
    -------
    LargeSolution
        In its metrics, ``agreement`` is the mean correlation of the crystal with the starts next to the best, and
        ``cycles`` counts all starts.
    """
    search = Search(deadline)
    explored = partial(_explored, known=known, recipe_for=recipe_for, seed=seed, extent=extent, search=search)
    starts, aliens = _without_aliens(data, explored, search)
    data = without(data, aliens)
    shapes = grid_shapes(data)
    middle = shapes[:2][-1]
    starts, kernel = starts.find_coherence(middle, shapes[-1], search)
    mended = starts.mended(search)
    share = float(mended.support[:1].float().mean())
    finest = level_of(data if kernel is None else kernel.apply_to(data), share)
    best = _add_details(finest, middle, mended.crystal[:1], search)
    if kernel is not None:
        kernel = improve_kernel(finest, best, kernel)
    model = data if kernel is None else kernel.apply_to(data)
    others_agree = starts.agreement_with(best.result[0], search)
    return LargeSolution(
        crystal=best.result[0],
        support=best.support[0],
        metrics=replace(
            _metrics_of(best, replace(finest, data=model), others_agree, search),
            alien_voxels=None if aliens is None else int(aliens.sum()),
        ),
        kernel=kernel,
    )


def _metrics_of(best: Batch, level: GridLevel, others_agree: float, search: Search) -> Metrics:
    crystal, support = best.result[0], best.support[0]
    return Metrics(
        **misfit(crystal, level.data),
        **size_of(support, level.box),
        amplitude_spread=amplitude_spread(crystal, support),
        agreement=others_agree,
        starts=search.starts,
        cycles=search.cycles,
        is_truncated=search.deadline.is_over(),
    )


def _add_details(finest: GridLevel, middle_shape: Lengths, crystals: Tensor, search: Search) -> Batch:
    """Bring one crystal ``(1, *shape)`` to a middle and to the finest grid, and add its details, until the deadline.

    The middle grid may be the finest.
    """
    middle = level_of(coarsen(finest.data, middle_shape), finest.coarser_share)
    if middle.extent_vox >= TUNING.small_crystal_vox:
        batch = _finer(middle, crystals, middle_recipe(middle.extent_vox), search)
        if middle_shape == tuple(finest.data.magnitude.shape):
            return batch
        crystals = batch.result
    return _finer(finest, crystals, large_recipe(finest.extent_vox), search)


def _finer(level: GridLevel, crystals: Tensor, recipe: Recipe, search: Search) -> Batch:
    """Bring one crystal ``(1, *shape)`` to a finer grid and refine it there."""
    crystal = resample_crystals(crystals, tuple(level.data.magnitude.shape))
    batch = refine(level, carried(crystal, level), recipe, search.deadline)
    search.add(batch.crystal, batch.cycle)
    return batch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Starts:
    """Candidates on the coarsest grid.

    ``pool`` holds the candidates, best first; ``settled`` the best candidates after `settle_recipe`, of which the first
    belongs to the best.  ``is_clear`` tells whether the first few starts agreed.
    """

    level: GridLevel
    pool: Candidates
    settled: Tensor
    is_clear: bool

    def mended(self, search: Search) -> Candidates:
        """Return the best candidates after `mend_recipe`, as many as there are threads.

        The candidates stay as they are if the first few starts agreed: no strain is so strong that a part was cut off.
        Likewise if the support of the best grows a lot: parts were added that do not belong to the crystal.
        """
        if self.is_clear:
            return self.pool
        recipe = mend_recipe(self.level.extent_vox)
        pool = climb(self.level, list(self.pool.crystal[: n_callers()]), recipe, search)
        has_grown = int(pool.support[0].sum()) > TUNING.largest_growth_mended * int(self.settled[0].count_nonzero())
        return self.pool if has_grown else pool

    def agreement_with(self, crystal: Tensor, search: Search) -> float:
        """Return the mean correlation of a crystal of any grid with the candidates next to the best.

        The crystal is settled on the coarsest grid first, as the candidates are.  NaN without such candidates.
        """
        coarse = resample_crystals(crystal[None], tuple(self.level.data.magnitude.shape))
        return agreement(torch.cat((_settle(self.level, coarse, search), self.settled[1:])))

    def find_coherence(self, middle: Lengths, finest: Lengths, search: Search) -> tuple[_Starts, GaussianKernel | None]:
        """Return the starts after cycles with the coherence kernel that they show, and the kernel.

        Without a kernel the starts stay as they are: if the light is coherent, and if the time left is too short for
        the descent with a kernel on the ``middle`` and the ``finest`` grid.
        """
        scale = (math.prod(finest) / self.level.data.magnitude.numel()) ** (1 / self.level.data.n_axes)
        extent_vox = scale * self.level.extent_vox
        steps = (large_recipe(extent_vox).cycles, finest), (middle_recipe(extent_vox).cycles, middle)
        descent_s = TUNING.cost_of_kernel * search.cycle_s(sum(n * math.prod(shape) for n, shape in steps))
        if descent_s > TUNING.planned_time_share * search.deadline.left_s:
            return self, None
        kernel = find_coherence(self.level, self.pool.best(TUNING.candidates_for_quick_coherence), search.deadline)
        if kernel is None:
            return self, None
        level, pool = refine_with(kernel, self.level, self.pool.best(len(self.settled)), search)
        return _starts_of(level, pool, len(self.settled), search, is_clear=self.is_clear), kernel


def _starts_of(level: GridLevel, pool: Candidates, n_settled: int, search: Search, *, is_clear: bool) -> _Starts:
    settled = _settle(level, pool.crystal[:n_settled], search)
    return _Starts(level=level, pool=pool, settled=settled, is_clear=is_clear)


def _without_aliens(
    data: Measurement, explored: Callable[[GridLevel], _Starts], search: Search
) -> tuple[_Starts, Tensor | None]:
    """Return the starts on the coarsest grid, and the voxels of alien peaks, bool; None: there are none.

    Starts that leave alien peaks are made again without the voxels of these peaks.
    """
    found: Tensor | None = None
    for look in range(TUNING.most_alien_looks + 1):
        cleaned = without(data, found)
        starts = explored(level_of(coarsen(cleaned, grid_shapes(cleaned)[0])))
        is_last = look == TUNING.most_alien_looks or search.deadline.is_over(TUNING.more_checks_share / 2)
        aliens = None if is_last else find_aliens(starts.pool.crystal, starts.level.data, cleaned)
        if aliens is None:
            break
        found = aliens if found is None else found | aliens
    return starts, found


def _explored(
    level: GridLevel, known: Batch, recipe_for: RecipeFor, seed: int, extent: Exploration, search: Search
) -> _Starts:
    """Explore the coarsest grid, and again while the candidates disagree and there is time."""
    of_known, explorations = Search(search.deadline), _random_starts(level, seed, extent, search)
    refine_known = partial(climb, level, list(known.result), recipe_for(level.extent_vox), of_known)
    first, pool = side_by_side(lambda job: job(), (partial(next, explorations), refine_known))
    search.include(of_known)
    search.starts += len(known)
    for index, more in enumerate(chain((first,), explorations)):
        pool = more.merge(pool).best(extent.pool)
        starts = _starts_of(level, pool, 1 + extent.agreeing, search, is_clear=index < _FIRST_PORTIONS)
        if not agreement(starts.settled) < LEAST_AGREEMENT:
            break
    return starts


def _random_starts(level: GridLevel, seed: int, extent: Exploration, search: Search) -> Iterator[Candidates]:
    """Yield the candidates of one exploration after the other, all with the first variants of the schedule."""
    extent = replace(extent, most_rounds=extent.least_rounds, share=1.0)
    few = replace(extent, starts_a_round=extent.starts_a_round // 4, length=TUNING.first_check_length)
    first, later = (few, TUNING.first_check_share), (extent, TUNING.more_checks_share)
    for index, (portion, share) in enumerate(_FIRST_PORTIONS * (first,) + TUNING.most_extra_rounds * (later,)):
        if index and search.deadline.is_over(share):
            continue
        part = Search(search.deadline.part(share))
        with one_thread_each():
            pool, _ = explore(level, seed, portion, index * len(VARIANTS), part)
        search.include(part)
        yield pool


def _settle(level: GridLevel, crystals: Tensor, search: Search) -> Tensor:
    """Return crystals ``(n, *shape)`` after `settle_recipe`, each in its own support."""
    recipe = settle_recipe(level.extent_vox)
    jobs = [(partial(carried, part, level), recipe) for part in crystals.split(1)]
    return torch.cat([candidates.crystal for candidates in refine_each(level, jobs, search)])
