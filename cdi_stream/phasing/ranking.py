"""Candidates of a search: their score, their ranking by held-out voxels, and the final solution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cdi_stream.metrics import Metrics
from cdi_stream.numerics.workers import side_by_side
from cdi_stream.phasing.align import align
from cdi_stream.phasing.autocorrelation import box_of
from cdi_stream.phasing.bootstrap import bootstrap_nmse
from cdi_stream.phasing.coherence import GaussianKernel
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch, run_to_end
from cdi_stream.phasing.measures import chi2, held_out_islands
from cdi_stream.phasing.modes import mode_shares
from cdi_stream.phasing.projections import Measurement, direct, modelled_magnitude, reciprocal
from cdi_stream.phasing.quality import amplitude_spread, blur_of, free_llk, misfit, size_of
from cdi_stream.phasing.shells import prtf, resolution, shells
from cdi_stream.phasing.steps import Cycles, Recipe, SupportMode, recipe_of
from cdi_stream.phasing.tuning import TUNING

ALL_VOXELS_RECIPE = recipe_of(SupportMode("fixed"), Cycles("ER", 10))
"""Recipe that fits the winner to all voxels, the held-out voxels included, in its final support."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Crystals ``(n, *shape)``, zero outside their supports, with the score of `score_batch`; the best comes first."""

    crystal: Tensor
    support: Tensor
    score: Tensor

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self.score)

    def batch(self) -> Batch:
        """Return the crystals with their supports, as a recipe takes them."""
        return Batch(crystal=self.crystal, support=self.support)

    def at(self, k: int) -> Candidates:
        """Return candidate number ``k``, counted from 0, alone."""
        return self.without_first(k).best(1)

    def best(self, n: int) -> Candidates:
        """Return a copy of the first ``n`` candidates."""
        return Candidates(crystal=self.crystal[:n].clone(), support=self.support[:n].clone(), score=self.score[:n])

    def without_first(self, n: int) -> Candidates:
        """Return all candidates but the first ``n``."""
        return Candidates(crystal=self.crystal[n:], support=self.support[n:], score=self.score[n:])

    def append(self, other: Candidates) -> Candidates:
        """Return these candidates, followed by the candidates ``other``."""
        crystal, support, score = (
            torch.cat((getattr(self, name), getattr(other, name))) for name in ("crystal", "support", "score")
        )
        return Candidates(crystal=crystal, support=support, score=score)

    @staticmethod
    def by_score(parts: Sequence[Candidates]) -> Candidates:
        """Return the candidates of all parts sorted by score; of equal scores those of later parts come first."""
        rows = [(part, k) for part in reversed(parts) for k in range(len(part))]
        rows.sort(key=lambda row: float(row[0].score[row[1]]))
        return Candidates(
            crystal=torch.stack([part.crystal[k] for part, k in rows]),
            support=torch.stack([part.support[k] for part, k in rows]),
            score=torch.stack([part.score[k] for part, k in rows]),
        )

    def sort(self, by: Tensor) -> Candidates:
        """Return the candidates sorted by the values ``by (n,)``, smallest first."""
        order = by.argsort(stable=True)
        if bool((order[1:] > order[:-1]).all()):
            return self
        return Candidates(crystal=self.crystal[order], support=self.support[order], score=self.score[order])

    def merge(self, other: Candidates | None) -> Candidates:
        """Return these candidates and ``other``, sorted by score; None stands for no candidates."""
        if other is None:
            return self
        both = self.append(other)
        return both.sort(both.score)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Work of a search: random starts, cycles of all starts together, and the text of the recipe of the winner."""

    starts: int
    cycles: int
    recipe: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Crystal of a search, with its support and the numbers that judge the crystal; arrays are in Fourier order.

    Parameters
    ----------
    crystal, support
        The crystal, complex, and its support, bool, ``(*shape)`` both.
    finalists
        Crystals ``(n, *shape)`` before they saw the held-out voxels: the winner, then crystals of other starts, aligned
        with the winner.
    correlations
        Correlation of each of the other finalists with the winner, 0 to 1.
    free_llk
        Negative Poisson log-likelihood per held-out voxel, relative to the saturated model; 0 is best.
    free_llk_floor
        Value of ``free_llk`` that counting noise alone leaves.
    effort
        Work of the search.
    bootstrap_nmse
        NMSE by which counting noise alone moves the crystal, see `cdi_stream.phasing.bootstrap`.
    is_truncated
        Whether the time ran out before all steps were done.
    kernel
        Coherence kernel that was found; None for coherent light.
    frame_shifts
        Distances of the frames from even steps that were found ``(n_frames,)`` [steps]; None as the measurement says.
    aliens
        Voxels of alien peaks that were left out, bool ``(*shape)``; None if there are none.
    """

    crystal: Tensor
    support: Tensor
    finalists: Tensor
    correlations: tuple[float, ...]
    free_llk: float
    free_llk_floor: float
    effort: Effort
    bootstrap_nmse: float = math.nan
    is_truncated: bool = False
    kernel: GaussianKernel | None = None
    frame_shifts: Tensor | None = None
    aliens: Tensor | None = None

    def model_of(self, data: Measurement) -> Measurement:
        """Return the measurement with the model by which the crystal explains it, without alien peaks."""
        return with_model(without(data, self.aliens), self.kernel, self.frame_shifts)


