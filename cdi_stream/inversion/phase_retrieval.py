"""Live phase retrieval on the measured, uninterpolated voxels: a short search from random starts.

The network's crystal takes part in the search if the network is sure of it.  A large volume is searched on a coarse
grid, where the network's crystal competes with random starts; the best crystal then gets its details on all voxels.
The crystal of an earlier scan takes part in both, and in a fixed recipe; the start wins whose result explains the data
best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cdi_stream.config import PhaseConfig
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.messages import Crystal, PreparedVolume, Verdict, read_only
from cdi_stream.metrics import Metrics
from cdi_stream.numerics.fourier import from_fourier_order, to_fourier_order
from cdi_stream.phasing.auto import solve
from cdi_stream.phasing.auto_settings import QUICK_EXPLORATION, AutoSettings
from cdi_stream.phasing.autocorrelation import box_of
from cdi_stream.phasing.coarse_to_fine import solve_large
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch, run_to_end
from cdi_stream.phasing.explore import Exploration
from cdi_stream.phasing.judge import judge
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.quality import blur_of, misfit, size_of
from cdi_stream.phasing.ranking import metrics_of, score_batch
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.schedules import loose_end
from cdi_stream.phasing.steps import Recipe
from cdi_stream.phasing.tuning import TUNING

_SEARCH_STEPS = (
    "SW[every=10,after=20,threshold=0.3,relative=rms,sigma=0.5]+50*HIO"
    "+CLIP[every=5,low=0.5,high=1.2]+60*HIO+60*RAAR+20*ER"
)
"""Search steps from the network's crystal; clipped amplitudes keep strained regions from becoming holes."""
FROM_NETWORK = f"{_SEARCH_STEPS}+CLIP[off]+SW[every=10,after=0,threshold=0.25,relative=rms,sigma=0.5]+30*ER"
"""Recipe from the network's crystal that ends with a tight shrink-wrap, for crystals of any size."""
LIVE_EXPLORATION = Exploration(starts_a_round=8, least_rounds=2, most_rounds=6, pool=12, agreeing=3)
"""Random starts of the live search, for crystals that `QUICK_EXPLORATION` does not find."""
LIVE_SEARCH = AutoSettings(
    explorations=(QUICK_EXPLORATION, LIVE_EXPLORATION),
    finalists=3,
    attempts=2,
    known_recipe=parse_recipe(FROM_NETWORK),
    is_thorough=False,
)
"""Settings of the live search from random starts; sized for three seconds on two cores at 64^3 voxels."""
LIVE_SEED = 5
"""Seed of the random starts of the live search; it differs from the refinements' seed, so that starts differ."""

_ARRAYS = ("density", "support")


def known_recipe(extent_vox: float) -> Recipe:
    """Return the recipe from the network's crystal on the coarse grid of a large volume.

    A crystal of many voxels gets a loose shrink-wrap at the end, which does not cut off strained regions.
    ``extent_vox`` is the crystal's extent [voxels].
    """
    if extent_vox < TUNING.small_crystal_vox:
        return parse_recipe(FROM_NETWORK)
    return parse_recipe(_SEARCH_STEPS).then(loose_end(extent_vox))


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Crystal and support from which phase retrieval starts, in the detector voxels of the volume, origin at N//2.

    ``ask_sure`` returns whether the network is sure of the crystal's size (`cdi_stream.networks.mirrors`).
    """

    density: Tensor
    support: Tensor
    affine: AffineMap
    ask_sure: Callable[[], bool] = lambda: False


def retrieve_phase(
    volume: PreparedVolume,
    start: Start,
    settings: PhaseConfig,
    wait_turn: Callable[[], None] = lambda: None,
    previous: Start | None = None,
) -> Crystal:
    """Return the crystal after phase retrieval on the measured voxels, in detector coordinates.

    Parameters
    ----------
    volume
        Counts with valid voxels and expected scale.
    start
        The network's crystal.
    settings
        Time limit, not counting the waiting for more urgent work; size limit; recipe instead of the search.
    wait_turn
        Called at every cycle; it may block while more urgent work runs.
    previous
        The crystal of an earlier scan on the voxels of this volume; None without one.
    """
    data = measurement_of(volume, str(start.density.device))
    batch = _batch_of([start] if previous is None else [start, previous])
    deadline = Deadline(settings.budget_s, wait_turn=wait_turn)
    if settings.recipe is not None:
        crystal, support, metrics = _run(parse_recipe(settings.recipe), data, batch, deadline)
    elif data.magnitude.numel() > settings.most_voxels:
        found = solve_large(data, batch, known_recipe, LIVE_SEED, LIVE_EXPLORATION, deadline)
        crystal, support = found.crystal, found.support
        metrics = replace(found.metrics, **blur_of(found.kernel, volume.affine.bq))
    else:
        is_sure = start.ask_sure()
        known = batch.select(range(0 if is_sure else 1, len(batch)))
        crystal, support, metrics = _search(data, known, deadline, volume.affine, is_size_known=is_sure)
    return crystal_from(crystal, support, start.affine, metrics, judge(metrics))


def _batch_of(starts: Sequence[Start]) -> Batch:
    """Return the batch of several starts, in Fourier order."""
    density, support = (torch.stack([to_fourier_order(getattr(s, name)) for s in starts]) for name in _ARRAYS)
    return Batch(crystal=density * support, support=support)


def _search(
    data: Measurement, known: Batch, deadline: Deadline, affine: AffineMap, *, is_size_known: bool
) -> tuple[Tensor, Tensor, Metrics]:
    """Return crystal, support and metrics after the search; ``known`` may be empty."""
    settings = replace(LIVE_SEARCH, is_size_known=is_size_known)
    solution = solve(data, LIVE_SEED, deadline, settings, known=known if len(known) else None)
    return solution.crystal, solution.support, metrics_of(solution, data, affine.bq)


def _run(recipe: Recipe, data: Measurement, start: Batch, deadline: Deadline) -> tuple[Tensor, Tensor, Metrics]:
    """Return crystal, support and metrics after a recipe, of the start that explains the data best."""
    batch = run_to_end(recipe, data, start, is_over=deadline.is_over)
    best = score_batch(data, batch)
    crystal, support = best.crystal[0], best.support[0]
    is_truncated = batch.cycle < recipe.cycles
    metrics = Metrics(
        **misfit(crystal, data), **size_of(support, box_of(data)), cycles=batch.cycle, is_truncated=is_truncated
    )
    return crystal, support, metrics


def crystal_from(crystal: Tensor, support: Tensor, affine: AffineMap, metrics: Metrics, verdict: Verdict) -> Crystal:
    """Return the `Crystal` of a density and a support in Fourier order."""
    return Crystal(
        density=read_only(from_fourier_order(crystal).cpu().numpy()),
        support=read_only(from_fourier_order(support).cpu().numpy()),
        affine=affine,
        metrics=metrics,
        verdict=verdict,
    )
