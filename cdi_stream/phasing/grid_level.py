"""One grid of the automatic method: the size of the crystal on it, and refinements of candidates on it.

The search goes through several grids, from coarse to fine (`cdi_stream.phasing.pyramid`).  A `GridLevel` holds the
measurement on one grid with the estimated size of the crystal, which limits the size of the supports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cdi_stream.numerics.workers import n_callers, side_by_side
from cdi_stream.phasing.autocorrelation import Box, box_of
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch, run_to_end
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.pyramid import resample_crystals
from cdi_stream.phasing.ranking import Candidates, score_batch
from cdi_stream.phasing.schedules import sigma_for
from cdi_stream.phasing.shrink_wrap import ShrinkWrap
from cdi_stream.phasing.steps import Recipe
from cdi_stream.phasing.support import Limits, threshold_support, update_support
from cdi_stream.phasing.tuning import TUNING


@dataclass(slots=True)
class Search:
    """Time budget of a search, and the work that it has done."""

    deadline: Deadline
    starts: int = 0
    """Number of random starts."""
    cycles: int = 0
    """Number of cycles, all starts together."""
    voxels: int = 0
    """Number of voxels times cycles, all starts together: the measure of time spent."""

    def add(self, crystals: Tensor, cycles: int, starts: int = 0) -> None:
        """Count ``cycles`` cycles of every crystal of ``crystals (n, *shape)``."""
        self.starts += starts
        self.cycles += cycles * len(crystals)
        self.voxels += cycles * crystals.numel()

    def include(self, part: Search) -> None:
        """Count the work of a search that was a part of this search."""
        self.starts += part.starts
        self.cycles += part.cycles
        self.voxels += part.voxels

    def cycle_s(self, n_voxels: int) -> float:
        """Return the expected time [s] of one cycle on ``n_voxels``, from the work done before."""
        return n_voxels * self.deadline.passed_s / max(self.voxels, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GridLevel:
    """A measurement on one grid, with the size of the crystal from the autocorrelation.

    Parameters
    ----------
    data
        The measurement.
    box
        The box that the crystal lies in.
    extent_vox
        Mean extent of the crystal along the axes [voxels], smaller if the box of the autocorrelation is more slanted
        than strain alone makes it (`SearchTuning.slant_of_strain`).
    box_share
        Volume of that box over the volume of the array.
    coarser_share
        Support over the array on the coarser grid; None on the coarsest grid.
    known_share
        Support over the array of a crystal that was known before the search; None without one.
    """

    data: Measurement
    box: Box
    extent_vox: float
    box_share: float
    coarser_share: float | None = None
    known_share: float | None = None

    def limits(self, margin: float = 1.4) -> Limits:
        """Return the limits of a support on this grid.

        On the coarsest grid a crystal may be ``margin`` times as long, along each axis, as the autocorrelation gives.
        Elsewhere a support may be little larger than on the coarser grid, or than that of the known crystal.
        """
        longest = self.box_share * margin**self.data.n_axes
        coarser_limit = longest if self.coarser_share is None else TUNING.support_growth * self.coarser_share
        known_limit = math.inf if self.known_share is None else TUNING.growth_of_known * self.known_share
        return Limits(largest=min(coarser_limit, known_limit, TUNING.largest_support_share))


def level_of(data: Measurement, coarser_share: float | None = None, known_share: float | None = None) -> GridLevel:
    """Return a measurement with the size of its crystal; the shares are explained at `GridLevel`."""
    box, n_axes = box_of(data), data.n_axes
    lean = min(1.0, box.slant / TUNING.slant_of_strain)
    return GridLevel(
        data=data,
        box=box,
        extent_vox=sum(box.extents_vox) / n_axes * lean ** (1 / n_axes),
        box_share=math.prod(box.extents_vox) * lean / data.magnitude.numel(),
        coarser_share=coarser_share,
        known_share=known_share,
    )


def refine(level: GridLevel, start: Batch, recipe: Recipe, deadline: Deadline, limits: Limits | None = None) -> Batch:
    """Run a recipe on a batch, to its end or to the deadline; return the crystals.

    The supports stay within ``limits``, by default the limits of the level.
    """
    return run_to_end(recipe, level.data, start, limits or level.limits(), deadline.is_over)


Start = Callable[[], Batch]
"""Returns the batch that a recipe starts from, made when its turn comes, so that it takes no memory before."""


def refine_each(level: GridLevel, jobs: Sequence[tuple[Start, Recipe]], search: Search) -> list[Candidates]:
    """Run each batch through its own recipe, several at the same time; return the candidates of each batch."""
    largest = level.limits().largest

    def refine_one(job: tuple[Start, Recipe]) -> tuple[Candidates, int]:
        """Run one batch through its recipe; return its candidates and the number of cycles."""
        start, recipe = job
        batch = refine(level, start(), recipe, search.deadline)
        return score_batch(level.data, batch, largest), batch.cycle

    results = side_by_side(refine_one, jobs)
    for candidates, cycles in results:
        search.add(candidates.crystal, cycles)
    return [candidates for candidates, _ in results]


def climb(
    level: GridLevel,
    crystals: Sequence[Tensor],
    recipe: Recipe,
    search: Search,
    change: Callable[[Tensor], Tensor] = lambda crystals: crystals,
) -> Candidates:
    """Bring crystals to this grid, refine them, and sort them by score.

    Parameters
    ----------
    level
        The grid.
    crystals
        Crystals ``(*shape)``, each on a grid of its own.
    recipe
        Recipe of all crystals.
    search
        Time limit and count of the work.
    change
        Changes crystals ``(n, *shape)`` on this grid before they are refined.
    """
    shape = tuple(level.data.magnitude.shape)

    def start(part: Sequence[Tensor]) -> Batch:
        """Return some of the crystals on this grid, with their supports."""
        crystal = change(torch.cat([resample_crystals(crystal[None], shape) for crystal in part]))
        return carried(crystal, level)

    is_large = level.data.magnitude.numel() > TUNING.most_voxels_together
    n_parts = len(crystals) if is_large else min(n_callers(), len(crystals))
    jobs = [(partial(start, crystals[k::n_parts]), recipe) for k in range(n_parts)]
    return Candidates.by_score(refine_each(level, jobs, search))


def carried(crystals: Tensor, level: GridLevel) -> Batch:
    """Return crystals ``(n, *shape)`` that were carried to this grid, with their supports."""
    return Batch(crystal=crystals, support=support_of(crystals, level))


def support_of(crystals: Tensor, level: GridLevel) -> Tensor:
    """Return the supports ``(n, *shape)`` of crystals that were carried to this grid."""
    wrap = ShrinkWrap(threshold=TUNING.carried_threshold, relative="rms", sigma_vox=sigma_for(level.extent_vox))
    support = threshold_support(crystals.abs(), TUNING.first_threshold, wrap.sigma_vox)
    for _ in range(TUNING.carried_updates):
        support = update_support(support, crystals, wrap, "full", level.limits())
    return support
