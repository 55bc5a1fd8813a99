"""Attempts of the automatic method: explore the coarsest grid, climb, and choose on the finest grid.

The steps are explained in `cdi_stream.phasing.auto`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor

from cdi_stream.numerics.workers import n_callers
from cdi_stream.phasing.aliens import find_aliens
from cdi_stream.phasing.auto_settings import AutoSettings
from cdi_stream.phasing.coherence_search import (
    ANY_BLUR,
    PLAIN_BLUR,
    SUSPECTED_BLUR,
    look_for_blur,
    refine_on_finest,
    refine_with,
)
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.explore import Exploration, explore, has_agreement, starts_a_round
from cdi_stream.phasing.finish import finish_finalists
from cdi_stream.phasing.frame_search import find_shifts
from cdi_stream.phasing.grid_level import GridLevel, Search, climb, level_of, refine_each
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.pyramid import Lengths, coarsen, grid_shapes
from cdi_stream.phasing.quality import amplitude_spread, free_llk
from cdi_stream.phasing.ranking import (
    Candidates,
    Effort,
    Solution,
    conclude,
    rank_candidates,
    without_held_out,
)
from cdi_stream.phasing.schedules import climb_recipe, mend_recipe
from cdi_stream.phasing.search_model import SearchModel
from cdi_stream.phasing.steps import Recipe, descent
from cdi_stream.phasing.tuning import TUNING

Report = Callable[[str], None]
"""Receives one line of text about the progress of a search."""


class Attempts:
    """The attempts of one search: the model of the measurement that they find, and the work that is done.

    ``number`` is the number of attempts so far, ``is_blur_open`` whether a quick attempt leaves open that the light is
    partly coherent.
    """

    def __init__(self, data: Measurement, seed: int, search: Search, settings: AutoSettings, report: Report) -> None:
        self.model = SearchModel(data, seed)
        self.is_blur_open = False
        self.search, self.settings, self._report, self._seed = search, settings, report, seed
        self._shapes: tuple[Lengths, ...]
        self._finest: GridLevel
        self._coarse: GridLevel
        self.number, self._round = 0, 0
        self._start_s, self._refining_s, self._pace_s = 0.0, 0.0, 0.0
        self._known_share: float | None = None
        self._is_kernel_given = data.coherence is not None

    def attempt(self, known: Batch | None = None) -> tuple[Candidates, Recipe]:
        """Do steps 2 to 4; return the finalists, best first, and the recipe of the finest grid."""
        if known is not None and self.settings.known_recipe is not None and self.settings.is_size_known:
            self._known_share = support_share(known, 1)
        self.number += 1
        settings, deadline, extent = self.settings, self.search.deadline, self.settings.extent(self.number)
        coarse, pool = self._explored(extent)
        is_clear = has_agreement(pool, extent)
        pool = self._find_coherence(coarse, pool, is_last=self.number > 1 or settings.attempts == 1)
        begin_s, between = deadline.passed_s, () if is_clear else self._shapes[1:-1]
        mended = None if between else self._mended(coarse, pool)
        coarser_share = support_share(mended or pool, settings.finalists)
        keep = TUNING.candidates_per_finalist * settings.finalists
        for shape in between:
            if deadline.is_over():
                break
            level = self._level(coarsen(self.model.data, shape), coarser_share)
            keep = max(settings.finalists, keep * TUNING.candidates_kept_of_three // 3)
            pool = climb(level, list(pool.crystal[:keep]), climb_recipe(level.extent_vox), self.search)
            self._report(f"{len(pool)} on {shape}: {_state(pool, deadline)}")
        finest = self._level(self.model.data, coarser_share)
        n = self._n_affordable(finest)
        finalists = self._choose(finest, pool.crystal[:n], (mended or pool).crystal[:n], known)
        self._refining_s = deadline.passed_s - begin_s
        return finalists

    def _explored(self, extent: Exploration) -> tuple[GridLevel, Candidates]:
        """Return the coarsest grid and its candidates; alien peaks that all of them leave are left out at once."""
        first_round = self._round
        coarse, pool = self._candidates(extent, first_round)
        for _ in range(TUNING.most_alien_looks):
            aliens = find_aliens(pool.crystal, coarse.data, self.model.data)
            if aliens is None or not self.has_time_for_another():
                break
            self._report(f"{int(aliens.sum())} voxels of alien peaks are left out from now on")
            self.model.leave_out(aliens)
            coarse, pool = self._candidates(extent, first_round)
        return coarse, pool

    def _candidates(self, extent: Exploration, first_round: int) -> tuple[GridLevel, Candidates]:
        """Explore the coarsest grid of the present model; return the grid and its candidates."""
        search = self.search
        self._shapes = grid_shapes(self.model.data)
        coarse = self._coarse = self._level(coarsen(self.model.data, self._shapes[0]))
        begin_s, begin_starts = search.deadline.passed_s, search.starts
        pool, self._round = explore(coarse, self._seed, extent, first_round, search)
        self._start_s = (search.deadline.passed_s - begin_s) / (search.starts - begin_starts) / extent.length
        self._report(f"{search.starts} starts on {self._shapes[0]}: {_state(pool, search.deadline)}")
        return coarse, pool

    def has_time_for_another(self) -> bool:
        """Return whether the time left is enough for another attempt, from its first starts to its last step."""
        extent = self.settings.extent(self.number + 1)
        left_s = self.search.deadline.left_s
        rounds_s = n_callers() * starts_a_round(self._coarse, extent) * extent.length * self._start_s
        return left_s - max(rounds_s, extent.share * left_s) > TUNING.repeat_margin * self._refining_s

    def _find_coherence(self, level: GridLevel, pool: Candidates, is_last: bool) -> Candidates:
        """Take the coherence kernel that the candidates show into the model; return them as refined with it.

        Only plain blur counts before the last look: the faults of a quick search look like a little blur.
        """
        if self._is_kernel_given:
            return pool
        n = TUNING.candidates_for_coherence if is_last else TUNING.candidates_for_quick_coherence
        least_vox = TUNING.least_blur_vox if is_last else TUNING.hopeless_blur_vox
        blur = look_for_blur(level, pool.best(n), self.search.deadline, self.model.kernel, least_vox)
        self.is_blur_open = not is_last and not blur.counts(PLAIN_BLUR) and blur.counts(SUSPECTED_BLUR)
        if not blur.counts(ANY_BLUR if is_last else PLAIN_BLUR):
            return pool
        kernel = blur.kernel
        self.model.take_kernel(kernel)
        _, pool = refine_with(kernel, level, pool, self.search)
        self._report(f"partly coherent, {kernel.text}: {_state(pool, self.search.deadline)}")
        return pool

    def _mended(self, coarse: GridLevel, pool: Candidates) -> Candidates | None:
        """Return the finalists after `mend_recipe` on the coarsest grid; None for a crystal of few voxels."""
        if coarse.extent_vox < TUNING.small_crystal_vox:
            return None
        coarse = replace(coarse, data=coarsen(self.model.data, self._shapes[0]))  # with the kernel, if there is one
        finalists = list(pool.crystal[: self.settings.finalists])
        return climb(coarse, finalists, mend_recipe(coarse.extent_vox), self.search)

    def _level(self, data: Measurement, coarser_share: float | None = None) -> GridLevel:
        return level_of(data, coarser_share, self._known_share)

    def _n_affordable(self, level: GridLevel) -> int:
        """Return the number of finalists for which the time left is enough, the following steps included."""
        cycle_s = self.search.cycle_s(self.model.data.magnitude.numel())
        cycles_each = sum(recipe.cycles for recipe in self.settings.ways(level.extent_vox))
        n_cycles_left = TUNING.planned_time_share * self.search.deadline.left_s / max(cycle_s, 1e-9)
        return max(1, min(self.settings.finalists, int((n_cycles_left - TUNING.cycles_after_finalists) / cycles_each)))

    def _choose(
        self, finest: GridLevel, crystals: Tensor, mended: Tensor, known: Batch | None
    ) -> tuple[Candidates, Recipe]:
        """Refine the finalists without the held-out voxels and rank them; return them and their recipe.

        The first of several ways begins from ``crystals``, the last from the ``mended`` crystals.
        """
        level, begin_s, begin = replace(finest, data=self.model.seen), self.search.deadline.passed_s, self.search.cycles
        beside: list[Tensor] = []
        if known is not None:
            if self.settings.is_size_known:
                known_share = support_share(known, 1)
                level = replace(level, coarser_share=max(level.coarser_share or 0.0, known_share))
            beside = list(self._refine_known(level, known))
        blind = partial(without_held_out, held=self.model.held, n_axes=self.model.data.n_axes)
        ways = self.settings.ways(level.extent_vox)
        results = [
            (self.rank(climb(level, [*starts, *beside], recipe, self.search, blind)), recipe)
            for starts, recipe in zip((crystals, mended), ways, strict=False)
        ]
        pool, recipe = min(results, key=lambda result: self._implausibility(result[0]))
        if self.model.kernel is not None:
            winner = pool.best(1).batch()
            self.model.take_kernel(refine_on_finest(level, winner, self.model.kernel, self.search.deadline))
            level = replace(level, data=self.model.seen)
        if self.model.measured.shift_error_steps > 0:
            level, pool = self._find_shifts(level, pool)
        self._pace_s = (self.search.deadline.passed_s - begin_s) / max(self.search.cycles - begin, 1)
        self._finest = level
        self._report(f"{len(pool)} finalists: {_state(pool, self.search.deadline)}")
        return pool, recipe

    def _find_shifts(self, level: GridLevel, pool: Candidates) -> tuple[GridLevel, Candidates]:
        """Take the places of the frames that the winner shows into the model; return the finalists refined with it."""
        model = self.model
        shifts = find_shifts(model.data, model.held, pool.best(1).batch(), self.search.deadline)
        if shifts is None:
            return level, pool
        model.take_shifts(shifts)
        level = replace(level, data=model.seen)
        recipe = descent(TUNING.shift_rounds * TUNING.descent_per_shifts)
        pool = Candidates.by_score(
            refine_each(level, [(pool.at(k).batch, recipe) for k in range(len(pool))], self.search)
        )
        self._report(f"uneven steps, {float(shifts.square().mean().sqrt()):.2f} steps rms")
        return level, self.rank(pool)

    def finish(self, pool: Candidates, recipe: Recipe) -> tuple[Candidates, Recipe]:
        """Refine the finalists further (step 6); return them and their whole recipe."""
        pool, more = finish_finalists(self._finest, pool, self.model.data, self.model.held, self.search, self._pace_s)
        self._report(f"further refined: {_state(pool, self.search.deadline)}")
        return pool, recipe if more is None else recipe.then(more)

    def _refine_known(self, level: GridLevel, known: Batch) -> Tensor:
        """Return known crystals after their own recipe, or as they are if there is none."""
        if self.settings.known_recipe is None:
            return known.result
        start = replace(known, crystal=without_held_out(known.result, self.model.held, self.model.data.n_axes))
        return refine_each(level, [(lambda: start, self.settings.known_recipe)], self.search)[0].crystal

    def _implausibility(self, pool: Candidates) -> float:
        """Return the free log-likelihood of the best candidate times its amplitude spread, if that is known.

        Two ways may explain the held-out voxels nearly equally well; the way with the even amplitude is then right.  So
        it is with a loose and a tight support, since many voxels of a small crystal lie at its surface (decision record
        0010), and with and without mending (decision record 0029).
        """
        spread = amplitude_spread(pool.crystal[0], pool.support[0])
        return free_llk(pool.crystal[0], self.model.data, self.model.held)[0] * (1.0 if math.isnan(spread) else spread)

    def conclude(self, pool: Candidates, recipe: Recipe) -> Solution:
        """Return the solution from ranked finalists and the recipe of the first (step 5)."""
        effort = Effort(starts=self.search.starts, cycles=self.search.cycles, recipe=recipe.text)
        return self.model.part_of(conclude(self.model.data, self.model.held, pool, effort, self.search.deadline))

    def rank(self, pool: Candidates) -> Candidates:
        """Return the candidates, best first, by the held-out voxels."""
        return rank_candidates(pool, self.model.data, self.model.held)


def support_share(pool: Candidates | Batch, n: int) -> float:
    """Return the median size of the supports of the best ``n``, as a share of the array."""
    return float(pool.support[:n].flatten(1).float().mean(1).median())


def _state(pool: Candidates, deadline: Deadline) -> str:
    return f"score {float(pool.score[0]):.4g}, {deadline.passed_s:.1f} s"
