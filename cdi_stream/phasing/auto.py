"""The automatic method: from a measurement to a crystal and the numbers that judge it, without settings.

Strongly strained crystals are rarely found from one random start.  `solve` therefore tries many random starts where a
start is cheap, on a coarse grid, and spends the expensive cycles on the best of them only.  Six steps follow one
another; the numbers that steer them are the fields of `cdi_stream.phasing.tuning.SearchTuning`, the recipes stand in
`cdi_stream.phasing.schedules`.

1. *Prepare.*  The autocorrelation of the counts gives the size of the crystal (`autocorrelation.box_of`), which limits
   the supports.  A few balls of voxels, 5 % of the valid voxels, are chosen to be held out (`ranking.hold_out`).  The
   grids are chosen: the coarsest is the middle of the diffraction with 98.8 % of the counts along each axis, the
   finest is the whole measurement (`pyramid.grid_shapes`).

2. *Explore* (`explore.explore`).  On the coarsest grid, rounds of random starts run side by side.  A start has random
   phases and, as its support, a region of the autocorrelation.  Cycles of HIO, RAAR and ER follow one another.
   Shrink-wrap uses thresholds of the rms amplitude inside the support.  The amplitude is clipped to multiples of its
   mean, because a crystal of one material has an even amplitude.  Six variants of threshold, clip and largest support
   take turns, since no single variant finds every crystal.  The score of a candidate is its chi2, corrected for the
   size of its support by generalised cross-validation (`ranking.score_batch`): chi2 alone is lowest for the loosest
   support.  The step ends when the best candidates agree, or when its share of the time is spent.

   Partly coherent light blurs the intensities.  The best candidates show whether a kernel is needed
   (`coherence_search.find_coherence`); if so, it belongs to the model from here on, and is refined once more on the
   finest grid.

3. *Climb* (`grid_level.climb`).  The best candidates are carried to finer and finer grids, by padding their diffraction
   with zeros, and are refined on each; a third of them is dropped from grid to grid.

4. *Choose.*  On the finest grid the finalists are set to zero at the held-out voxels in reciprocal space and are
   refined without these voxels.  They are then ranked by the Poisson log-likelihood of the held-out voxels
   (`ranking.rank_candidates`).  No crystal was fitted to them, so overfitting does not help.  Crystals of few voxels
   are refined with a loose and with a tight support; the support wins that gives the smaller product of free
   log-likelihood and amplitude spread.

5. *Finish* (`finish.finish_finalists`).  Further recipes are tried on the winner as long as one improves its score
   and leaves the held-out voxels as well explained; the other finalists then go through the same recipes.  If the
   finalists disagree, or the winner's amplitude is uneven, and time is left, steps 2 to 5 are repeated with other
   random starts, and all finalists compete.

6. *Conclude* (`ranking.conclude`).  The winner is fitted to all voxels in its final support.  The correlations of the
   other finalists with it measure the agreement, and a parametric bootstrap measures how far counting noise
   moves it.  Data without counting noise are then fitted to the limit of single precision
   (`finish.fit_without_noise`).

`cdi_stream.phasing.judge` turns the numbers into a verdict.  Decision record 0007 tells how the method came about.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cdi_stream.numerics.workers import n_callers, one_thread_each
from cdi_stream.phasing.coherence import GaussianKernel
from cdi_stream.phasing.coherence_search import ANY_BLUR, PLAIN_BLUR, find_coherence, refine_on_finest, refine_with
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.explore import Exploration, explore, has_agreement, starts_a_round
from cdi_stream.phasing.finish import finish_finalists, fit_without_noise
from cdi_stream.phasing.grid_level import GridLevel, Search, climb, level_of, refine_each
from cdi_stream.phasing.judge import LARGEST_AMPLITUDE_SPREAD, LEAST_AGREEMENT, judge
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.pyramid import coarsen, grid_shapes, resample_crystals
from cdi_stream.phasing.quality import amplitude_spread, free_llk
from cdi_stream.phasing.ranking import (
    Candidates,
    Effort,
    Solution,
    agreement,
    conclude,
    hold_out,
    metrics_of,
    rank_candidates,
    without_held_out,
)
from cdi_stream.phasing.schedules import climb_recipe, final_recipes
from cdi_stream.phasing.steps import Recipe
from cdi_stream.phasing.tuning import TUNING

QUICK_EXPLORATION = Exploration(starts_a_round=8, pool=12, least_rounds=2, most_rounds=6, agreeing=3, length=0.5)
"""First exploration of a search; most crystals are found by it."""

Report = Callable[[str], None]
"""Receives one line of text about the progress of a search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoSettings:
    """Extent of a search.

    Parameters
    ----------
    explorations
        Random starts on the coarsest grid, for the first attempt, the second, and so on; the last one holds for all
        further attempts.
    finalists
        Largest number of candidates on the finest grid.
    attempts
        Largest number of times that the search is done, each time with other random starts.
    ways
        Gives the recipes of the finest grid for the mean extent of the crystal [voxels].  Of several recipes, the
        search keeps the one whose winner has the smallest product of free log-likelihood and amplitude spread.
    known_recipe
        Recipe that refines known crystals, for example the network's, in their own supports before they compete with
        the random starts.  None lets known crystals compete as they are.
    is_size_known
        Whether the first known crystal has the right size.  With a ``known_recipe``, no support may then grow much
        larger than that of the first known crystal.
    is_thorough
        Whether a winner that cannot be trusted is refined by further recipes (step 5).
    is_exact
        Whether data without counting noise are fitted to the limit of single precision; needs ``is_thorough``.
    """

    explorations: tuple[Exploration, ...] = (QUICK_EXPLORATION, Exploration())
    finalists: int = 4
    attempts: int = 10
    ways: Callable[[float], tuple[Recipe, ...]] = final_recipes
    known_recipe: Recipe | None = None
    is_size_known: bool = True
    is_thorough: bool = True
    is_exact: bool = True


