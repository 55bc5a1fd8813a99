"""The automatic method: many cheap starts on a coarse grid, the best carried to the finest, ranked by what they
have not been fitted to.

1. Explore.  Batches of random starts on the middle of the diffraction, with even amplitudes (`CLIP`) and supports
   that follow the rms amplitude; until several agree, or their share of the time is over.
2. Climb.  The best go to finer and finer grids, fewer at each.
3. Choose.  At the finest grid, which crystals of few voxels go two ways, the finalists forget the voxels of a few
   islands, are refined without them, and ranked by the Poisson log-likelihood there (free of overfitting, where chi2
   is not); see `cdi_stream.phasing.finish`.
4. Again from other starts, if the finalists do not agree and there is time.
5. Finish.  The winner with all voxels; on to what single precision allows if the data are without noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.explore import Exploration, explore
from cdi_stream.phasing.finish import LAST_CALL, finish_finalists, fit_without_noise
from cdi_stream.phasing.grid_level import GridLevel, Search, climb, level_of, refine_each
from cdi_stream.phasing.judge import LARGEST_AMPLITUDE_SPREAD, LEAST_AGREEMENT
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
    rank_candidates,
    without_held_out,
)
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.schedules import climb_recipe, final_recipes
from cdi_stream.phasing.workers import one_thread_each

Report = Callable[[str], None]

SAFELY = 0.9
"""Share of the time left that is planned with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoSettings:
    """How much is explored, how many reach the finest grid, and how often all of it may be done again.

    ``ways`` are the schedules of the finest grid for a crystal's extent [voxels]; the one is kept whose crystal is even
    and foresees the held-out voxels.  Crystals known beforehand go the same ways; with a ``known_recipe`` they go by
    that first, in the supports that they have, and no support may then be much larger than theirs.  ``is_thorough``:
    then refine the winner in many more ways; ``is_exact``: and further if the data are without noise.
    """

    exploration: Exploration = field(default_factory=Exploration)
    finalists: int = 4
    attempts: int = 10
    ways: Callable[[float], tuple[str, ...]] = final_recipes
    known_recipe: str | None = None
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
    """Find the crystal of a measurement in Fourier order within the deadline.

    It begins from nothing; ``known`` crystals on the finest grid are finalists too.
    """
    with one_thread_each():  # transforms that are split among threads wait for one another on a busy machine
        return _Auto(data, seed, Search(deadline), settings or AutoSettings(), report).solved(known)


