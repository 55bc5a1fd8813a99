"""Where a recipe begins: random, from the network's support, from its crystal, from the nearest known crystal.

Figure 5 of Wu et al. (2021), IUCrJ 8, 12, doi:10.1107/S2052252520013780, in 3D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from rich.table import Table
from torch import Generator, Tensor

from cdi_stream.networks.losses import pad_to_double
from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.engine import Batch, run
from cdi_stream.phasing.measures import chi2
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.starts import random_starts
from cdi_stream.training.crystals import CrystalRanges, crystals
from tests.bench.record import Case, Line, median, plain_table
from tests.bench.volumes import Volume, as_start, misfits, nmse, seen_by_network, volume_of

N_CRYSTALS = 3
N_REPEATS = 20
BATCH = 5
N_KNOWN = 200
EVERY = 10
_SEED = 31_000_000
"""Far from the seeds of the training and of its validation."""


def cases() -> Iterator[Case]:
    """Each way to begin on each crystal."""
    for k in range(N_CRYSTALS):
        for name in WAYS:
            yield Case(key=f"starts/{name}/crystal {k}", measure=partial(followed, name, k))


def followed(name: str, k: int) -> Line:
    """Chi2 of every start against cycles, and how far each ends from the truth."""
    volume = simulated(k)
    ends: list[float] = []
    curves: list[list[float]] = []
    cycles: list[int] = []
    for start in WAYS[name](volume):
        curve = dict(_curve(volume, start, ends))
        cycles, curves = list(curve), curves + np.array(list(curve.values())).T.tolist()
    return {
        "start": name,
        "crystal": k,
        "cycles": cycles,
        "chi2_mean": np.mean(curves, axis=0).tolist(),
        "chi2_std": np.std(curves, axis=0).tolist(),
        "chi2_end": [curve[-1] for curve in curves],
        "nmse_end": ends,
    }


def _curve(volume: Volume, start: Batch, ends: list[float]) -> Iterator[tuple[int, list[float]]]:
    """Cycle and chi2 of a batch; what it ends at goes to ``ends``."""
    data = volume.data
    yield 0, misfits(start, data)[0]
    for batch in run(parse_recipe("wu2021-2d"), data, start):
        if batch.cycle % EVERY == 0:
            yield batch.cycle, misfits(batch, data)[0]
    ends += nmse(volume, batch.result)


def simulated(k: int) -> Volume:
    """Crystal of the training's kind with the largest phase range of it, a million photons."""
    ranges = CrystalRanges(phase_range_rad=(math.pi, math.pi))
    crystal = crystals(1, 32, ranges, Generator().manual_seed(_SEED + k))[0]
    return volume_of(pad_to_double(crystal), 1e6, _SEED + k)


def _random(volume: Volume, support: Tensor | None = None) -> Iterator[Batch]:
    for first in range(0, N_REPEATS, BATCH):
        yield random_starts(volume.data, range(first, first + BATCH), support)


def _network_support(volume: Volume) -> Iterator[Batch]:
    return _random(volume, seen_by_network(volume).support[0])


def _network(volume: Volume) -> Iterator[Batch]:
    yield seen_by_network(volume)


def _nearest(volume: Volume) -> Iterator[Batch]:
    """The known crystal whose magnitudes are nearest by chi2."""
    generator, magnitude = Generator().manual_seed(_SEED + 1_000_000), to_fourier_order(volume.magnitude)
    best: tuple[float, Tensor] | None = None
    for crystal in (c for _ in range(0, N_KNOWN, 20) for c in crystals(20, 32, CrystalRanges(), generator)):
        known = volume_of(pad_to_double(crystal), math.inf, 0)
        distance = float(chi2(to_fourier_order(known.magnitude), magnitude))
        best = (distance, known.truth) if best is None or distance < best[0] else best
    assert best is not None
    yield as_start(best[1])


WAYS: dict[str, Callable[[Volume], Iterator[Batch]]] = {
    "random": _random,
    "network's support, random phase": _network_support,
    "network": _network,
    "nearest neighbour": _nearest,
}


def table(lines: list[Line]) -> Table:
    """Chi2 after some cycles, mean over starts and crystals."""
    after = (0, 50, 100, 200, 600)
    columns = ("start", "crystals", *(f"chi2 at {n}" for n in after), "NMSE median", "NMSE < 0.1")
    result = plain_table("Starts of the 600-cycle recipe", *columns)
    for name in WAYS:
        some = [line for line in lines if line["start"] == name]
        if some:
            at = [np.mean([line["chi2_mean"][line["cycles"].index(n)] for line in some]) for n in after]
            ends = [value for line in some for value in line["nmse_end"]]
            share = f"{sum(value < 0.1 for value in ends)} of {len(ends)}"
            result.add_row(name, str(len(some)), *(f"{v:.4f}" for v in at), f"{median(ends):.3f}", share)
    return result
