"""Exploration: many cheap random starts on the coarsest grid, until several of them agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from cdi_stream.numerics.workers import n_callers, side_by_side
from cdi_stream.phasing.align import align
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.grid_level import GridLevel, Search, refine
from cdi_stream.phasing.ranking import Candidates, score_batch
from cdi_stream.phasing.schedules import VARIANTS, explore_recipe
from cdi_stream.phasing.starts import autocorrelation_starts
from cdi_stream.phasing.tuning import TUNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """Extent of an exploration.

    Parameters
    ----------
    starts_a_round
        Random starts of one round; all starts of a round use the same variant of the schedule.
    pool
        Candidates that are kept, the best of all rounds.
    least_rounds
        Rounds that are run even if the candidates agree before.
    most_rounds
        Rounds after which the exploration ends even if the candidates disagree.
    agreeing
        Number of best candidates that must agree, the very best included.
    share
        Share of the time left that the exploration may take.
    length
        Length of the schedule of each start, relative to the full one.
    """

    starts_a_round: int = 16
    pool: int = 24
    least_rounds: int = 4
    most_rounds: int = 60
    agreeing: int = 5
    share: float = 0.4
    length: float = 1.0


def explore(
    level: GridLevel, seed: int, extent: Exploration, first_round: int, search: Search
) -> tuple[Candidates, int]:
    """Run rounds of random starts; return the best candidates and the number of the next round.

    The number of a round chooses its variant and, with ``seed``, its random phases.
    """
    least_end = first_round + extent.least_rounds
    for pool, next_round in _pools(level, seed, extent, first_round, search):
        if next_round >= least_end and has_agreement(pool, extent):
            break
    return pool, next_round


def _pools(
    level: GridLevel, seed: int, extent: Exploration, first_round: int, search: Search
) -> Iterator[tuple[Candidates, int]]:
    """Run the rounds in groups of as many as there are threads; yield the pool and the next round after each group."""
    pool, n_threads, deadline = None, n_callers(), search.deadline
    n_starts = starts_a_round(level, extent)
    end_share = 1 - (1 - extent.share) * max(deadline.left_s, 0.0) / max(deadline.budget_s, 1e-9)
    end = first_round + extent.most_rounds
    for index in range(first_round, end, n_threads):
        begin_s = deadline.passed_s
        rounds = range(index, min(index + n_threads, end))
        run = partial(_round, level, seed, n_starts, extent.length, deadline)
        for candidates, batch in side_by_side(run, rounds):
            search.add(batch.crystal, batch.cycle, starts=len(batch))
            pool = candidates.merge(pool).best(extent.pool)
        assert pool is not None
        yield pool, rounds.stop
        next_end_s = 2 * deadline.passed_s - begin_s
        if deadline.is_over(end_share) or next_end_s > end_share * deadline.budget_s:
            return


def starts_a_round(level: GridLevel, extent: Exploration) -> int:
    """Return the number of starts that run together; fewer on a large grid."""
    return min(extent.starts_a_round, max(2, TUNING.most_voxels_a_round // level.data.magnitude.numel()))


def _round(
    level: GridLevel, seed: int, n_starts: int, length: float, deadline: Deadline, index: int
) -> tuple[Candidates, Batch]:
    """Run one round of random starts with the variant of its number."""
    variant = VARIANTS[index % len(VARIANTS)]
    first, limits = 1_000_003 * seed + index * n_starts, level.limits(variant.margin)
    start = autocorrelation_starts(level.data, range(first, first + n_starts))
    batch = refine(level, start, explore_recipe(level.extent_vox, variant, length), deadline, limits)
    return score_batch(level.data, batch, limits.largest), batch


def has_agreement(pool: Candidates, extent: Exploration) -> bool:
    """Return whether enough of the best candidates agree with the very best; one candidate may disagree."""
    top = pool.best(extent.agreeing + 2)
    if len(top) < extent.agreeing + 2:
        return False
    matches = side_by_side(partial(align, top.crystal[0]), list(top.crystal[1:]))
    return sum(match.correlation > TUNING.agreeing_correlation for match in matches) >= extent.agreeing - 1
