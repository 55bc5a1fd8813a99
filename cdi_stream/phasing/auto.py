"""The automatic method: many cheap starts on a coarse grid, the best carried to the finest, ranked by what they
never saw.

1. Explore.  Batches of random starts on the middle of the diffraction, with even amplitudes (`FLAT`) and supports
   that follow the rms amplitude; until several agree, or their share of the time is over.
2. Climb.  The best go to finer and finer grids, fewer at each.
3. Choose.  At the finest grid the finalists are refined without the voxels of a few islands, and ranked by the
   Poisson log-likelihood there (free of overfitting, where chi2 is not).
4. Finish.  The winner with all voxels; on to what single precision allows if the data are without noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from cdi_stream.phasing.align import align
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch, finished
from cdi_stream.phasing.gradient import is_without_noise, polish_exact
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.pyramid import coarsened, extents_vox, levels, resampled
from cdi_stream.phasing.quality import free_llk, misfit
from cdi_stream.phasing.ranking import Candidates, Effort, Solution, conclude, forgetting, held_out, ranked, scored
from cdi_stream.phasing.recipe import Recipe, parse_recipe
from cdi_stream.phasing.starts import autocorrelation_starts
from cdi_stream.phasing.support import Limits, ShrinkWrap, threshold_support, updated
from cdi_stream.phasing.workers import callers, one_thread_each, side_by_side

AGREE = 0.93
"""Crystals agree if they correlate by this: each is within NMSE 0.07 or so of the truth, then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """How one round of starts is run: support threshold, how even amplitudes are kept, and how large a support may be.

    ``margin`` is how much longer than its autocorrelation says the crystal may be, along each axis: that of a
    strained crystal is narrower than its shape's, that of faint data wider.
    """

    threshold: float = 0.3
    even: str | None = "FLAT[every=5,low=0.5,high=1.2]"
    margin: float = 1.4


VARIANTS = (
    Variant(),
    Variant(even="FLAT[every=10,low=0.5,high=1.2]", margin=1.03),
    Variant(threshold=0.35, even="FLAT[every=5,low=0.6,high=1.3]", margin=1.03),
    Variant(even=None, margin=1.03),
    Variant(threshold=0.25, even="FLAT[every=10,low=0.5,high=1.5]", margin=1.03),
    Variant(threshold=0.4, even="FLAT[every=5,low=0.8,high=1.2]", margin=1.03),
)
"""Rounds in turn: no one of them finds every crystal."""
GROWTH = 1.2
"""How much larger a support may become on finer grids than it was found."""
CLEARLY = 0.97
"""Free likelihood, against the winner's, at which another refinement of it is taken."""
EXACT = 5e-8
"""Misfit at which data without noise are explained."""
EXACT_ROUNDS = 12
"""Rounds of the exact polish, while there is time."""
LAST_CALL = 0.8
"""Share of the budget after which nothing is begun that could be left out."""
LARGEST = 0.3
"""No support may fill more than this share of the array: beyond, phases are not determined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoSettings:
    """How much is tried; times are shares of the budget."""

    starts_a_round: int = 16
    pool: int = 24
    least_rounds: int = 4
    most_rounds: int = 60
    agreeing: int = 5
    explore_share: float = 0.4
    finalists: int = 4


@dataclass(slots=True)
class Search:
    """What the search has done so far."""

    starts: int = 0
    cycles: int = 0

    def add(self, batch: Batch, starts: int = 0) -> None:
        """Count the cycles of every start of a batch."""
        self.starts += starts
        self.cycles += batch.cycle * len(batch)


def explore_recipe(extent: float, how: Variant) -> str:
    """Schedule of the coarse level; each start ends without the constraint of even amplitudes."""
    wrap = f"SW[every=10,after=20,threshold={how.threshold},relative=rms,sigma={sigma_for(extent):.2f}]"
    even = f"{how.even}+" if how.even else ""
    return f"{wrap}+50*HIO+{even}150*HIO+200*RAAR+40*ER+FLAT[off]+10*ER"


def climb_recipe(extent: float) -> str:
    """Schedule of the levels between."""
    return f"{_wrap(0.22, extent)}+FLAT[low=0.6,high=1.4]+60*RAAR+20*ER+FLAT[off]+5*ER"


def final_recipe(extent: float) -> str:
    """Schedule of the finest level."""
    return f"{_wrap(0.2, extent)}+{_EVEN}+60*RAAR+20*ER+FLAT[off]+{_wrap(0.25, extent)}+60*ER"


def closing_recipes(extent: float) -> tuple[str, ...]:
    """What may still make the winner better: longer, or with a tighter support, as the held-out voxels decide."""
    return (
        f"{_wrap(0.25, extent)}+80*ER",
        f"{_wrap(0.3, extent)}+80*ER",
        f"{_wrap(0.3, extent)}+{_EVEN}+40*RAAR+20*ER+FLAT[off]+{_wrap(0.25, extent)}+40*ER",
        f"{_wrap(0.4, extent)}+80*ER",
    )


_EVEN = "FLAT[low=0.7,high=1.3]"


def _wrap(threshold: float, extent: float) -> str:
    return f"SW[every=10,after=0,threshold={threshold},relative=rms,sigma={sigma_for(extent):.2f}]"


def sigma_for(extent: float) -> float:
    """Blur of the support updates [voxels] for a crystal of this extent: 0.6 at 9 voxels, 1 at 25."""
    return float(min(max(0.2 * extent**0.5, 0.4), 2.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A measurement with what its autocorrelation says of the crystal: mean extent [voxels], box over array.

    ``found_share`` is the support over the array that a coarser level found.
    """

    data: Measurement
    extent_vox: float
    box_share: float
    found_share: float | None = None

    def limits(self, margin: float = 1.4) -> Limits:
        """Largest support: little more than was found, or for a crystal longer by ``margin`` than it seems."""
        longest = self.box_share * margin**self.data.n_axes
        return Limits(largest=min(longest if self.found_share is None else GROWTH * self.found_share, LARGEST))