class _Auto:
    """One search: the measurement, what of it is held out, and how far it has come."""

    def __init__(self, data: Measurement, seed: int, search: Search, settings: AutoSettings, report: Report) -> None:
        self._data, self._seed, self._settings = data, seed, settings
        self._search, self._report = search, report
        self._seen, self._held = hold_out(data, seed)
        self._shapes = grid_shapes(data)
        self._round, self._refining_s = 0, 0.0
        self._known_share: float | None = None

    def solved(self, known: Batch | None) -> Solution:
        """Attempts until the finalists agree or time is short."""
        pool, text, deadline = None, "", self._search.deadline
        if known is not None and self._settings.known_recipe is not None:
            self._known_share = share_of(known, len(known))
        for attempt in range(1, self._settings.attempts + 1):
            found, how = self._attempt(known if pool is None else None)
            best, pool = found.crystal[0], found if pool is None else self._ranked(found.append(pool))
            text = how if torch.equal(best, pool.crystal[0]) else text
            pool = pool.best(max(self._settings.finalists, 2))
            if attempt == self._settings.attempts or is_trusted(pool) or not self._has_time():
                break
        assert pool is not None
        effort = Effort(starts=self._search.starts, cycles=self._search.cycles, recipe=text)
        solution = conclude(self._data, self._held, pool, effort, deadline)
        is_exact = self._settings.is_thorough and self._settings.is_exact
        return fit_without_noise(self._data, solution, deadline) if is_exact else solution

    def _has_time(self) -> bool:
        """Whether what is not exploration can be done once more in its share of the time that is left."""
        deadline, share = self._search.deadline, 1 - self._settings.exploration.share
        return share * deadline.left_s > self._refining_s + (1 - LAST_CALL) * deadline.budget_s

    def _attempt(self, known: Batch | None) -> tuple[Candidates, str]:
        """Explore, climb and choose; the finalists, the best first, and the schedule of the finest grid."""
        settings, deadline = self._settings, self._search.deadline
        coarse = self._level(coarsen(self._data, self._shapes[0]))
        pool, self._round = explore(coarse, self._seed, settings.exploration, self._round, self._search)
        self._report(f"{self._search.starts} starts on {self._shapes[0]}: {_state(pool, deadline)}")
        begin_s, found_share = deadline.passed_s, share_of(pool, settings.finalists)
        keep = 3 * settings.finalists
        for shape in self._shapes[1:-1]:
            if deadline.is_over():
                break
            level = self._level(coarsen(self._data, shape), found_share)
            keep = max(settings.finalists, keep * 2 // 3)
            pool = climb(level, pool.best(keep).crystal, climb_recipe(level.extent_vox), self._search)
            self._report(f"{len(pool)} on {shape}: {_state(pool, deadline)}")
        whole = self._level(self._data, found_share)
        found = self._chosen(whole, pool.best(self._affordable(whole)).crystal, known)
        self._refining_s = deadline.passed_s - begin_s
        return found

    def _level(self, data: Measurement, found_share: float | None = None) -> GridLevel:
        return level_of(data, found_share, self._known_share)

    def _affordable(self, level: GridLevel) -> int:
        """As many finalists as there is time for on the finest grid, with what comes after them."""
        cycle_s = self._search.cycle_s(self._data.magnitude.numel())
        each, after = sum(parse_recipe(text).cycles for text in self._settings.ways(level.extent_vox)), 80
        left = SAFELY * self._search.deadline.left_s / max(cycle_s, 1e-9) - after
        return max(1, min(self._settings.finalists, int(left / each)))

    def _chosen(self, whole: GridLevel, crystals: Tensor, known: Batch | None) -> tuple[Candidates, str]:
        """Refine the finalists without the held-out voxels, and rank them."""
        level, begin_s, begin = replace(whole, data=self._seen), self._search.deadline.passed_s, self._search.cycles
        crystals = resample_crystals(crystals, tuple(self._data.magnitude.shape))
        if known is not None:
            level = replace(level, found_share=max(level.found_share or 0.0, share_of(known, len(known))))
            crystals = torch.cat((crystals, self._carried_on(level, known)))
        crystals = without_held_out(crystals, self._held, self._data.n_axes)
        texts = self._settings.ways(level.extent_vox)
        tried = [(self._ranked(climb(level, crystals, text, self._search)), text) for text in texts]
        pool, text = min(tried, key=lambda one: self._implausibility(one[0]))
        pace_s = (self._search.deadline.passed_s - begin_s) / max(self._search.cycles - begin, 1)
        if self._settings.is_thorough:
            pool, more = finish_finalists(level, pool, self._data, self._held, self._search, pace_s)
            text = "+".join(filter(None, (text, more)))
        self._report(f"{len(pool)} finalists: {_state(pool, self._search.deadline)}")
        return pool, text

    def _carried_on(self, level: GridLevel, known: Batch) -> Tensor:
        """Crystals known beforehand, after their own recipe if there is one."""
        if self._settings.known_recipe is None:
            return known.result
        start = replace(known, crystal=without_held_out(known.result, self._held, self._data.n_axes))
        return refine_each(level, [(start, self._settings.known_recipe)], self._search)[0].crystal

    def _implausibility(self, pool: Candidates) -> float:
        """How badly the first foresees the held-out voxels, times how uneven it is, if it can be told.

        Voxels at the surface are so many in small crystals that a loose and a tight support may foresee equally well:
        then the even one is right, as crystals of one material are.
        """
        uneven = amplitude_spread(pool.crystal[0], pool.support[0])
        return free_llk(pool.crystal[0], self._data, self._held)[0] * (1.0 if math.isnan(uneven) else uneven)

    def _ranked(self, pool: Candidates) -> Candidates:
        return rank_candidates(pool, self._data, self._held)


def is_trusted(pool: Candidates) -> bool:
    """Whether the winner is even inside, as crystals are, and the others agree with it."""
    uneven = amplitude_spread(pool.crystal[0], pool.support[0])
    return not uneven > LARGEST_AMPLITUDE_SPREAD and not agreement(pool) < LEAST_AGREEMENT


def share_of(pool: Candidates | Batch, n: int) -> float:
    """Median support over the array of the best ``n``."""
    return float(pool.support[:n].flatten(1).float().mean(1).median())


def _state(pool: Candidates, deadline: Deadline) -> str:
    return f"score {float(pool.score[0]):.4g}, {deadline.passed_s:.1f} s"
