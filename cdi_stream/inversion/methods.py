"""Kinds of refinement, one interface: a problem in, the best crystal found for it out.

Each asks the deadline after every step, is stoppable there, and gives the same result for the same problem, seed and
number of threads unless time decided how much was tried.  The queue's workers, and the command ``phase``, use the
same ones.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from cdi_stream.errors import ConfigError
from cdi_stream.inversion.chain import lab_volume, starting_point
from cdi_stream.inversion.infer import crystal_of
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.inversion.phase_retrieval import Start, crystal_from
from cdi_stream.messages import Crystal, PhasedVolume, PreparedVolume
from cdi_stream.networks.mirrors import VIEWS, mirrored_answers
from cdi_stream.networks.torchscript import load, load_trainable
from cdi_stream.networks.unsupervised import UnsupervisedSchedule, refine_weights
from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.auto import AutoSettings, solve
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch, finished
from cdi_stream.phasing.gradient import Accelerated, refine_object
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.quality import judge
from cdi_stream.phasing.ranking import (
    CLOSING,
    Candidates,
    Effort,
    Solution,
    conclude,
    forgetting,
    held_out,
    ranked,
    scalars_of,
    scored,
)
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.starts import autocorrelation_starts, random_starts, start_from
from cdi_stream.phasing.steps import Recipe
from cdi_stream.phasing.workers import side_by_side

WaitTurn = Callable[[], None]


class MethodSettings(BaseModel):
    """What the methods need beside the volume; texts and numbers only, so that a job can carry them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    network_file: Path
    network_steps: int
    network_recipe: str
    starts: int = 1
    seed: int = 1
    budget_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is to be phased: a measurement in Fourier order, and in how much time.

    ``volume`` is the same with its geometry, for a network to look at; ``start`` one crystal to go on from.
    ``report`` is told what is being done.
    """

    data: Measurement
    settings: MethodSettings
    deadline: Deadline
    volume: PreparedVolume | None = None
    start: Batch | None = None
    report: Callable[[str], None] = lambda line: None

    @property
    def device(self) -> str:
        """Where the measurement is, and what looks at it should be."""
        return str(self.data.magnitude.device)


def by_auto(problem: Problem) -> Solution:
    """What is stood behind: many coarse starts, see `cdi_stream.phasing.auto`."""
    return solve(problem.data, problem.settings.seed, problem.deadline, report=problem.report, known=problem.start)


def by_recipe(problem: Problem) -> Solution:
    """A schedule of projections, from the crystal that is there or from random starts.

    A single one sees all voxels: there is nothing to rank.
    """
    return _ranked(problem, _starts(problem), problem.settings.recipe, closing=None)


def by_object(problem: Problem) -> Solution:
    """Descent with momentum on the object, from the crystal that is there or from a search.

    As Chan et al. (2021) do by Adam, `cdi_stream.phasing.gradient`, and faster.
    """
    seen, held = held_out(problem.data, problem.settings.seed)
    others, search, is_truncated = None, Effort(starts=1, cycles=0, recipe="descent on the object"), False
    if problem.start is not None:
        start = _forgetful(problem.start, held, seen.n_axes)
    else:
        searching, settings = problem.deadline.part(0.6), AutoSettings(is_exact=False)
        found = solve(problem.data, problem.settings.seed, searching, settings, problem.report)
        start = start_from(found.finalists[0], found.support)  # as it was before it saw the held-out voxels
        others, is_truncated = found.finalists[1:], found.is_truncated
        search = replace(found.effort, recipe=f"{found.effort.recipe}, then {search.recipe}")
    batch = start
    for batch in refine_object(seen, start, Accelerated(steps=GRADIENT_STEPS)):
        if problem.deadline.is_over(0.95):
            break
    effort, pool = replace(search, cycles=search.cycles + batch.cycle), scored(seen, batch)
    if others is not None:
        support = start.support.expand(len(others), *start.support.shape[1:])
        pool = pool.before(Candidates(crystal=others, support=support, score=pool.score.expand(len(others))))
    solution = conclude(problem.data, held, pool, effort, problem.deadline)
    return replace(solution, is_truncated=solution.is_truncated or is_truncated)


def by_network(problem: Problem) -> Solution:
    """Change the network's weights for this volume (Wu et al. 2021, equations 7-8), then polish its crystal.

    The network sees interpolated magnitudes on the lab grid; the polish holds its crystal against the measured
    voxels, as the live path does.
    """
    volume, settings, device = _seen_by_network(problem), problem.settings, problem.device
    network = load(settings.network_file, device)
    lab = lab_volume(volume, network, device)
    learning = problem.deadline.part(LEARNING)
    refined = refine_weights(
        load_trainable(settings.network_file, device),
        torch.from_numpy(lab.magnitude.copy()).to(device),
        torch.from_numpy(lab.valid_pixels.copy()).to(device),
        UnsupervisedSchedule(steps=settings.network_steps),
        is_over=learning.is_over,
        passed=lambda: learning.passed_share,
    )
    start = starting_point(crystal_of(refined.crystal, lab), volume, device)
    found = _ranked(problem, [lambda: _in_fourier_order(start)], settings.network_recipe)
    schedule = f"{refined.steps} of {refined.of_steps} steps of {settings.network_file.name}, then"
    effort = replace(
        found.effort,
        cycles=found.effort.cycles + refined.of_steps,
        recipe=f"{schedule} {settings.network_recipe}",
    )
    return replace(found, effort=effort)


def by_hybrid(problem: Problem) -> Solution:
    """The network's support and phase as the start of a recipe (Wu et al. 2021, IUCrJ 8, 12).

    A single one sees all voxels, as a random one does.  More starts are its answers to mirror images of the volume,
    eight at most.
    """
    volume, settings, device = _seen_by_network(problem), problem.settings, problem.device
    network = load(settings.network_file, device)
    lab = lab_volume(volume, network, device)
    answers = mirrored_answers(network, torch.from_numpy(lab.magnitude.copy()), min(settings.starts, len(VIEWS)))
    starts = [starting_point(crystal_of(answer, lab), volume, device) for answer in answers]
    closing = None if len(starts) == 1 else CLOSING
    return _ranked(problem, [partial(_in_fourier_order, start) for start in starts], settings.recipe, closing)


METHODS: dict[str, Callable[[Problem], Solution]] = {
    "auto": by_auto,
    "recipe": by_recipe,
    "object": by_object,
    "network": by_network,
    "hybrid": by_hybrid,
}


def refine(
    method: str, phased: PhasedVolume, settings: MethodSettings, wait_turn: WaitTurn = lambda: None
) -> tuple[Crystal, str]:
    """Refine a reconstruction by the method of this name; returns the crystal and the schedule that was run.

    The crystal is on the measured voxels, judged there.
    """
    crystal, volume = phased.crystal, phased.volume
    start = Start(
        density=torch.from_numpy(crystal.density.copy()),
        support=torch.from_numpy(crystal.support.copy()),
        affine=volume.affine,
    )
    problem = Problem(
        data=measurement_of(volume),
        settings=settings,
        deadline=Deadline(settings.budget_s, time.process_time, wait_turn=wait_turn),  # being held up costs nothing
        volume=volume,
        start=_in_fourier_order(start),
    )
    found = METHODS[method](problem)
    scalars = scalars_of(found, problem.data, volume.affine.bq)
    refined = crystal_from(found.crystal, found.support, volume.affine, scalars, judge(scalars, phased.doubts))
    return refined, found.effort.recipe


def _ranked(
    problem: Problem, batches: Sequence[Callable[[], Batch]], text: str, closing: Recipe | None = CLOSING
) -> Solution:
    """Run a recipe on all starts without the held-out voxels, batches side by side, and choose."""
    seen, held = held_out(problem.data, problem.settings.seed)
    if closing is None and (problem.start is not None or problem.settings.starts == 1):  # nothing to rank
        seen, held = problem.data, torch.zeros_like(held)
    recipe, best = parse_recipe(text), _Best()

    def run_one(index: int) -> tuple[int, int]:
        if index > 0 and problem.deadline.is_over():
            return 0, 0
        batch = finished(
            recipe, seen, _forgetful(batches[index](), held, seen.n_axes), is_over=problem.deadline.is_over
        )
        best.take(scored(seen, batch))
        return len(batch), batch.cycle * len(batch)

    indices = range(len(batches))
    done = side_by_side(run_one, indices) if len(batches) > 1 else [run_one(0)]
    effort = Effort(starts=sum(one[0] for one in done), cycles=sum(one[1] for one in done), recipe=text)
    kept = best.pool.best(FINALISTS_LATE) if problem.deadline.is_over() else best.pool
    pool = ranked(kept, problem.data, held)
    return conclude(problem.data, held, pool, effort, problem.deadline, closing)


def _forgetful(batch: Batch, held: torch.Tensor, n_axes: int) -> Batch:
    return replace(batch, crystal=forgetting(batch.result, held, n_axes))


class _Best:
    """The best candidates so far, from several threads; the others are let go of at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: Candidates | None = None

    @property
    def pool(self) -> Candidates:
        """What was best."""
        assert self._pool is not None
        return self._pool

    def take(self, found: Candidates) -> None:
        """Let more compete."""
        with self._lock:
            self._pool = found.joined(self._pool).best(FINALISTS)


