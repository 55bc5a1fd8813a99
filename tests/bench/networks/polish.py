"""Whether a network is worth having: what a polish reaches from its answer, and from random starts in the same time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.table import Table

from cdi_stream.interface.phase_file import Request, phase_file
from cdi_stream.inversion.methods import MethodSettings
from cdi_stream.inversion.phase_retrieval import FROM_NETWORK
from cdi_stream.networks.packaged import DEFAULT_NETWORK, network_file
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.training.run import TASKS
from tests.bench.crystals import Case as Crystal
from tests.bench.crystals import Complex, crystal, measured
from tests.bench.networks.baselines import written
from tests.bench.networks.gold import gold
from tests.bench.networks.papers import FOLDER, KNOWN
from tests.bench.phasing.shared_crystals import RIGHT, distance
from tests.bench.record import Case, Line, median, plain_table

N_CRYSTALS = 50
FIRST = 300_000
OURS = "unrolled"
RECIPE = FROM_NETWORK
NETWORK_CYCLES = 100
"""Cycles at 64^3 that a network's forward pass and the way to its grid and back take the time of."""
LONGER = RECIPE.replace("60*RAAR", f"{60 + NETWORK_CYCLES}*RAAR")
BASELINES = ("nearest", "mean")


def _strained(phase_pi: int, k: int) -> tuple[Crystal, Complex]:
    kind = ("polyhedron", "superellipsoid")[k % 2]
    case = Crystal(seed=FIRST + 1000 * phase_pi + k, kind=kind, phase_pi=phase_pi)
    return case, crystal(case)


def _atomistic(k: int) -> tuple[Crystal, Complex]:
    return Crystal(seed=FIRST + k, kind="atomistic", phase_pi=float("nan")), np.pad(gold(k), 16)


SAMPLES: dict[str, Callable[[int], tuple[Crystal, Complex]]] = {
    **{f"{phase_pi} pi": partial(_strained, phase_pi) for phase_pi in range(1, 6)},
    "atomistic": _atomistic,
}


def starts(networks: Sequence[str]) -> Sequence[str]:
    """Random phases, these networks, and both baselines."""
    return ("random", *networks, *BASELINES)


def cases(starts: Sequence[str]) -> Iterator[Case]:
    """Every crystal of every kind, from each of these."""
    for k in range(N_CRYSTALS):
        for sample in SAMPLES:
            for start in starts:
                yield Case(key=f"polish/{start}/{sample}/{k}", measure=partial(polished, start, sample, k))


def polished(start: str, sample: str, k: int) -> Line:
    """Phase one crystal from one start and compare it with the truth."""
    case, truth = SAMPLES[sample](k)
    is_random = start == "random"
    recipe = LONGER if is_random else RECIPE
    settings = MethodSettings(
        recipe=recipe, network_file=_file(start), network_steps=1, network_recipe=recipe, budget_s=60.0, seed=k
    )
    line = phased(case, truth, "recipe" if is_random else "hybrid", settings)
    return {"start": start, "sample": sample, **line}


def phased(case: Crystal, truth: Complex, method: str, settings: MethodSettings) -> Line:
    """Numbers of the command ``phase`` on a simulated measurement, and how far its object is from the truth."""
    counts, valid = measured(case, truth)
    with tempfile.TemporaryDirectory() as folder:
        counted, out = Path(folder) / "counts.npz", Path(folder) / "object.npz"
        np.savez(counted, data=counts, mask=valid)
        deadline = Deadline(settings.budget_s)
        line = phase_file(
            Request(file=counted, mask=None, method=method, settings=settings, deadline=deadline, out=out)
        )
        with np.load(out) as result:
            found = result["object"]
    return {"kind": case.kind, **line, "file": None, **distance(truth, found)}


def _file(start: str) -> Path:
    """Network whose answer is the start."""
    if start in BASELINES:
        return written(start, TASKS[OURS], KNOWN[OURS], FOLDER)
    return DEFAULT_NETWORK if start == "random" else network_file(start)


def table(title: str, lines: list[Line]) -> Table:
    """Crystals found of all, by start and sample."""
    columns = ("start", "crystals", "found", "NMSE median", "s median", "good", "good but wrong")
    result = plain_table(f"{title} (found: NMSE < {RIGHT})", *columns)
    for (start, sample), members in groupby(sorted(lines, key=_group), key=_group):
        some = list(members)
        good = [line for line in some if line["verdict"] == "good"]
        found = f"{sum(line['nmse'] < RIGHT for line in some)} of {len(some)}"
        numbers = (f"{median(line['nmse'] for line in some):.3f}", f"{median(line['seconds'] for line in some):.2f}")
        wrong = sum(line["nmse"] >= RIGHT for line in good)
        result.add_row(start, sample, found, *numbers, f"{len(good)}", f"{wrong}")
    return result


def _group(line: Line) -> tuple[str, str]:
    return line["start"], line["sample"]
