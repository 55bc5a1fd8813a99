"""Methods of refinement with one interface: each takes a `Problem` and returns the best `Solution`.

A method checks the deadline after every step and can be stopped there.  It gives the same result for the same problem,
seed and number of threads, unless the deadline ended the search.  The workers of the refinement queue and the command
``phase`` use the same methods.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from cdi_stream.config import MethodConfig
from cdi_stream.errors import ConfigError
from cdi_stream.inversion.chain import lab_volume, starting_point
from cdi_stream.inversion.infer import crystal_of
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.inversion.phase_retrieval import Start, crystal_from
from cdi_stream.messages import Crystal, PhasedVolume, PreparedVolume
from cdi_stream.metrics import Metrics
from cdi_stream.networks.mirrors import VIEWS, mirrored_answers
from cdi_stream.networks.torchscript import load, load_trainable
from cdi_stream.networks.unsupervised import UnsupervisedSchedule, refine_weights
from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.numerics.workers import side_by_side
from cdi_stream.phasing.auto import solve
from cdi_stream.phasing.auto_settings import AutoSettings
from cdi_stream.phasing.coherence import GaussianKernel
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch, run, run_to_end
from cdi_stream.phasing.judge import judge
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.ranking import (
    ALL_VOXELS_RECIPE,
    Candidates,
    Effort,
    Solution,
    conclude,
    hold_out,
    metrics_of,
    rank_candidates,
    score_batch,
    without_held_out,
)
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.starts import autocorrelation_starts, random_starts, start_from
from cdi_stream.phasing.steps import Recipe, descent

WaitTurn = Callable[[], None]


class MethodSettings(MethodConfig):
    """Settings of the methods, in plain texts and numbers that a job of the refinement queue stores.

    Parameters
    ----------
    network_file
        Network of the methods ``network`` and ``hybrid``.
    starts
        Number of random starts.
    seed
        Seed of the random starts and of the held-out voxels.
    """

    network_file: Path
    starts: int = 1
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A measurement to be phased, with the settings and the time limit.

    Parameters
    ----------
    data
        Measurement in Fourier order.
    settings
        Settings of the method.
    deadline
        Time limit.
    volume
        The same counts with their geometry, as input of a network; None for a pattern without geometry.
    start
        Crystal from which the method starts; None: random starts.
    report
        Called with a line of text at every stage.
    """

    data: Measurement
    settings: MethodSettings
    deadline: Deadline
    volume: PreparedVolume | None = None
    start: Batch | None = None
    report: Callable[[str], None] = lambda line: None

    @property
    def device(self) -> str:
        """Device of the measurement."""
        return str(self.data.magnitude.device)


def by_auto(problem: Problem) -> Solution:
    """Return the solution of the default method, a search from many coarse starts (`cdi_stream.phasing.auto`)."""
    return solve(problem.data, problem.settings.seed, problem.deadline, report=problem.report, known=problem.start)


def by_recipe(problem: Problem) -> Solution:
    """Return the solution of a schedule of projections, from the given crystal or from random starts.

    A single start uses all voxels, since no ranking on held-out voxels is needed.
    """
    return _run_and_rank(problem, _starts(problem), problem.settings.recipe, last_recipe=None)


def by_object(problem: Problem) -> Solution:
    """Return the solution of gradient descent with momentum on the object, from the given crystal or from a search.

    Chan et al., Applied Physics Reviews 8, 021407 (2021), doi:10.1063/5.0031486, refine the object by Adam; the descent
    of `cdi_stream.phasing.gradient` converges in fewer steps.
    """
    working_data, held = hold_out(problem.data, problem.settings.seed)
    finalists, search, is_truncated = None, Effort(starts=1, cycles=0, recipe="descent on the object"), False
    if problem.start is not None:
        start = _forget_held_out(problem.start, held, working_data.n_axes)
    else:
        search_deadline, settings = problem.deadline.part(0.6), AutoSettings(is_exact=False)
        solution = solve(problem.data, problem.settings.seed, search_deadline, settings, problem.report)
        start = start_from(solution.finalists[0], solution.support)  # before its cycles on the held-out voxels
        finalists, is_truncated = solution.finalists[1:], solution.is_truncated
        search = replace(solution.effort, recipe=f"{solution.effort.recipe}, then {search.recipe}")
    batch = start
    for batch in run(descent(GRADIENT_STEPS), working_data, start):
        if problem.deadline.is_over(0.95):
            break
    effort, pool = replace(search, cycles=search.cycles + batch.cycle), score_batch(working_data, batch)
    if finalists is not None:
        support = start.support.expand(len(finalists), *start.support.shape[1:])
        pool = pool.append(Candidates(crystal=finalists, support=support, score=pool.score.expand(len(finalists))))
    solution = conclude(problem.data, held, pool, effort, problem.deadline)
    return replace(solution, is_truncated=solution.is_truncated or is_truncated)


