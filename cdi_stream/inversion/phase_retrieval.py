"""Polish: a short search on the measured, uninterpolated voxels, beside the network's crystal if it is sure of it.

In large volumes the network's crystal goes by a recipe, and is compared with a search of their middle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from cdi_stream.geometry.affine import AffineMap
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.messages import Crystal, PreparedVolume, Verdict, read_only
from cdi_stream.numerics.fourier import from_fourier_order, to_fourier_order
from cdi_stream.phasing.auto import AutoSettings, solve
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch, run
from cdi_stream.phasing.explore import Exploration
from cdi_stream.phasing.others import compared
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.quality import judge, misfit, size_of
from cdi_stream.phasing.ranking import scalars_of
from cdi_stream.phasing.schedules import FEW_VOX, loose_and_tight, loose_end
from cdi_stream.phasing.starts import start_from
from cdi_stream.phasing.steps import Recipe

_SEARCHING = (
    "SW[every=10,after=20,threshold=0.3,relative=rms,sigma=0.5]+50*HIO"
    "+FLAT[every=5,low=0.5,high=1.2]+60*HIO+60*RAAR+20*ER"
)
"""From the network's crystal; even amplitudes keep strain from being taken for a hole, while it searches."""
FROM_NETWORK = f"{_SEARCHING}+FLAT[off]+SW[every=10,after=0,threshold=0.25,relative=rms,sigma=0.5]+30*ER"
"""The same with a tight end, for whatever size."""
SHORT = AutoSettings(
    exploration=Exploration(starts_a_round=8, least_rounds=2, most_rounds=6, pool=12, agreeing=3),
    finalists=2,
    attempts=1,
    ways=loose_and_tight,
    known_recipe=FROM_NETWORK,
    is_thorough=False,
)
"""The search beside it: what two cores do in three seconds at 64^3."""
SEED = 5
"""Of its random starts: another than that of the refinements, which would repeat them otherwise."""


def of_large(extent_vox: float) -> str:
    """From the network's crystal in a large volume: of many voxels it has a loose end, which cuts off no strain."""
    return FROM_NETWORK if extent_vox < FEW_VOX else f"{_SEARCHING}+{loose_end(extent_vox)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Crystal and support to start from, in the detector voxels of the volume, origin at N//2.

    ``ask_sure`` tells whether its size may be relied on, see `cdi_stream.networks.mirrors`.
    """

    density: Tensor
    support: Tensor
    affine: AffineMap
    ask_sure: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSettings:
    """Time that it may take at most, turns waited for not counted; or the recipe that is run instead.

    Volumes of more than ``most_voxels`` go by `of_large` from the network's crystal, and if others found another on
    a coarse grid, from theirs too; what agrees better with them is taken.
    """

    budget_s: float
    most_voxels: int
    recipe: Recipe | None = None


def retrieve_phase(
    volume: PreparedVolume,
    start: Start,
    settings: PhaseSettings,
    wait_turn: Callable[[], None] = lambda: None,
) -> Crystal:
    """Bring the crystal to what the measured voxels say; the result is in detector coordinates.

    ``wait_turn`` is called at every cycle and may hold it up.
    """
    data = measurement_of(volume, str(start.density.device))
    batch = start_from(to_fourier_order(start.density), to_fourier_order(start.support))
    deadline = Deadline(settings.budget_s, wait_turn=wait_turn)
    if settings.recipe is not None:
        crystal, support, scalars = _run(settings.recipe, data, batch, wait_turn)
    elif data.magnitude.numel() > settings.most_voxels:
        found = compared(data, batch, of_large, SEED, SHORT.exploration, deadline)
        crystal, support, scalars = found.crystal, found.support, found.scalars
    else:
        known = batch if start.ask_sure() else None
        crystal, support, scalars = _searched(data, known, deadline, volume.affine)
    return crystal_from(crystal, support, start.affine, scalars, judge(scalars))


def _searched(
    data: Measurement, start: Batch | None, deadline: Deadline, affine: AffineMap
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Crystal, support and numbers after the search."""
    found = solve(data, SEED, deadline, SHORT, known=start)
    return found.crystal, found.support, scalars_of(found, data, affine.bq)


def _run(
    recipe: Recipe, data: Measurement, start: Batch, wait_turn: Callable[[], None]
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Crystal, support and numbers after a recipe."""
    cycles = run(recipe, data, start)
    for _ in range(recipe.cycles):
        wait_turn()
        next(cycles)
    end = next(cycles)
    crystal, support = end.crystal[0], end.support[0]
    return crystal, support, {**misfit(crystal, data), **size_of(support, data), "cycles": recipe.cycles}


def crystal_from(
    crystal: Tensor, support: Tensor, affine: AffineMap, scalars: dict[str, float], verdict: Verdict
) -> Crystal:
    """Message of a crystal and a support in Fourier order."""
    return Crystal(
        density=read_only(from_fourier_order(crystal).cpu().numpy()),
        support=read_only(from_fourier_order(support).cpu().numpy()),
        affine=affine,
        scalars=scalars,
        verdict=verdict,
    )