def level_of(data: Measurement, found_share: float | None = None) -> Level:
    """Size up a measurement."""
    extents = extents_vox(data)
    box = math.prod(extent / n for extent, n in zip(extents, data.magnitude.shape, strict=True))
    extent = sum(extents) / len(extents)
    return Level(data=data, extent_vox=extent, box_share=box, found_share=found_share)


def explore(
    level: Level, seed: int, settings: AutoSettings, deadline: Deadline, search: Search
) -> Iterator[Candidates]:
    """Rounds of random starts on one level; yields the pool after as many as run side by side."""
    pool, n_threads = None, callers()

    def tried(index: int) -> tuple[Candidates, Batch]:
        return explored(level, seed, index, settings.starts_a_round, deadline)

    for index in range(0, settings.most_rounds, n_threads):
        for found, batch in side_by_side(tried, range(index, index + n_threads)):
            search.add(batch, starts=len(batch))
            pool = found.joined(pool).best(settings.pool)
        assert pool is not None
        yield pool
        if deadline.is_over(settings.explore_share):
            return


def explored(level: Level, seed: int, index: int, n_starts: int, deadline: Deadline) -> tuple[Candidates, Batch]:
    """One round: a batch of starts in one variant."""
    how = VARIANTS[index % len(VARIANTS)]
    first = 1_000_003 * seed + index * n_starts
    batch = autocorrelation_starts(level.data, range(first, first + n_starts))
    recipe = parse_recipe(explore_recipe(level.extent_vox, how))
    return refined(level, batch, recipe, deadline, level.limits(how.margin))


def refined(
    level: Level, start: Batch, recipe: Recipe, deadline: Deadline, limits: Limits | None = None
) -> tuple[Candidates, Batch]:
    """Run a recipe, to its end or to the deadline."""
    limits = limits or level.limits()
    batch = finished(recipe, level.data, start, limits, deadline.is_over)
    return scored(level.data, batch, limits.largest), batch


def is_agreed(pool: Candidates, settings: AutoSettings) -> bool:
    """Whether enough of the best agree with the very best."""
    top = pool.best(settings.agreeing + 2)
    if len(top.score) < settings.agreeing + 2:
        return False
    found = side_by_side(partial(align, top.crystal[0]), list(top.crystal[1:]))
    return sum(one.correlation > AGREE for one in found) >= settings.agreeing - 1


def climbed(level: Level, below: Candidates, text: str, deadline: Deadline, search: Search) -> Candidates:
    """Carry candidates to a finer level and refine them there, some side by side."""
    crystal = resampled(below.crystal, tuple(level.data.magnitude.shape))
    whole = Batch(crystal=crystal, support=_support_of(crystal, level))
    n_parts = min(callers(), len(whole))
    parts = [whole.chosen(range(part, len(whole), n_parts)) for part in range(n_parts)]
    pool, recipe = None, parse_recipe(text)
    for found, batch in side_by_side(lambda part: refined(level, part, recipe, deadline), parts):
        search.add(batch)
        pool = found.joined(pool)
    assert pool is not None
    return pool