def by_network(problem: Problem) -> Solution:
    """Return the solution after training the network on the measured volume, and phase retrieval from its crystal.

    The network gets interpolated magnitudes on the lab grid; the phase retrieval uses the measured voxels.  Source: Wu
    et al., npj Computational Materials 7, 175 (2021), doi:10.1038/s41524-021-00644-z, equations 7-8.
    """
    volume, settings, device = _network_input(problem), problem.settings, problem.device
    network = load(settings.network_file, device)
    lab = lab_volume(volume, network, device)
    training_deadline = problem.deadline.part(TRAINING_SHARE)
    training = refine_weights(
        load_trainable(settings.network_file, device),
        torch.from_numpy(lab.magnitude.copy()).to(device),
        torch.from_numpy(lab.valid_pixels.copy()).to(device),
        UnsupervisedSchedule(steps=settings.network_steps),
        is_over=training_deadline.is_over,
        passed=lambda: training_deadline.passed_share,
    )
    start = starting_point(crystal_of(training.crystal, lab), volume, device)
    solution = _run_and_rank(problem, [lambda: _in_fourier_order(start)], settings.network_recipe)
    schedule = f"{training.steps} of {training.of_steps} steps of {settings.network_file.name}, then"
    effort = replace(
        solution.effort,
        cycles=solution.effort.cycles + training.of_steps,
        recipe=f"{schedule} {settings.network_recipe}",
    )
    return replace(solution, effort=effort)


def by_hybrid(problem: Problem) -> Solution:
    """Return the solution of a recipe that starts from the network's support and phase.

    Further starts, eight at most in total, are the network's answers to mirror images of the volume.  A single start
    uses all voxels.  Source: Wu et al., IUCrJ 8, 12 (2021), doi:10.1107/S2052252520013780.
    """
    volume, settings, device = _network_input(problem), problem.settings, problem.device
    network = load(settings.network_file, device)
    lab = lab_volume(volume, network, device)
    answers = mirrored_answers(network, torch.from_numpy(lab.magnitude.copy()), min(settings.starts, len(VIEWS)))
    starts = [starting_point(crystal_of(answer, lab), volume, device) for answer in answers]
    last_recipe = None if len(starts) == 1 else ALL_VOXELS_RECIPE
    return _run_and_rank(problem, [partial(_in_fourier_order, start) for start in starts], settings.recipe, last_recipe)


METHODS: dict[str, Callable[[Problem], Solution]] = {
    "auto": by_auto,
    "recipe": by_recipe,
    "object": by_object,
    "network": by_network,
    "hybrid": by_hybrid,
}
"""Methods by the name that configuration and command line use."""


class Watch(Protocol):
    """Follows a refinement."""

    def enter(self, stage: str) -> None:
        """Note the stage that begins."""

    def pass_share(self, share: float) -> None:
        """Note the share of the time limit that is used, 0 to 1."""


def refine(
    method: str,
    phased: PhasedVolume,
    settings: MethodSettings,
    wait_turn: WaitTurn = lambda: None,
    watch: Watch | None = None,
) -> tuple[Crystal, str]:
    """Return a refined reconstruction on the measured voxels with its verdict, and the schedule that was run.

    Parameters
    ----------
    method
        Name of the method in `METHODS`.
    phased
        Reconstruction with its counts.
    settings
        Settings of the method.
    wait_turn
        Called at every step; it may block while more urgent work runs.
    watch
        Follows the refinement, at every step.
    """

    def take_turn() -> None:
        """Wait for the turn, and tell the watch how far the refinement is."""
        wait_turn()
        if watch is not None:
            watch.pass_share(deadline.passed_share)

    crystal, volume = phased.crystal, phased.volume
    deadline = Deadline(settings.budget_s, time.process_time, wait_turn=take_turn)  # waiting costs no process time
    start = Start(
        density=torch.from_numpy(crystal.density.copy()),
        support=torch.from_numpy(crystal.support.copy()),
        affine=volume.affine,
    )
    kernel, data = _known_kernel(crystal.metrics), measurement_of(volume)
    problem = Problem(
        data=data if kernel is None or method == "auto" else kernel.apply_to(data),
        settings=settings,
        deadline=deadline,
        volume=volume,
        start=_in_fourier_order(start),
        report=watch.enter if watch is not None else lambda stage: None,
    )
    solution = METHODS[method](problem)
    if method != "auto":
        solution = replace(solution, kernel=kernel)
    metrics = metrics_of(solution, data, volume.affine.bq)
    refined_crystal = crystal_from(
        solution.crystal, solution.support, volume.affine, metrics, judge(metrics, phased.doubts)
    )
    return refined_crystal, solution.effort.recipe