def solve(
    data: Measurement,
    seed: int,
    deadline: Deadline,
    settings: AutoSettings | None = None,
    report: Report = lambda line: None,
    known: Batch | None = None,
) -> Solution:
    """Find the crystal of a measurement within a time budget.

    The result is the same for the same arguments and number of threads, unless the time budget limited the search.

    Parameters
    ----------
    data
        The measurement, in Fourier order.
    seed
        Seed of the random starts and of the held-out voxels.
    deadline
        Time budget.  A search that runs out of time returns its best crystal so far.
    settings
        Extent of the search; by default as thorough as the time allows.
    report
        Receives a line of text after each step.
    known
        Crystals on the finest grid that compete with the random starts.

    Returns
    -------
    Solution
        The crystal in Fourier order, its support, and the numbers that judge it.
    """
    with one_thread_each():  # transforms that are split among threads wait for one another on a busy machine
        return _Auto(data, seed, Search(deadline), settings or AutoSettings(), report).run(known)


class _Auto:
    """State of one search: the measurement, its held-out voxels, and the work that is done."""

    def __init__(self, data: Measurement, seed: int, search: Search, settings: AutoSettings, report: Report) -> None:
        self._measured = self._data = data
        self._seed, self._settings = seed, settings
        self._search, self._report = search, report
        self._seen, self._held = hold_out(data, seed)
        self._shapes = grid_shapes(data)
        self._round, self._start_s, self._refining_s, self._pace_s = 0, 0.0, 0.0, 0.0
        self._finest = self._coarse = level_of(self._seen)
        self._known_share: float | None = None
        self._kernel: GaussianKernel | None = None
        self._is_kernel_given = data.coherence is not None

    def run(self, known: Batch | None) -> Solution:
        """Repeat the search until its finalists agree or the time is short; return the solution."""
        if known is not None and self._settings.known_recipe is not None and self._settings.is_size_known:
            self._known_share = support_share(known, 1)
        pool, recipe = self._attempt(1, known)
        solution, attempt = self._conclude(pool, recipe), 1
        while not self._is_settled(solution, pool, attempt) and self._has_time(self._extent(attempt + 1)):
            attempt += 1
            finalists, its_recipe = self._attempt(attempt, None)
            best, pool = finalists.crystal[0], self._rank(finalists.append(pool))
            recipe = its_recipe if torch.equal(best, pool.crystal[0]) else recipe
            pool = pool.best(max(self._settings.finalists, 2))
            solution = self._conclude(pool, recipe)
        if self._settings.is_thorough and not self._is_good(solution):
            solution = self._conclude(*self._finish(pool, recipe))
        is_exact = self._settings.is_thorough and self._settings.is_exact and self._kernel is None
        return fit_without_noise(self._data, solution, self._search.deadline) if is_exact else solution

    def _is_settled(self, solution: Solution, pool: Candidates, attempt: int) -> bool:
        """Return whether no further attempt is allowed or needed; a quick first one must give a good crystal."""
        if attempt == self._settings.attempts or (attempt > 1 and is_trusted(pool)):
            return True
        return self._is_good(solution) and not agreement(pool.crystal) < LEAST_AGREEMENT

    def _conclude(self, pool: Candidates, recipe: Recipe) -> Solution:
        effort = Effort(starts=self._search.starts, cycles=self._search.cycles, recipe=recipe.text)
        solution = conclude(self._data, self._held, pool, effort, self._search.deadline)
        return replace(solution, kernel=self._kernel)

    def _is_good(self, solution: Solution) -> bool:
        return judge(metrics_of(solution, self._measured)).grade == "good"

    def _extent(self, attempt: int) -> Exploration:
        """Return the extent of the exploration of an attempt, counted from 1."""
        extents = self._settings.explorations
        return extents[min(attempt, len(extents)) - 1]

    def _has_time(self, extent: Exploration) -> bool:
        """Return whether the time left is enough for another attempt, from its first starts to its last step."""
        left_s = self._search.deadline.left_s
        rounds_s = n_callers() * starts_a_round(self._coarse, extent) * extent.length * self._start_s
        return left_s - max(rounds_s, extent.share * left_s) > TUNING.repeat_margin * self._refining_s

    def _attempt(self, attempt: int, known: Batch | None) -> tuple[Candidates, Recipe]:
        """Do steps 2 to 4; return the finalists, best first, and the recipe of the finest grid."""
        settings, deadline, extent = self._settings, self._search.deadline, self._extent(attempt)
        coarse = self._coarse = self._level(coarsen(self._data, self._shapes[0]))
        begin_s, begin_starts = deadline.passed_s, self._search.starts
        pool, self._round = explore(coarse, self._seed, extent, self._round, self._search)
        self._start_s = (deadline.passed_s - begin_s) / (self._search.starts - begin_starts) / extent.length
        self._report(f"{self._search.starts} starts on {self._shapes[0]}: {_state(pool, deadline)}")
        is_clear = has_agreement(pool, extent)
        pool = self._find_coherence(coarse, pool, is_last=attempt > 1 or settings.attempts == 1)
        begin_s, coarser_share = deadline.passed_s, support_share(pool, settings.finalists)
        keep = TUNING.candidates_per_finalist * settings.finalists
        for shape in self._shapes[1:-1]:
            if is_clear or deadline.is_over():
                break
            level = self._level(coarsen(self._data, shape), coarser_share)
            keep = max(settings.finalists, keep * TUNING.candidates_kept_of_three // 3)
            pool = climb(level, pool.best(keep).crystal, climb_recipe(level.extent_vox), self._search)
            self._report(f"{len(pool)} on {shape}: {_state(pool, deadline)}")
        finest = self._level(self._data, coarser_share)
        finalists = self._choose(finest, pool.best(self._n_affordable(finest)).crystal, known)
        self._refining_s = deadline.passed_s - begin_s
        return finalists

    def _find_coherence(self, level: GridLevel, pool: Candidates, is_last: bool) -> Candidates:
        """Take the coherence kernel that the candidates show into the model; return them as refined with it.

        Only plain blur counts before the last look: the faults of a quick search look like a little blur.
        """
        if self._is_kernel_given:
            return pool
        n = TUNING.candidates_for_coherence if is_last else TUNING.candidates_for_quick_coherence
        limits = ANY_BLUR if is_last else PLAIN_BLUR
        kernel = find_coherence(level, pool.best(n), self._search.deadline, self._kernel, limits)
        if kernel is None:
            return pool
        self._take(kernel)
        _, pool = refine_with(kernel, level, pool, self._search)
        self._report(f"partly coherent, {kernel.text}: {_state(pool, self._search.deadline)}")
        return pool

    def _take(self, kernel: GaussianKernel | None) -> None:
        """Use this coherence kernel from now on; None: coherent light."""
        self._kernel = kernel
        if kernel is None:
            self._data, self._seen = self._measured, replace(self._measured, valid=self._seen.valid)
        else:
            self._data = kernel.apply_to(self._measured)
            self._seen = replace(self._data, valid=self._seen.valid)

    def _level(self, data: Measurement, coarser_share: float | None = None) -> GridLevel:
        return level_of(data, coarser_share, self._known_share)

    def _n_affordable(self, level: GridLevel) -> int:
        """Return the number of finalists for which the time left is enough, the following steps included."""
        cycle_s = self._search.cycle_s(self._data.magnitude.numel())
        cycles_each = sum(recipe.cycles for recipe in self._settings.ways(level.extent_vox))
        n_cycles_left = TUNING.planned_time_share * self._search.deadline.left_s / max(cycle_s, 1e-9)
        return max(1, min(self._settings.finalists, int((n_cycles_left - TUNING.cycles_after_finalists) / cycles_each)))

    def _choose(self, finest: GridLevel, crystals: Tensor, known: Batch | None) -> tuple[Candidates, Recipe]:
        """Refine the finalists without the held-out voxels and rank them; return them and their recipe."""
        level, begin_s, begin = replace(finest, data=self._seen), self._search.deadline.passed_s, self._search.cycles
        crystals = resample_crystals(crystals, tuple(self._data.magnitude.shape))
        if known is not None:
            if self._settings.is_size_known:
                known_share = support_share(known, 1)
                level = replace(level, coarser_share=max(level.coarser_share or 0.0, known_share))
            crystals = torch.cat((crystals, self._refine_known(level, known)))
        crystals = without_held_out(crystals, self._held, self._data.n_axes)
        results = [
            (self._rank(climb(level, crystals, recipe, self._search)), recipe)
            for recipe in self._settings.ways(level.extent_vox)
        ]
        pool, recipe = min(results, key=lambda result: self._implausibility(result[0]))
        if self._kernel is not None:
            winner = Batch(crystal=pool.crystal[:1], support=pool.support[:1])
            self._take(refine_on_finest(level, winner, self._kernel, self._search.deadline))
            level = replace(level, data=self._seen)
        self._pace_s = (self._search.deadline.passed_s - begin_s) / max(self._search.cycles - begin, 1)
        self._finest = level
        self._report(f"{len(pool)} finalists: {_state(pool, self._search.deadline)}")
        return pool, recipe

    def _finish(self, pool: Candidates, recipe: Recipe) -> tuple[Candidates, Recipe]:
        """Refine the finalists further (step 5); return them and their whole recipe."""
        pool, more = finish_finalists(self._finest, pool, self._data, self._held, self._search, self._pace_s)
        self._report(f"further refined: {_state(pool, self._search.deadline)}")
        return pool, recipe if more is None else recipe.then(more)

    def _refine_known(self, level: GridLevel, known: Batch) -> Tensor:
        """Return known crystals after their own recipe, or as they are if there is none."""
        if self._settings.known_recipe is None:
            return known.result
        start = replace(known, crystal=without_held_out(known.result, self._held, self._data.n_axes))
        return refine_each(level, [(start, self._settings.known_recipe)], self._search)[0].crystal

    def _implausibility(self, pool: Candidates) -> float:
        """Return the free log-likelihood of the best candidate times its amplitude spread, if that is known.

        So many voxels of a small crystal lie at its surface that a loose and a tight support may explain the held-out
        voxels equally well; the support with the even amplitude is then right (decision record 0010).
        """
        spread = amplitude_spread(pool.crystal[0], pool.support[0])
        return free_llk(pool.crystal[0], self._data, self._held)[0] * (1.0 if math.isnan(spread) else spread)

    def _rank(self, pool: Candidates) -> Candidates:
        return rank_candidates(pool, self._data, self._held)


def is_trusted(pool: Candidates) -> bool:
    """Return whether the winner has an even amplitude and the other finalists agree with it.

    A number that is not known (NaN) counts as trusted.
    """
    spread = amplitude_spread(pool.crystal[0], pool.support[0])
    return not spread > LARGEST_AMPLITUDE_SPREAD and not agreement(pool.crystal) < LEAST_AGREEMENT


def support_share(pool: Candidates | Batch, n: int) -> float:
    """Return the median size of the supports of the best ``n``, as a share of the array."""
    return float(pool.support[:n].flatten(1).float().mean(1).median())


def _state(pool: Candidates, deadline: Deadline) -> str:
    return f"score {float(pool.score[0]):.4g}, {deadline.passed_s:.1f} s"
