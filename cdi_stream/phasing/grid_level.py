"""One grid of the automatic method: what is known there of the crystal's size, and candidates refined on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cdi_stream.phasing.autocorrelation import box_of
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch, run_to_end
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.pyramid import resample_crystals
from cdi_stream.phasing.ranking import Candidates, score_batch
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.schedules import sigma_for
from cdi_stream.phasing.shrink_wrap import ShrinkWrap
from cdi_stream.phasing.support import Limits, threshold_support, update_support
from cdi_stream.phasing.workers import n_callers, side_by_side

GROWTH = 1.5
"""How much larger a support may become on finer grids than it was found."""
BEYOND = 1.2
"""How much larger it may be than that of a crystal known beforehand."""
STRAINED = 0.75
"""How slanted strain may make an autocorrelation whose crystal lies upright."""
LARGEST = 0.3
"""No support may fill more than this share of the array: beyond, phases are not determined."""


@dataclass(slots=True)
class Search:
    """The time there is for a search, and what it has done so far."""

    deadline: Deadline
    starts: int = 0
    cycles: int = 0
    voxels: int = 0

    def add(self, batch: Batch, starts: int = 0) -> None:
        """Count the cycles of every start of a batch, and the voxels of all of them."""
        self.starts += starts
        self.cycles += batch.cycle * len(batch)
        self.voxels += batch.cycle * batch.crystal.numel()

    def cycle_s(self, n_voxels: int) -> float:
        """Seconds that a cycle of so many voxels may take, by all that was done so far."""
        return n_voxels * self.deadline.passed_s / max(self.voxels, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GridLevel:
    """A measurement with what its autocorrelation says of the crystal: mean extent [voxels], box over array.

    Both are smaller where the box is slanted, but for what strain alone may do, see `STRAINED`.
    ``found_share`` is the support over the array that a coarser level found, ``known_share`` that of a crystal known
    beforehand.
    """

    data: Measurement
    extent_vox: float
    box_share: float
    found_share: float | None = None
    known_share: float | None = None

    def limits(self, margin: float = 1.4) -> Limits:
        """Largest support: little more than known or found before, or for a crystal that much longer than it seems."""
        longest = self.box_share * margin**self.data.n_axes
        found = longest if self.found_share is None else GROWTH * self.found_share
        known = math.inf if self.known_share is None else BEYOND * self.known_share
        return Limits(largest=min(found, known, LARGEST))


def level_of(data: Measurement, found_share: float | None = None, known_share: float | None = None) -> GridLevel:
    """Size up a measurement."""
    box, n_axes = box_of(data), data.n_axes
    lean = min(1.0, box.slant / STRAINED)
    return GridLevel(
        data=data,
        extent_vox=sum(box.extents_vox) / n_axes * lean ** (1 / n_axes),
        box_share=math.prod(box.extents_vox) * lean / data.magnitude.numel(),
        found_share=found_share,
        known_share=known_share,
    )


def refine(level: GridLevel, start: Batch, text: str, deadline: Deadline, limits: Limits | None = None) -> Batch:
    """Run a recipe, to its end or to the deadline."""
    return run_to_end(parse_recipe(text), level.data, start, limits or level.limits(), deadline.is_over)


def refine_each(level: GridLevel, jobs: Sequence[tuple[Batch, str]], search: Search) -> list[Candidates]:
    """Batches after their recipes, some side by side."""
    largest = level.limits().largest

    def done(job: tuple[Batch, str]) -> tuple[Candidates, Batch]:
        batch = refine(level, *job, search.deadline)
        return score_batch(level.data, batch, largest), batch

    found = side_by_side(done, jobs)
    for _, batch in found:
        search.add(batch)
    return [candidates for candidates, _ in found]


def climb(level: GridLevel, crystals: Tensor, text: str, search: Search) -> Candidates:
    """Carry crystals ``(n, *shape)`` of a coarser level to this one and refine them here, the best first."""
    crystal = resample_crystals(crystals, tuple(level.data.magnitude.shape))
    whole = Batch(crystal=crystal, support=support_of(crystal, level))
    n_parts = min(n_callers(), len(whole))
    parts = [(whole.select(range(part, len(whole), n_parts)), text) for part in range(n_parts)]
    pool, *others = refine_each(level, parts, search)
    for other in others:
        pool = other.merge(pool)
    return pool


def support_of(crystals: Tensor, level: GridLevel) -> Tensor:
    """Support of carried-on crystals, relative to the rms amplitude inside."""
    wrap = ShrinkWrap(threshold=0.22, relative="rms", sigma_vox=sigma_for(level.extent_vox))
    support = threshold_support(crystals.abs(), 0.1, wrap.sigma_vox)
    for _ in range(4):
        support = update_support(support, crystals, wrap, "full", level.limits())
    return support
