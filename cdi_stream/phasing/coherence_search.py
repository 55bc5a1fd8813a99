"""Find the coherence kernel of a measurement together with its crystal, on one grid of the automatic method.

Partly coherent light blurs the intensities: fringes lose contrast, and a search with a coherent model finds no crystal
that explains them.  The crystals of such a search are still close enough to show the blur.  A crystal and a Gaussian
kernel are refined in turn from there; a kernel that stays narrow means coherent light.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

from cdi_stream.numerics.workers import side_by_side
from cdi_stream.phasing.coherence import GaussianKernel, refine_coherence
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch, run_to_end
from cdi_stream.phasing.grid_level import GridLevel, Search, climb
from cdi_stream.phasing.projections import reciprocal
from cdi_stream.phasing.ranking import Candidates, score_batch
from cdi_stream.phasing.schedules import coherence_recipe
from cdi_stream.phasing.tuning import TUNING


@dataclass(frozen=True, slots=True, kw_only=True)
class BlurLimits:
    """When a coherence kernel counts.

    Its largest width exceeds ``least_vox`` [voxels], and the score of a crystal with it is at most ``largest_score``
    times that of the best crystal without it.
    """

    least_vox: float = TUNING.least_blur_vox
    largest_score: float = 1.0


ANY_BLUR = BlurLimits()
"""Every kernel that explains the data better."""

PLAIN_BLUR = BlurLimits(least_vox=TUNING.plain_blur_vox, largest_score=TUNING.plain_blur_score)
"""Kernels that no small fault of a crystal can explain."""

QUICK_BLUR = BlurLimits(least_vox=TUNING.hopeless_blur_vox)
"""Kernels that count after fits of few rounds, in which kernels of coherent light are still wide."""

SUSPECTED_BLUR = BlurLimits(least_vox=TUNING.plain_blur_vox, largest_score=TUNING.suspected_blur_score)
"""Kernels that ask for a better look, with better crystals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blur:
    """A coherence kernel, and the score of the best crystal with it, relative to that of the best without it."""

    kernel: GaussianKernel
    score: float

    def counts(self, limits: BlurLimits) -> bool:
        """Return whether the kernel is wide enough and explains enough."""
        return max(self.kernel.widths_vox) > limits.least_vox and self.score < limits.largest_score


def find_coherence(level: GridLevel, pool: Candidates, deadline: Deadline) -> GaussianKernel | None:
    """Return the kernel with which one of the candidates explains the data best; None for coherent light.

    The fits are short, since `improve_kernel` follows on the finest grid.
    """
    rounds = TUNING.quick_coherence_rounds
    blur = look_for_blur(level, pool, deadline, least_vox=QUICK_BLUR.least_vox, rounds=rounds)
    return blur.kernel if blur.counts(QUICK_BLUR) else None


def look_for_blur(
    level: GridLevel,
    pool: Candidates,
    deadline: Deadline,
    begin: GaussianKernel | None = None,
    least_vox: float = TUNING.least_blur_vox,
    rounds: int = TUNING.coherence_rounds,
) -> Blur:
    """Return the kernel with which one of the candidates explains the data best, whether it counts or not.

    Parameters
    ----------
    level
        Grid with the measurement; its kernel, if it has one, is not used.
    pool
        Candidates on this grid, the best first.
    deadline
        Time limit.
    begin
        Kernel to begin with; None: a kernel of `SearchTuning.first_blur_vox` along each axis.
    least_vox
        Width of a kernel, after any round, below which its fit ends [voxels].
    rounds
        Number of rounds of a fit.
    """
    first = begin or GaussianKernel(widths_vox=(TUNING.first_blur_vox,) * level.data.n_axes)
    starts = [Batch(crystal=pool.crystal[k : k + 1], support=pool.support[k : k + 1]) for k in range(len(pool))]
    fits = side_by_side(partial(_fit, level, first, deadline, least_vox, rounds), starts)
    kernel, score = min(fits, key=lambda fit: fit[1])
    without = float(pool.score[0])
    return Blur(kernel=kernel, score=score / without if without > 0 else math.inf)


def is_blur(kernel: GaussianKernel) -> bool:
    """Return whether a kernel is wide enough to matter."""
    return max(kernel.widths_vox) > TUNING.least_blur_vox


def refine_with(
    kernel: GaussianKernel, level: GridLevel, pool: Candidates, search: Search
) -> tuple[GridLevel, Candidates]:
    """Return the grid with a kernel in its model, and the candidates after cycles with it."""
    blurred = replace(level, data=kernel.apply_to(level.data))
    return blurred, climb(blurred, list(pool.crystal), coherence_recipe(level.extent_vox), search)


def refine_on_finest(
    level: GridLevel, winner: Batch, kernel: GaussianKernel, deadline: Deadline
) -> GaussianKernel | None:
    """Return the kernel after refinements with the winner on the finest grid; None if it became too narrow."""
    found, _ = refine_kernel(level, winner, kernel, deadline, TUNING.finest_kernel_rounds)
    return found if is_blur(found) else None


def improve_kernel(level: GridLevel, winner: Batch, kernel: GaussianKernel) -> GaussianKernel | None:
    """Return the kernel after one refinement with the winner as it is; None if it became too narrow."""
    found = kernel.improve(reciprocal(winner.result, level.data.n_axes)[0], level.data)
    return found if is_blur(found) else None


def refine_kernel(
    level: GridLevel, batch: Batch, kernel: GaussianKernel, deadline: Deadline, rounds: int = 2
) -> tuple[GaussianKernel, Batch]:
    """Return the kernel and the crystal of a batch of one after refinements in turn, in the support of the batch."""
    *_, last = refine_coherence(level.data, batch, kernel, rounds, TUNING.descent_per_kernel, deadline.is_over)
    return last[1], last[0]


def _fit(
    level: GridLevel, kernel: GaussianKernel, deadline: Deadline, least_vox: float, rounds: int, start: Batch
) -> tuple[GaussianKernel, float]:
    """Refine one crystal and the kernel in turn; return the kernel and the score of the crystal with it.

    Cycles with shrink-wrap and descent in the support alternate.  The fit ends when the kernel is narrower than
    ``least_vox``.
    """
    batch, recipe = start, coherence_recipe(level.extent_vox)
    for _ in range(rounds):
        kernel, batch = refine_kernel(level, batch, kernel, deadline)
        if deadline.is_over() or max(kernel.widths_vox) <= least_vox:
            break
        model = kernel.apply_to(level.data)
        batch = run_to_end(recipe, model, replace(batch, cycle=0), level.limits(), deadline.is_over)
    return kernel, float(score_batch(kernel.apply_to(level.data), batch, level.limits().largest).score[0])
