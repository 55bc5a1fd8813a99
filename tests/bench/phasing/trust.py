"""Whether verdicts can be trusted: crystals of all kinds with their truth, phased in little time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from rich.table import Table

from cdi_stream.interface.phase_counts import NETWORK_RECIPE
from cdi_stream.interface.phase_file import Request, phase_file
from cdi_stream.inversion.methods import MethodSettings
from cdi_stream.networks.packaged import DEFAULT_NETWORK
from cdi_stream.phasing.deadline import Deadline
from tests.bench.crystals import Case as Crystal
from tests.bench.crystals import crystal, measured
from tests.bench.phasing.shared_crystals import RIGHT, distance
from tests.bench.record import Case, Line, plain_table

N_CRYSTALS = 210
FIRST = 95_000
"""First of their seeds; those of 90 000 were looked at while limits were set."""
BUDGET_S = 15.0


def cases() -> Iterator[Case]:
    """All crystals."""
    for k in range(N_CRYSTALS):
        yield Case(key=f"verdict/{k}", measure=partial(judged, k))


def drawn(k: int) -> Crystal:
    """The crystal of this number."""
    rng = np.random.default_rng(FIRST + k)
    return Crystal(
        seed=FIRST + k,
        kind=("polyhedron", "superellipsoid")[k % 2],
        phase_pi=float(rng.choice((1, 2, 3, 4, 5))),
        photons=float(10 ** rng.uniform(5, 7)),
        has_gaps=bool(rng.random() < 0.4),
    )


def judged(k: int) -> Line:
    """Phase one crystal as the command does, in this process."""
    case = drawn(k)
    truth = crystal(case)
    counts, valid = measured(case, truth)
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "counts.npz", Path(folder) / "object.npz"
        np.savez(file, data=counts, mask=valid)
        line = phase_file(request(file, out))
        with np.load(out) as written:
            found = written["object"]
    about = {"kind": case.kind, "phase_pi": case.phase_pi, "photons": case.photons, "has_gaps": case.has_gaps}
    return {**about, **line, "file": None, **distance(truth, found)}


def request(file: Path, out: Path) -> Request:
    """The command's own with a short budget."""
    settings = MethodSettings(
        recipe="wu2021-2d",
        network_file=DEFAULT_NETWORK,
        network_steps=100_000,
        network_recipe=NETWORK_RECIPE,
        budget_s=BUDGET_S,
    )
    return Request(file=file, mask=None, method="auto", settings=settings, deadline=Deadline(BUDGET_S), out=out)


def table(lines: list[Line]) -> Table:
    """Verdict against truth, over all and by what makes it hard."""
    columns = ("crystals", "n", "good & right", "good & wrong", "right & not good", "wrong & not good", "s max")
    result = plain_table(f"Verdict (right: NMSE < {RIGHT})", *columns)
    groups = {"all": lines}
    groups |= {f"{p} pi": [line for line in lines if line["phase_pi"] == p] for p in range(1, 6)}
    groups |= {"gaps": [line for line in lines if line["has_gaps"]]}
    groups |= {"fewer than 1e6 photons": [line for line in lines if line["photons"] < 1e6]}
    for name, some in groups.items():
        if some:
            longest_s = max(line["seconds"] for line in some)
            result.add_row(name, str(len(some)), *map(str, _counted(some)), f"{longest_s:.1f}")
    return result


def _counted(lines: list[Line]) -> list[int]:
    found = [(line["verdict"] == "good", line["nmse"] < RIGHT) for line in lines]
    return [found.count(which) for which in ((True, True), (True, False), (False, True), (False, False))]
