"""Whether a network is worth having: what a polish reaches from its answer, and from random starts in the same time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.table import Table

from cdi_stream.config import DEFAULT_NETWORK
from cdi_stream.phase import Request, phase_file
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.refine.methods import MethodSettings
from tests.bench.crystals import Case as Crystal
from tests.bench.crystals import crystal, measured
from tests.bench.phasing.shared_crystals import RIGHT, distance
from tests.bench.record import Case, Line, median, plain_table

N_CRYSTALS = 50
FIRST = 300_000
RECIPE = "SW[every=10,after=0,threshold=0.25,relative=rms,sigma=0.8]+150*RAAR+50*ER"
NETWORK_CYCLES = 100
"""Cycles at 64^3 that a network's forward pass and the way to its grid and back take the time of."""
WAYS = {"network": ("hybrid", RECIPE), "random": ("recipe", RECIPE.replace("150*RAAR", f"{150 + NETWORK_CYCLES}*RAAR"))}


def cases(network: Path = DEFAULT_NETWORK) -> Iterator[Case]:
    """Every crystal of every phase range, from both starts."""
    for k in range(N_CRYSTALS):
        for phase_pi in range(1, 6):
            for way in WAYS:
                name = network.stem if way == "network" else way
                found = partial(polished, way, network, phase_pi, k)
                yield Case(key=f"polish/{name}/{phase_pi} pi/{k}", measure=found)


def polished(way: str, network: Path, phase_pi: int, k: int) -> Line:
    """Phase one crystal and compare it with the truth."""
    kind = ("polyhedron", "superellipsoid")[k % 2]
    case = Crystal(seed=FIRST + 1000 * phase_pi + k, kind=kind, phase_pi=phase_pi)
    truth = crystal(case)
    counts, valid = measured(case, truth)
    method, recipe = WAYS[way]
    settings = MethodSettings(
        recipe=recipe, network_file=network, network_steps=1, network_recipe=recipe, budget_s=60.0, seed=k
    )
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "counts.npz", Path(folder) / "object.npz"
        np.savez(file, data=counts, mask=valid)
        request = Request(file=file, mask=None, method=method, settings=settings, deadline=Deadline(60.0), out=out)
        line = phase_file(request)
        with np.load(out) as written:
            found = written["object"]
    return {"start": way, "kind": kind, "phase_pi": phase_pi, **line, "file": None, **distance(truth, found)}


def table(lines: list[Line]) -> Table:
    """Crystals found of all, by start and phase range."""
    result = plain_table(f"Polish (found: NMSE < {RIGHT})", "start", "pi", "found", "NMSE median", "s median")
    for (start, phase_pi), members in groupby(sorted(lines, key=_group), key=_group):
        some = list(members)
        found = f"{sum(line['nmse'] < RIGHT for line in some)} of {len(some)}"
        numbers = (f"{median(line['nmse'] for line in some):.3f}", f"{median(line['seconds'] for line in some):.2f}")
        result.add_row(start, str(phase_pi), found, *numbers)
    return result


def _group(line: Line) -> tuple[str, int]:
    return line["key"].split("/")[1], line["phase_pi"]
