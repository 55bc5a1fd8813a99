"""Extent of a search by the automatic method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cdi_stream.phasing.explore import Exploration
from cdi_stream.phasing.schedules import final_recipes
from cdi_stream.phasing.steps import Recipe

QUICK_EXPLORATION = Exploration(starts_a_round=8, pool=12, least_rounds=2, most_rounds=6, agreeing=3, length=0.5)
"""First exploration of a search; most crystals are found by it."""


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
        Whether a crystal that is not good is refined by further recipes (step 6).
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

    def extent(self, attempt: int) -> Exploration:
        """Return the extent of the exploration of an attempt, counted from 1."""
        return self.explorations[min(attempt, len(self.explorations)) - 1]