def _support_of(crystals: Tensor, level: Level) -> Tensor:
    """Support of carried-on crystals, relative to the rms amplitude inside."""
    wrap = ShrinkWrap(threshold=0.22, relative="rms", sigma_vox=sigma_for(level.extent_vox))
    support = threshold_support(crystals.abs(), 0.1, wrap.sigma_vox)
    for _ in range(4):
        support = updated(support, crystals, wrap, "full", level.limits())
    return support


def solve(
    data: Measurement,
    seed: int,
    deadline: Deadline,
    settings: AutoSettings | None = None,
    report: Callable[[str], None] = lambda line: None,
    known: Batch | None = None,
) -> Solution:
    """Find the crystal of a measurement in Fourier order within the deadline.

    It begins from nothing; ``known`` crystals on the finest grid are finalists too.
    """
    with one_thread_each():  # transforms that are split among threads wait for one another on a busy machine
        return _solved(data, seed, deadline, settings or AutoSettings(), report, known)


def _solved(
    data: Measurement,
    seed: int,
    deadline: Deadline,
    settings: AutoSettings,
    report: Callable[[str], None],
    known: Batch | None,
) -> Solution:
    search = Search()
    shapes = levels(data)
    coarse = level_of(coarsened(data, shapes[0]))
    pool = None
    for pool in explore(coarse, seed, settings, deadline, search):
        is_enough = search.starts >= settings.least_rounds * settings.starts_a_round
        if is_enough and is_agreed(pool, settings):
            break
    assert pool is not None
    report(f"{search.starts} starts on {shapes[0]}: score {float(pool.score[0]):.4g}, {deadline.passed_s:.1f} s")
    keep, found_share = 3 * settings.finalists, share_of(pool, settings.finalists)
    for shape in shapes[1:-1]:
        if deadline.is_over():
            break
        level = level_of(coarsened(data, shape), found_share)
        keep = max(settings.finalists, keep * 2 // 3)
        pool = climbed(level, pool.best(keep), climb_recipe(level.extent_vox), deadline, search)
        report(f"{len(pool.score)} on {shape}: score {float(pool.score[0]):.4g}, {deadline.passed_s:.1f} s")
    pool = pool.best(1 if deadline.is_over() else settings.finalists)
    return _finish(level_of(data, found_share), pool, known, seed, deadline, search)


def share_of(pool: Candidates, n: int) -> float:
    """Median support over the array of the best ``n``."""
    return float(pool.best(n).support.flatten(1).float().mean(1).median())


def _finish(
    whole: Level, pool: Candidates, known: Batch | None, seed: int, deadline: Deadline, search: Search
) -> Solution:
    """Refine the finalists without the held-out voxels, and choose; then refine the winner in a few ways."""
    data = whole.data
    seen, held = held_out(data, seed)
    level = replace(whole, data=seen)
    carried = resampled(pool.crystal, tuple(data.magnitude.shape))
    if known is not None:
        carried = torch.cat((carried, forgetting(known, held, data.n_axes).crystal))
    pool = replace(pool, crystal=carried)
    text = final_recipe(level.extent_vox)
    pool = ranked(climbed(level, pool, text, deadline, search), data, held)
    winner = Batch(crystal=pool.crystal[:1], support=pool.support[:1])
    recipes = () if deadline.is_over(LAST_CALL) else closing_recipes(level.extent_vox)
    better = side_by_side(lambda how: refined(level, winner, parse_recipe(how), deadline), recipes)
    for _, batch in better:
        search.add(batch)
    best = bettered(pool.best(1), [found for found, _ in better], data, held)
    effort = Effort(starts=search.starts, cycles=search.cycles, recipe=text)
    return exact(data, conclude(data, held, best.before(pool.after(1)), effort, deadline), deadline)


def bettered(winner: Candidates, others: list[Candidates], data: Measurement, held: Tensor) -> Candidates:
    """The winner, or one of the others if it is clearly better at the held-out voxels."""
    free = [free_llk(one.crystal[0], data, held)[0] for one in (winner, *others)]
    best = min(range(len(free)), key=lambda k: free[k])
    return others[best - 1].best(1) if best and free[best] < CLEARLY * free[0] else winner


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
    if misfit(best.result[0], data)["chi2"] > 0.1 * first:
        return found
    effort = replace(found.effort, cycles=found.effort.cycles + cycles, recipe=f"{found.effort.recipe}, then exact")
    support = _support_of(best.result, level_of(data))[0]  # that of the polish is loose, for the faint rim
    return replace(found, crystal=best.result[0], support=support, effort=effort)
