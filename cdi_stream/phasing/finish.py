"""The end of the automatic method: finalists refined in ways that better their score and harm no held-out voxels."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.gradient import fits_noise, is_without_noise, polish_exact
from cdi_stream.phasing.grid_level import GridLevel, Search, level_of, refine_each, support_of
from cdi_stream.phasing.measures import chi2
from cdi_stream.phasing.position import shift_to_even_amplitude
from cdi_stream.phasing.projections import Measurement, modelled_magnitude
from cdi_stream.phasing.quality import free_llk, misfit
from cdi_stream.phasing.ranking import Candidates, Solution, rank_candidates
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.schedules import finish_recipes
from cdi_stream.phasing.workers import n_callers

CLEARLY = 0.99
"""Score, against the winner's, at which another refinement of it is taken ..."""
UNHARMED = 1.1
"""... if the likelihood of the held-out voxels, against what it was before all of them, is not above this."""
ROUNDS = 6
"""Refinements of the winner one after the other, at most."""
LAST_CALL = 0.8
"""Share of the budget after which nothing is begun that could be left out."""
FAR_BELOW = 0.03
"""Misfit, against what counting noise leaves, below which data have none and `exact` needs no better start."""
EXACT = 2e-8
"""Misfit at which data without noise are explained."""
EXACT_ROUNDS = 12
"""Rounds of the exact polish, while there is time ..."""
TO_THE_END = 0.95
"""... which it is for this share of the budget: the crystal is moved and its support made after that ..."""
LOOK = 20
"""... and cycles between two looks at how far it is."""


def finish_finalists(
    level: GridLevel, pool: Candidates, data: Measurement, held: Tensor, search: Search, pace_s: float
) -> tuple[Candidates, str]:
    """Refine the winner in a few ways, again and again while one gives a better score and harms no ``held`` voxels.

    Then the others in the same ways: else they would be less refined than what they are compared with.  Nothing is
    begun that would take too long at ``pace_s`` a cycle, nor if the winner explains the data better than counting noise
    would let it: what is left is `exact`'s.  Returns them ranked, and what was done.
    """
    if _is_below_noise(pool, level.data):
        return pool, ""
    winner, done = _refine_winner(level, pool.best(1), data, held, search, pace_s)
    others, text = [pool.at(k) for k in range(1, len(pool))], "+".join(done)
    if done and len(_affordable((text,) * len(others), pace_s, search.deadline)) == len(others):
        new = refine_each(level, [(_batch(other), text) for other in others], search)
        others = [min(pair, key=lambda one: float(one.score[0])) for pair in zip(others, new, strict=True)]
    for other in others:
        winner = winner.append(other)
    return rank_candidates(winner, data, held), text


def _refine_winner(
    level: GridLevel, winner: Candidates, data: Measurement, held: Tensor, search: Search, pace_s: float
) -> tuple[Candidates, list[str]]:
    """A better winner, and the recipes that made it so."""
    done: list[str] = []
    limit = UNHARMED * free_llk(winner.crystal[0], data, held)[0]
    for _ in range(ROUNDS):
        recipes = _affordable(finish_recipes(level.extent_vox), pace_s, search.deadline)
        tried = refine_each(level, [(_batch(winner), how) for how in recipes], search)
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


def _affordable(recipes: tuple[str, ...], pace_s: float, deadline: Deadline) -> tuple[str, ...]:
    """As many of the recipes, from the first, as there is time for, side by side; the pace is of all threads."""
    left_s, n_threads = deadline.left_s - (1 - LAST_CALL) * deadline.budget_s, n_callers()
    cycles = [parse_recipe(text).cycles for text in recipes]
    for n in range(len(recipes), 0, -1):
        longest = max(sum(cycles[k:n:n_threads]) for k in range(n_threads))
        if n_threads * pace_s * longest < left_s:
            return recipes[:n]
    return ()


def _is_below_noise(pool: Candidates, data: Measurement) -> bool:
    found = misfit(pool.crystal[0], data)
    return found["chi2"] < FAR_BELOW * found["chi2_floor"] and not fits_noise(pool.support[0], data)


def _batch(pool: Candidates) -> Batch:
    return Batch(crystal=pool.crystal, support=pool.support)


def fit_without_noise(data: Measurement, found: Solution, deadline: Deadline) -> Solution:
    """Go on to what single precision allows if the data are without counting noise, else leave it.

    The crystal then lies `on_voxels`, and its faint rim outside of its support.
    """
    start = Batch(crystal=found.crystal[None], support=found.support[None])
    if deadline.is_over(LAST_CALL) or not is_without_noise(data, start, is_over=deadline.is_over):
        return found
    first, best, cycles = _chi2(found.crystal, data), found.crystal, 0
    least = first
    for batch in polish_exact(data, start, rounds=EXACT_ROUNDS):
        cycles += 1
        is_last = deadline.is_over(TO_THE_END)
        if (is_last or cycles % LOOK == 0) and (now := _chi2(batch.result[0], data)) < least:
            least, best = now, batch.result[0].clone()
        if is_last or least < EXACT:
            break
    if least > max(0.1 * first, EXACT):
        return found
    best = shift_to_even_amplitude(best, deadline.is_over)
    effort = replace(found.effort, cycles=found.effort.cycles + cycles, recipe=f"{found.effort.recipe}, then exact")
    return replace(found, crystal=best, support=support_of(best[None], level_of(data))[0], effort=effort)


def _chi2(crystal: Tensor, data: Measurement) -> float:
    return float(chi2(modelled_magnitude(crystal, data), data.magnitude, data.valid))