LEARNING = 0.8
"""Share of the budget in which a network's weights may be changed."""
GRADIENT_STEPS = 1000
"""Steps on the object: in a support that stays the misfit stands still after a few hundred."""
FINALISTS = 10
"""Starts that are held against the voxels they never saw, if there is time ..."""
FINALISTS_LATE = 3
"""... and if there is none."""
_MAX_VOXELS = {"cpu": 150_000, "cuda": 4_000_000}
"""Voxels of the starts that a thread works on at once: what its cache holds, or what keeps a GPU busy."""


def _starts(problem: Problem) -> list[Callable[[], Batch]]:
    """The crystal that is there, or random starts in batches."""
    if problem.start is not None:
        return [lambda: problem.start]
    s, magnitude = problem.settings, problem.data.magnitude
    size = max(1, _MAX_VOXELS[magnitude.device.type] // magnitude.numel())
    size = min(size, math.ceil(s.starts / torch.get_num_threads()))

    def batch(first: int) -> Batch:
        last = min(first + size, s.starts) - 1
        seeds = [1_000_003 * s.seed + k for k in range(first, last + 1)]
        if s.recipe.strip() != "masto2025-reference":
            return random_starts(problem.data, seeds)
        low, high = (0.05 + 0.1 * k / max(s.starts - 1, 1) for k in (first, last))
        return autocorrelation_starts(problem.data, seeds, (low, high))

    return [partial(batch, first) for first in range(0, s.starts, size)]


def _seen_by_network(problem: Problem) -> PreparedVolume:
    if problem.volume is None:
        raise ConfigError("--method network and hybrid: expected a volume of three axes; use auto, recipe or object")
    return problem.volume


def _in_fourier_order(start: Start) -> Batch:
    return start_from(to_fourier_order(start.density), to_fourier_order(start.support))
