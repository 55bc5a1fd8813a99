"""Whether answers to mirror images that agree are right: agreement against the overlap with the truth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from rich.table import Table
from scipy.stats import spearmanr
from torch import Generator

from cdi_stream.networks.losses import overlaps
from cdi_stream.networks.mirrors import agreement, mirrored_answers
from cdi_stream.networks.packaged import network_file
from cdi_stream.networks.torchscript import load
from cdi_stream.training.crystals import CrystalRanges, crystals
from cdi_stream.training.diffraction import measure
from cdi_stream.training.trainer import HELD_OUT_SEED
from tests.bench.record import Case, Line, plain_table

N_CRYSTALS = 300
EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
RANGES = CrystalRanges(
    phase_range_rad=(0.0, 5 * math.pi), correlation=(0.5, 1.3), shapes=("polyhedron", "superellipsoid")
)


def cases(networks: Sequence[str]) -> Iterator[Case]:
    """Each network on all crystals."""
    for name in networks:
        yield Case(key=f"confidence/{name}", measure=partial(measured, name))


def measured(name: str) -> Line:
    """Agreement of four views, and the first one's overlap with the truth, of every crystal."""
    network, found = load(network_file(name)), []
    for k in range(N_CRYSTALS):
        generator = Generator().manual_seed(HELD_OUT_SEED + 50_000 + k)
        magnitude, truth = measure(crystals(1, 32, RANGES, generator), generator, (1e5, 1e7))
        answers = mirrored_answers(network, magnitude[0])
        found.append((agreement(answers), float(overlaps(answers[:1], truth)[0])))
    return {"agreement": [one for one, _ in found], "overlap": [other for _, other in found]}


def table(lines: list[Line]) -> Table:
    """Overlap by agreement, and their rank correlation."""
    columns = ("network", "agreement", "crystals", "overlap: mean", "lowest tenth", "rank correlation of all")
    result = plain_table("Do answers that agree lie near the truth?", *columns)
    for line in lines:
        agreed, overlap = np.array(line["agreement"]), np.array(line["overlap"])
        rank = f"{spearmanr(agreed, overlap).statistic:.2f}"
        for low, high in pairwise(EDGES):
            some = overlap[(agreed >= low) & (agreed < high)]
            if len(some):
                numbers = (str(len(some)), f"{some.mean():.2f}", f"{np.quantile(some, 0.1):.2f}")
                result.add_row(line["key"].split("/")[1], f"{low:.1f} to {high:.1f}", *numbers, rank)
    return result
