"""Whether answers to mirror images that agree are right: agreement against the overlap with the truth.

On other crystals than those that a network's limit was found on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from rich.table import Table
from scipy.stats import spearmanr

from cdi_stream.networks.packaged import network_file
from cdi_stream.networks.torchscript import load
from cdi_stream.training.calibration import FIRST_SEED, RELIABLE_OVERLAP, trials
from tests.bench.record import Case, Line, plain_table

N_CRYSTALS = 300
EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def cases(networks: Sequence[str]) -> Iterator[Case]:
    """Each network on all crystals."""
    for name in networks:
        yield Case(key=f"confidence/{name}", measure=partial(measured, name))


def measured(name: str) -> Line:
    """Agreement of four views, and the first one's overlap with the truth, of every crystal; the network's limit."""
    network = load(network_file(name))
    tried = trials(network, N_CRYSTALS, FIRST_SEED + 10_000)
    lists = {"agreement": [one.agreement for one in tried], "overlap": [one.overlap for one in tried]}
    return {**lists, "sure": [network.contract.is_sure(one.agreement) for one in tried]}


def table(lines: list[Line]) -> Table:
    """Overlap by agreement, and their rank correlation."""
    columns = (
        "network",
        "agreement",
        "crystals",
        "overlap: mean",
        "lowest tenth",
        "rank correlation of all",
        "sure of: near",
    )
    result = plain_table("Do answers that agree lie near the truth?", *columns)
    for line in lines:
        agreed, overlap = np.array(line["agreement"]), np.array(line["overlap"])
        sure = overlap[np.array(line["sure"])]
        counted = f"{len(sure)}: {(sure >= RELIABLE_OVERLAP).sum()}"
        rank = f"{spearmanr(agreed, overlap).statistic:.2f}"
        for low, high in pairwise(EDGES):
            some = overlap[(agreed >= low) & (agreed < high)]
            if len(some):
                numbers = (str(len(some)), f"{some.mean():.2f}", f"{np.quantile(some, 0.1):.2f}")
                result.add_row(line["key"].split("/")[1], f"{low:.1f} to {high:.1f}", *numbers, rank, counted)
    return result