def with_model(data: Measurement, kernel: GaussianKernel | None, frame_shifts: Tensor | None) -> Measurement:
    """Return a measurement with a coherence kernel and places of its frames; None leaves its own."""
    data = data if frame_shifts is None else replace(data, frame_shifts=frame_shifts)
    return data if kernel is None else kernel.apply_to(data)


def without(data: Measurement, aliens: Tensor | None) -> Measurement:
    """Return a measurement without the voxels of alien peaks; None for no such voxels."""
    return data if aliens is None else replace(data, valid=data.valid & ~aliens)


def score_batch(data: Measurement, batch: Batch, largest: float = 1.0) -> Candidates:
    """Return the crystals of a batch with their scores, best first.

    The score is chi2 / (1 - p)^2, where p is the number of free numbers, two per voxel of the support, per valid voxel:
    chi2 alone is lowest for the loosest support.  It is infinite for an empty support and for a support that fills more
    than ``largest`` of the array.  Generalised cross-validation: Golub, Heath and Wahba (1979), Technometrics 21, 215,
    doi:10.1080/00401706.1979.10489751.
    """
    result, n = batch.result, data.valid.numel()
    # One start after the other: arrays in double precision of a whole batch would need more memory than its recipe.
    chi2_of = [chi2(modelled_magnitude(crystal, data), data.magnitude, data.valid) for crystal in result]
    share = torch.stack([support.count_nonzero() for support in batch.support]).double() / n
    freedom = 2 * share / max(int(data.valid.count_nonzero()) / n, 1e-12)
    score = torch.stack(chi2_of) / (1 - freedom).clamp_min(1e-3).square()
    is_size_allowed = (share > 0) & (share <= largest * TUNING.size_tolerance)
    score = torch.where(score.isfinite() & is_size_allowed, score, torch.inf)
    return Candidates(crystal=result, support=batch.support, score=score).sort(score)


def rank_candidates(pool: Candidates, data: Measurement, held: Tensor) -> Candidates:
    """Return candidates sorted by the Poisson log-likelihood of the held-out voxels, which they were not fitted to.

    Favre-Nicolin, Leake and Chushkin (2020), Sci. Rep. 10, 2664, doi:10.1038/s41598-020-57561-2.
    """
    return pool.sort(torch.tensor([free_llk(crystal, data, held)[0] for crystal in pool.crystal]))


def agreement(crystals: Tensor) -> float:
    """Return the mean correlation of the other crystals ``(n, *shape)`` with the first; NaN for a single crystal."""
    matches = side_by_side(partial(align, crystals[0]), list(crystals[1:]))
    return sum(match.correlation for match in matches) / len(matches) if matches else math.nan


def hold_out(data: Measurement, seed: int) -> tuple[Measurement, Tensor]:
    """Return the measurement without some balls of voxels, and these held-out voxels, bool."""
    held = held_out_islands(
        data.valid,
        torch.Generator().manual_seed(seed),
        share=TUNING.held_out_share,
        radius_vox=TUNING.held_out_radius_vox,
        keep_centre=TUNING.held_out_centre,
    )
    return replace(data, valid=data.valid & ~held), held


