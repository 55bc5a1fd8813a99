"""Many starts, one answer: ranked by voxels that none of them saw, aligned, and compared with one another."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cdi_stream.phasing.align import align
from cdi_stream.phasing.bootstrap import bootstrap_nmse
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch, finished
from cdi_stream.phasing.measures import chi2, held_out_islands
from cdi_stream.phasing.modes import modes
from cdi_stream.phasing.projections import Measurement, direct, modelled_magnitude, reciprocal
from cdi_stream.phasing.quality import amplitude_spread, free_llk, misfit, size_of
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.shells import prtf, resolution, shells
from cdi_stream.phasing.steps import Recipe
from cdi_stream.phasing.workers import side_by_side

CLOSING = parse_recipe("SUPPORT[fixed]+10*ER")
"""What brings the held-out voxels in at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Crystals ``(n, *shape)``, zero outside their supports, the best first, with their `scored` score."""

    crystal: Tensor
    support: Tensor
    score: Tensor

    def __len__(self) -> int:
        """How many."""
        return len(self.score)

    def only(self, k: int) -> Candidates:
        """The one of this place."""
        return self.after(k).best(1)

    def best(self, n: int) -> Candidates:
        """The first ``n``."""
        return Candidates(crystal=self.crystal[:n].clone(), support=self.support[:n].clone(), score=self.score[:n])

    def after(self, n: int) -> Candidates:
        """All but the first ``n``."""
        return Candidates(crystal=self.crystal[n:], support=self.support[n:], score=self.score[n:])

    def before(self, other: Candidates) -> Candidates:
        """Both together, these first."""
        crystal, support, score = (
            torch.cat((getattr(self, name), getattr(other, name))) for name in ("crystal", "support", "score")
        )
        return Candidates(crystal=crystal, support=support, score=score)

    def ordered(self, by: Tensor) -> Candidates:
        """In another order, smallest ``by`` first."""
        order = by.argsort(stable=True)
        return Candidates(crystal=self.crystal[order], support=self.support[order], score=self.score[order])

    def joined(self, other: Candidates | None) -> Candidates:
        """Both together in their order."""
        if other is None:
            return self
        both = self.before(other)
        return both.ordered(both.score)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What it took: independent starts, cycles of all of them together, and the schedule."""

    starts: int
    cycles: int
    recipe: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The chosen crystal in Fourier order with what is known of it.

    ``free_llk`` is over voxels that the crystal never saw, ``free_llk_floor`` what counting noise leaves of it.
    ``finalists`` ``(n, *shape)`` begin with the winner; the others, from other starts, are aligned with it, and
    ``correlations`` are theirs with the winner.  ``bootstrap_nmse`` is how far counting noise alone moves the crystal,
    see `cdi_stream.phasing.bootstrap`.  ``is_truncated`` tells that the time ran out before all was done.
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


def scored(data: Measurement, batch: Batch, largest: float = 1.0) -> Candidates:
    """Crystals of a batch, the best first; none with an empty or too large support.

    The score is chi2 / (1 - p)^2 with p the free numbers, two a voxel of the support, over the valid voxels: chi2
    alone is lowest for the loosest support.  Generalised cross-validation, Golub, Heath and Wahba (1979),
    Technometrics 21, 215, doi:10.1080/00401706.1979.10489751.
    """
    result, share = batch.result, batch.support.flatten(1).double().mean(1)
    model = modelled_magnitude(result, data)
    freedom = 2 * share / data.valid.double().mean().clamp_min(1e-12)
    score = chi2(model, data.magnitude, data.valid) / (1 - freedom).clamp_min(1e-3).square()
    score = torch.where(score.isfinite() & (share > 0) & (share <= largest * 1.01), score, torch.inf)
    return Candidates(crystal=result, support=batch.support, score=score).ordered(score)


