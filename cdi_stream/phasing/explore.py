"""Many cheap random starts on one coarse grid, until several agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from cdi_stream.phasing.align import align
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.grid_level import GridLevel, Search, refine
from cdi_stream.phasing.ranking import Candidates, score_batch
from cdi_stream.phasing.schedules import VARIANTS, explore_recipe
from cdi_stream.phasing.starts import autocorrelation_starts
from cdi_stream.phasing.workers import n_callers, side_by_side

MOST_VOXELS = 1_000_000
"""Voxels of all starts of a round: a coarse grid that is not coarse takes fewer starts at once."""
AGREE = 0.93
"""Crystals agree if they correlate by this: each is within NMSE 0.07 or so of the truth, then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """How much is tried; ``share`` is of the time that is left."""

    starts_a_round: int = 16
    pool: int = 24
    least_rounds: int = 4
    most_rounds: int = 60
    agreeing: int = 5
    share: float = 0.4


def explore(level: GridLevel, seed: int, how: Exploration, first_round: int, search: Search) -> tuple[Candidates, int]:
    """The best of some rounds of random starts, and which round would be next."""
    last = first_round + how.least_rounds
    for pool, following in _pools(level, seed, how, first_round, search):
        if following >= last and has_agreement(pool, how):
            break
    return pool, following


def _pools(
    level: GridLevel, seed: int, how: Exploration, first_round: int, search: Search
) -> Iterator[tuple[Candidates, int]]:
    """The pool after as many rounds as run side by side, until all are done or their share of the time is over."""
    pool, n_threads, deadline = None, n_callers(), search.deadline
    n_starts = min(how.starts_a_round, max(2, MOST_VOXELS // level.data.magnitude.numel()))
    until = 1 - (1 - how.share) * max(deadline.left_s, 0.0) / max(deadline.budget_s, 1e-9)
    end = first_round + how.most_rounds
    for index in range(first_round, end, n_threads):
        rounds = range(index, min(index + n_threads, end))
        for found, batch in side_by_side(lambda k: _round(level, seed, k, n_starts, deadline), rounds):
            search.add(batch, starts=len(batch))
            pool = found.merge(pool).best(how.pool)
        assert pool is not None
        yield pool, rounds.stop
        if deadline.is_over(until):
            return


def _round(level: GridLevel, seed: int, index: int, n_starts: int, deadline: Deadline) -> tuple[Candidates, Batch]:
    """A batch of starts in one variant."""
    how = VARIANTS[index % len(VARIANTS)]
    first, limits = 1_000_003 * seed + index * n_starts, level.limits(how.margin)
    start = autocorrelation_starts(level.data, range(first, first + n_starts))
    batch = refine(level, start, explore_recipe(level.extent_vox, how), deadline, limits)
    return score_batch(level.data, batch, limits.largest), batch


def has_agreement(pool: Candidates, how: Exploration) -> bool:
    """Whether enough of the best agree with the very best."""
    top = pool.best(how.agreeing + 2)
    if len(top) < how.agreeing + 2:
        return False
    found = side_by_side(partial(align, top.crystal[0]), list(top.crystal[1:]))
    return sum(one.correlation > AGREE for one in found) >= how.agreeing - 1