def without_held_out(crystals: Tensor, held: Tensor, n_axes: int) -> Tensor:
    """Return crystals ``(n, *shape)`` whose Fourier transform is zero at the held-out voxels.

    Crystals that were fitted to all voxels lose their information about the held-out voxels.
    """
    return direct(reciprocal(crystals, n_axes).mul_(~held), n_axes)


def conclude(
    data: Measurement,
    held: Tensor,
    pool: Candidates,
    effort: Effort,
    deadline: Deadline,
    last_recipe: Recipe | None = ALL_VOXELS_RECIPE,
) -> Solution:
    """Return the solution from ranked candidates: the first is the crystal, the other candidates measure the agreement.

    Parameters
    ----------
    data
        The measurement with all voxels.
    held
        Held-out voxels, bool.
    pool
        Candidates in the order of `rank_candidates`.
    effort
        Work of the search.
    deadline
        Time budget; the bootstrap is left out when the time is over.
    last_recipe
        Recipe that fits the crystal to all voxels; None leaves the crystal as it is.
    """
    winner = pool.crystal[0]
    free, floor = free_llk(winner, data, held)
    matches = side_by_side(partial(align, winner), list(pool.crystal[1:]))
    batch = pool.best(1).batch()
    if last_recipe is not None:
        batch = run_to_end(last_recipe, data, batch, is_over=deadline.is_over)
    noise = bootstrap_nmse(data, batch, is_over=deadline.is_over)
    return Solution(
        crystal=batch.result[0],
        support=batch.support[0],
        finalists=torch.stack([winner, *(match.crystal for match in matches)]),
        correlations=tuple(match.correlation for match in matches),
        free_llk=free,
        free_llk_floor=floor,
        effort=replace(effort, cycles=effort.cycles + batch.cycle),
        bootstrap_nmse=noise,
        is_truncated=deadline.is_over(),
    )


def metrics_of(solution: Solution, data: Measurement, bq: ArrayLike | None = None) -> Metrics:
    """Return the numbers by which a solution is judged.

    Numbers that compare starts are NaN where a single crystal was carried to its end.  The amplitude spread is a number
    of three axes only.  The resolution is where the PRTF of all finalists falls to 1/e: ``resolution_m`` with ``bq``
    [1/m], else ``resolution_vox``.
    """
    data = solution.model_of(data)
    correlations, has_several = solution.correlations, len(solution.finalists) > 1
    spread = amplitude_spread(solution.crystal, solution.support)
    resolution = _resolution(solution, data, bq) if has_several else math.nan
    return Metrics(
        **misfit(solution.crystal, data),
        **size_of(solution.support, box_of(data)),
        **blur_of(solution.kernel, bq),
        uneven_steps=math.nan if solution.frame_shifts is None else float(solution.frame_shifts.square().mean().sqrt()),
        resolution_m=math.nan if bq is None else resolution,
        resolution_vox=resolution if bq is None else math.nan,
        amplitude_spread=spread,
        is_support_thin=data.n_axes == 3 and math.isnan(spread),
        free_llk=solution.free_llk,
        free_llk_floor=solution.free_llk_floor,
        agreement=sum(correlations) / len(correlations) if correlations else math.nan,
        first_mode=float(mode_shares(solution.finalists)[0]) if has_several else math.nan,
        bootstrap_nmse=solution.bootstrap_nmse,
        is_truncated=solution.is_truncated,
        alien_voxels=None if solution.aliens is None else int(solution.aliens.sum()),
        starts=solution.effort.starts,
        cycles=solution.effort.cycles,
    )


def _resolution(solution: Solution, data: Measurement, bq: ArrayLike | None) -> float:
    fields = (reciprocal(crystal, data.n_axes) * data.magnitude_scale for crystal in solution.finalists)
    over = shells(tuple(data.magnitude.shape), bq, device=str(data.magnitude.device))
    return resolution(prtf(fields, data.magnitude, over, data.valid))