def ranked(pool: Candidates, data: Measurement, held: Tensor) -> Candidates:
    """Candidates that never saw the ``held`` voxels, by their likelihood there.

    Favre-Nicolin, Leake & Chushkin (2020), Sci. Rep. 10, 2664, doi:10.1038/s41598-020-57561-2.
    """
    return pool.ordered(torch.tensor([free_llk(crystal, data, held)[0] for crystal in pool.crystal]))


def agreement(pool: Candidates) -> float:
    """Mean correlation of the others with the first, aligned; NaN if it is alone."""
    found = side_by_side(partial(align, pool.crystal[0]), list(pool.crystal[1:]))
    return sum(one.correlation for one in found) / len(found) if found else math.nan


def held_out(data: Measurement, seed: int) -> tuple[Measurement, Tensor]:
    """The measurement without some islands, and these."""
    held = held_out_islands(data.valid, torch.Generator().manual_seed(seed))
    return replace(data, valid=data.valid & ~held), held


def forgetting(crystals: Tensor, held: Tensor, n_axes: int) -> Tensor:
    """Crystals that had seen the held-out voxels, without what they knew of them."""
    return direct(reciprocal(crystals, n_axes) * ~held, n_axes)


def conclude(
    data: Measurement,
    held: Tensor,
    pool: Candidates,
    effort: Effort,
    deadline: Deadline,
    closing: Recipe | None = CLOSING,
) -> Solution:
    """Take the first of `ranked` candidates, compare the others with it, and let it see the ``held`` voxels.

    Without a ``closing`` recipe it stays as it is and never sees them.
    """
    winner = pool.crystal[0]
    free, floor = free_llk(winner, data, held)
    others = side_by_side(partial(align, winner), list(pool.crystal[1:]))
    batch = Batch(crystal=winner[None], support=pool.support[:1])
    if closing is not None:
        batch = finished(closing, data, batch, is_over=deadline.is_over)
    noise = bootstrap_nmse(data, batch, is_over=deadline.is_over)
    return Solution(
        crystal=batch.result[0],
        support=batch.support[0],
        finalists=torch.stack([winner, *(one.crystal for one in others)]),
        correlations=tuple(one.correlation for one in others),
        free_llk=free,
        free_llk_floor=floor,
        effort=replace(effort, cycles=effort.cycles + batch.cycle),
        bootstrap_nmse=noise,
        is_truncated=deadline.is_over(),
    )


def scalars_of(found: Solution, data: Measurement, bq: ArrayLike | None = None) -> dict[str, float]:
    """Numbers by which a solution is judged; those that compare starts are NaN with a single one.

    The amplitude's evenness is a number of three axes only, NaN where the support is too thin for it.

    ``agreement`` is the mean correlation of the other starts' crystals with the winner, ``first_mode`` the share of
    their first common mode.  The resolution is where the PRTF of them all falls to 1/e: ``resolution_m`` with ``bq``
    [1/m], else ``resolution_vox``.
    """
    correlations, several = found.correlations, len(found.finalists) > 1
    return {
        **misfit(found.crystal, data),
        **({"amplitude_spread": amplitude_spread(found.crystal, found.support)} if data.n_axes == 3 else {}),
        **size_of(found.support, data),
        "free_llk": found.free_llk,
        "free_llk_floor": found.free_llk_floor,
        "agreement": sum(correlations) / len(correlations) if correlations else math.nan,
        "first_mode": float(modes(found.finalists).shares[0]) if several else math.nan,
        "resolution_vox" if bq is None else "resolution_m": _resolution(found, data, bq) if several else math.nan,
        "bootstrap_nmse": found.bootstrap_nmse,
        "is_truncated": float(found.is_truncated),
        "starts": found.effort.starts,
        "cycles": found.effort.cycles,
    }


def _resolution(found: Solution, data: Measurement, bq: ArrayLike | None) -> float:
    fields = reciprocal(found.finalists, data.n_axes) * data.gain
    over = shells(tuple(data.magnitude.shape), bq, device=str(data.magnitude.device))
    return resolution(prtf(fields, data.magnitude, over, data.valid))
