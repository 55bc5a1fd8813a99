"""Whether a network is worth having: what a polish reaches from its answer, and from random starts in the same time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.table import Table

from cdi_stream.networks.packaged import DEFAULT_NETWORK, network_file
from cdi_stream.phase import Request, phase_file
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.refine.methods import MethodSettings
from cdi_stream.training.run import TASKS
from tests.bench.crystals import Case as Crystal
from tests.bench.crystals import crystal, measured
from tests.bench.networks.baselines import written
from tests.bench.networks.papers import FOLDER, KNOWN
from tests.bench.phasing.shared_crystals import RIGHT, distance
from tests.bench.record import Case, Line, median, plain_table

N_CRYSTALS = 50
FIRST = 300_000
OURS = "unrolled"
RECIPE = "SW[every=10,after=0,threshold=0.25,relative=rms,sigma=0.8]+150*RAAR+50*ER"
NETWORK_CYCLES = 100
"""Cycles at 64^3 that a network's forward pass and the way to its grid and back take the time of."""
LONGER = RECIPE.replace("150*RAAR", f"{150 + NETWORK_CYCLES}*RAAR")
BASELINES = ("nearest", "mean")


def cases(networks: Sequence[str]) -> Iterator[Case]:
    """Every crystal of every phase range, from random starts, both baselines and these networks."""
    for k in range(N_CRYSTALS):
        for phase_pi in range(1, 6):
            for start in ("random", *BASELINES, *networks):
                yield Case(key=f"polish/{start}/{phase_pi} pi/{k}", measure=partial(polished, start, phase_pi, k))


def polished(start: str, phase_pi: int, k: int) -> Line:
    """Phase one crystal and compare it with the truth."""
    kind = ("polyhedron", "superellipsoid")[k % 2]
    case = Crystal(seed=FIRST + 1000 * phase_pi + k, kind=kind, phase_pi=phase_pi)
    truth = crystal(case)
    counts, valid = measured(case, truth)
    is_random = start == "random"
    recipe = LONGER if is_random else RECIPE
    file = written(start, TASKS[OURS], KNOWN[OURS], FOLDER) if start in BASELINES else DEFAULT_NETWORK
    if start not in ("random", *BASELINES):
        file = network_file(start)
    settings = MethodSettings(
        recipe=recipe, network_file=file, network_steps=1, network_recipe=recipe, budget_s=60.0, seed=k
    )
    with tempfile.TemporaryDirectory() as folder:
        counted, out = Path(folder) / "counts.npz", Path(folder) / "object.npz"
        np.savez(counted, data=counts, mask=valid)
        request = Request(
            file=counted,
            mask=None,
            method="recipe" if is_random else "hybrid",
            settings=settings,
            deadline=Deadline(60.0),
            out=out,
        )
        line = phase_file(request)
        with np.load(out) as result:
            found = result["object"]
    return {"start": start, "kind": kind, "phase_pi": phase_pi, **line, "file": None, **distance(truth, found)}


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
