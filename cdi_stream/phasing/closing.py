"""The end of the automatic method: finalists refined in the ways that prove good at voxels they never see."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.gradient import is_without_noise, polish_exact
from cdi_stream.phasing.level import Level, Search, each_refined, level_of, support_of
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.quality import free_llk, misfit
from cdi_stream.phasing.ranking import Candidates, Solution, ranked
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.schedules import closing_recipes

CLEARLY = 0.99
"""Score, against the winner's, at which another refinement of it is taken ..."""
UNHARMED = 1.05
"""... if the likelihood of the held-out voxels, against the winner's, is not above this."""
ROUNDS = 6
"""Refinements of the winner one after the other, at most."""
LAST_CALL = 0.8
"""Share of the budget after which nothing is begun that could be left out."""
EXACT = 2e-8
"""Misfit at which data without noise are explained."""
EXACT_ROUNDS = 12
"""Rounds of the exact polish, while there is time."""


def closed(
    level: Level, pool: Candidates, data: Measurement, held: Tensor, search: Search, pace_s: float
) -> tuple[Candidates, str]:
    """Refine the winner in a few ways, again and again while one gives a better score and harms no ``held`` voxels.

    Then the others in the same ways: else they would be less refined than what they are compared with.  Nothing is
    begun that would take too long at ``pace_s`` a cycle.  Returns them ranked, and what was done.
    """
    winner, done = _winner_refined(level, pool.best(1), data, held, search, pace_s)
    others, text = [pool.only(k) for k in range(1, len(pool))], "+".join(done)
    if not done or len(_fitting((text,) * len(others), pace_s, search.deadline)) < len(others):
        return winner.before(pool.after(1)), text
    for other in each_refined(level, [(_batch(other), text) for other in others], search):
        winner = winner.before(other)
    return ranked(winner, data, held), text


def _winner_refined(
    level: Level, winner: Candidates, data: Measurement, held: Tensor, search: Search, pace_s: float
) -> tuple[Candidates, list[str]]:
    """A better winner, and the recipes that made it so."""
    done: list[str] = []
    for _ in range(ROUNDS):
        recipes = _fitting(closing_recipes(level.extent_vox), pace_s, search.deadline)
        tried = each_refined(level, [(_batch(winner), how) for how in recipes], search)
        limit = UNHARMED * free_llk(winner.crystal[0], data, held)[0]
        better = [
            (one, how)
            for one, how in zip(tried, recipes, strict=True)
            if one.score[0] < CLEARLY * winner.score[0] and free_llk(one.crystal[0], data, held)[0] < limit
        ]
        if not better:
            break
        winner, how = min(better, key=lambda pair: float(pair[0].score[0]))
        done.append(how)
    return winner, done


def _fitting(recipes: tuple[str, ...], pace_s: float, deadline: Deadline) -> tuple[str, ...]:
    """As many of the recipes, from the first, as there is time for."""
    left_s, n = deadline.left_s - (1 - LAST_CALL) * deadline.budget_s, 0
    for text in recipes:
        left_s -= pace_s * parse_recipe(text).cycles
        n += left_s > 0
    return recipes[:n]


def _batch(pool: Candidates) -> Batch:
    return Batch(crystal=pool.crystal, support=pool.support)


def exact(data: Measurement, found: Solution, deadline: Deadline) -> Solution:
    """Go on to what single precision allows if the data are without counting noise, else leave it."""
    start = Batch(crystal=found.crystal[None], support=found.support[None])
    if deadline.is_over(LAST_CALL) or not is_without_noise(data, start, is_over=deadline.is_over):
        return found
    best, cycles, first = start, 0, misfit(found.crystal, data)["chi2"]
    for best in polish_exact(data, start, rounds=EXACT_ROUNDS):
        cycles += 1
        if deadline.is_over() or (cycles % 50 == 0 and misfit(best.result[0], data)["chi2"] < EXACT):
            break
    if misfit(best.result[0], data)["chi2"] > max(0.1 * first, EXACT):
        return found
    effort = replace(found.effort, cycles=found.effort.cycles + cycles, recipe=f"{found.effort.recipe}, then exact")
    support = support_of(best.result, level_of(data))[0]  # that of the polish is loose, for the faint rim
    return replace(found, crystal=best.result[0], support=support, effort=effort)
