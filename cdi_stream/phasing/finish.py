"""Last steps of the automatic method: further refinements of the finalists, and the exact fit of noise-free data."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

from torch import Tensor

from cdi_stream.numerics.workers import n_callers
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.gradient import fits_noise, is_without_noise, polish_exact
from cdi_stream.phasing.grid_level import GridLevel, Search, level_of, refine_each, support_of
from cdi_stream.phasing.measures import chi2
from cdi_stream.phasing.position import shift_to_even_amplitude
from cdi_stream.phasing.projections import Measurement, modelled_magnitude
from cdi_stream.phasing.quality import free_llk, misfit
from cdi_stream.phasing.ranking import Candidates, Solution, rank_candidates
from cdi_stream.phasing.schedules import finish_recipes
from cdi_stream.phasing.steps import Recipe
from cdi_stream.phasing.tuning import TUNING


def finish_finalists(
    level: GridLevel, pool: Candidates, data: Measurement, held: Tensor, search: Search, pace_s: float
) -> tuple[Candidates, Recipe | None]:
    """Refine the winner further, then the other finalists by the same recipes; rank them again.

    Each of `finish_recipes` is tried on the winner.  The best result replaces the winner if its score is clearly better
    and the held-out voxels are not explained worse; this is repeated while it succeeds.  The other finalists then go
    through the same recipes, so that all finalists are refined alike when they are compared.  Nothing is done if chi2
    lies far below the floor of counting noise: `fit_without_noise` continues from there.

    Parameters
    ----------
    level
        Finest grid; its measurement lacks the held-out voxels.
    pool
        Finalists, the winner first.
    data
        The measurement with all voxels.
    held
        Held-out voxels, bool, of the shape of the measurement.
    search
        Time budget and count of the work.
    pace_s
        Time of one cycle of one start on the finest grid [s]; steps that would end after the deadline are left out.

    Returns
    -------
    tuple
        The finalists, best first, and the recipe that improved the winner (None if nothing did).
    """
    if _is_below_noise(pool, level.data):
        return pool, None
    winner, recipes = _refine_winner(level, pool.best(1), data, held, search, pace_s)
    other_finalists = [pool.at(k) for k in range(1, len(pool))]
    if not recipes:
        return rank_candidates(reduce(Candidates.append, other_finalists, winner), data, held), None
    recipe = reduce(Recipe.then, recipes)
    if len(_affordable((recipe,) * len(other_finalists), pace_s, search.deadline)) == len(other_finalists):
        results = refine_each(level, [(finalist.batch, recipe) for finalist in other_finalists], search)
        pairs = zip(other_finalists, results, strict=True)
        other_finalists = [min(pair, key=lambda candidate: float(candidate.score[0])) for pair in pairs]
    return rank_candidates(reduce(Candidates.append, other_finalists, winner), data, held), recipe


def _refine_winner(
    level: GridLevel, winner: Candidates, data: Measurement, held: Tensor, search: Search, pace_s: float
) -> tuple[Candidates, list[Recipe]]:
    """Return a better winner, and the recipes that improved it, in their order."""
    improvements: list[Recipe] = []
    limit = TUNING.largest_llk_rise * free_llk(winner.crystal[0], data, held)[0]
    for _ in range(TUNING.most_refinements):
        recipes = _affordable(finish_recipes(level.extent_vox), pace_s, search.deadline)
        results = refine_each(level, [(winner.batch, recipe) for recipe in recipes], search)
        better = [
            (candidate, recipe)
            for candidate, recipe in zip(results, recipes, strict=True)
            if candidate.score[0] < TUNING.better_score * winner.score[0]
            and free_llk(candidate.crystal[0], data, held)[0] < limit
        ]
        if not better:
            break
        winner, recipe = min(better, key=lambda pair: float(pair[0].score[0]))
        improvements.append(recipe)
    return winner, improvements


def _affordable(recipes: tuple[Recipe, ...], pace_s: float, deadline: Deadline) -> tuple[Recipe, ...]:
    """Return as many of the recipes, from the first, as the time left allows when the threads share them."""
    left_s, n_threads = deadline.left_s - (1 - TUNING.optional_work_share) * deadline.budget_s, n_callers()
    cycles = [recipe.cycles for recipe in recipes]
    for n in range(len(recipes), 0, -1):
        longest = max(sum(cycles[k:n:n_threads]) for k in range(n_threads))
        if n_threads * pace_s * longest < left_s:
            return recipes[:n]
    return ()


def _is_below_noise(pool: Candidates, data: Measurement) -> bool:
    """Return whether the winner explains the data far better than counting noise would allow."""
    fit = misfit(pool.crystal[0], data)
    return fit["chi2"] < TUNING.noise_free_misfit * fit["chi2_floor"] and not fits_noise(pool.support[0], data)


def fit_without_noise(data: Measurement, solution: Solution, deadline: Deadline) -> Solution:
    """Fit data without counting noise to the limit of single precision; return other solutions unchanged.

    Simulated data, for example, have no counting noise.  The fitted crystal is shifted by less than a voxel to where
    its amplitude is most even (`shift_to_even_amplitude`), and keeps its faint rim outside of its support.
    """
    start = Batch(crystal=solution.crystal[None], support=solution.support[None])
    if deadline.is_over(TUNING.optional_work_share) or not is_without_noise(data, start, is_over=deadline.is_over):
        return solution
    first, best, cycles = _chi2(solution.crystal, data), solution.crystal, 0
    least = first
    for batch in polish_exact(data, start, rounds=TUNING.exact_rounds):
        cycles += 1
        is_last = deadline.is_over(TUNING.exact_time_share)
        is_check_due = is_last or cycles % TUNING.exact_check_cycles == 0
        if is_check_due and (now := _chi2(batch.result[0], data)) < least:
            least, best = now, batch.result[0].clone()
        if is_last or least < TUNING.exact_misfit:
            break
    if least > max(TUNING.exact_improvement * first, TUNING.exact_misfit):
        return solution
    best = shift_to_even_amplitude(best, deadline.is_over)
    effort = solution.effort
    effort = replace(effort, cycles=effort.cycles + cycles, recipe=f"{effort.recipe}, then exact")
    return replace(solution, crystal=best, support=support_of(best[None], level_of(data))[0], effort=effort)


def _chi2(crystal: Tensor, data: Measurement) -> float:
    return float(chi2(modelled_magnitude(crystal, data), data.magnitude, data.valid))