def _known_kernel(metrics: Metrics) -> GaussianKernel | None:
    """Return the coherence kernel that a reconstruction found; None for coherent light."""
    widths = (metrics.blur_frame_vox, metrics.blur_row_vox, metrics.blur_col_vox)
    return None if any(map(math.isnan, widths)) else GaussianKernel(widths_vox=widths)


def _run_and_rank(
    problem: Problem, batches: Sequence[Callable[[], Batch]], text: str, last_recipe: Recipe | None = ALL_VOXELS_RECIPE
) -> Solution:
    """Run a recipe on all starts without the held-out voxels, in parallel batches, and return the best by rank."""
    working_data, held = hold_out(problem.data, problem.settings.seed)
    if last_recipe is None and (problem.start is not None or problem.settings.starts == 1):  # nothing to rank
        working_data, held = problem.data, torch.zeros_like(held)
    recipe, best = parse_recipe(text), _Best()

    def run_one(index: int) -> tuple[int, int]:
        """Run one batch of starts; return its numbers of starts and of cycles."""
        if index > 0 and problem.deadline.is_over():
            return 0, 0
        batch = run_to_end(
            recipe,
            working_data,
            _forget_held_out(batches[index](), held, working_data.n_axes),
            is_over=problem.deadline.is_over,
        )
        best.take(score_batch(working_data, batch))
        return len(batch), batch.cycle * len(batch)

    indices = range(len(batches))
    counts = side_by_side(run_one, indices) if len(batches) > 1 else [run_one(0)]
    effort = Effort(starts=sum(n for n, _ in counts), cycles=sum(n for _, n in counts), recipe=text)
    finalists = best.pool.best(FINALISTS_LATE) if problem.deadline.is_over() else best.pool
    pool = rank_candidates(finalists, problem.data, held)
    return conclude(problem.data, held, pool, effort, problem.deadline, last_recipe)


def _forget_held_out(batch: Batch, held: torch.Tensor, n_axes: int) -> Batch:
    """Return the starts without the content of the held-out voxels."""
    return replace(batch, crystal=without_held_out(batch.result, held, n_axes))


class _Best:
    """The best candidates so far, collected from several threads; worse candidates are dropped at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: Candidates | None = None

    @property
    def pool(self) -> Candidates:
        """Best candidates."""
        assert self._pool is not None
        return self._pool

    def take(self, candidates: Candidates) -> None:
        """Add candidates and keep the best."""
        with self._lock:
            self._pool = candidates.merge(self._pool).best(FINALISTS)


TRAINING_SHARE = 0.8
"""Largest share of the time limit in which the method ``network`` trains the network."""
GRADIENT_STEPS = 1000
"""Largest number of descent steps on the object; in a fixed support the misfit is constant after a few hundred."""
FINALISTS = 10
"""Largest number of candidates that are ranked on their held-out voxels before the deadline."""
FINALISTS_LATE = 3
"""Largest number of candidates that are ranked on their held-out voxels after the deadline."""
_MAX_VOXELS = {"cpu": 150_000, "cuda": 4_000_000}
"""Largest number of voxels of one batch of starts, by device; it fits a core's cache, or keeps a GPU busy."""


def _starts(problem: Problem) -> list[Callable[[], Batch]]:
    """Return functions that make the batches of starts: the crystal of the problem, or random starts."""
    if problem.start is not None:
        return [lambda: problem.start]
    s, magnitude = problem.settings, problem.data.magnitude
    size = max(1, _MAX_VOXELS[magnitude.device.type] // magnitude.numel())
    size = min(size, math.ceil(s.starts / torch.get_num_threads()))

    def batch(first: int) -> Batch:
        """Return the batch that begins with the start ``first``."""
        last = min(first + size, s.starts) - 1
        seeds = [1_000_003 * s.seed + k for k in range(first, last + 1)]
        if s.recipe.strip() != "masto2025-reference":
            return random_starts(problem.data, seeds)
        low, high = (0.05 + 0.1 * k / max(s.starts - 1, 1) for k in (first, last))
        return autocorrelation_starts(problem.data, seeds, (low, high))

    return [partial(batch, first) for first in range(0, s.starts, size)]


def _network_input(problem: Problem) -> PreparedVolume:
    """Return the volume of a problem; `ConfigError` if the pattern has two axes."""
    if problem.volume is None:
        raise ConfigError(
            "--method network and hybrid: expected a volume of three axes, got two axes; use auto, recipe or object"
        )
    return problem.volume


def _in_fourier_order(start: Start) -> Batch:
    return start_from(to_fourier_order(start.density), to_fourier_order(start.support))
