"""Strongly strained crystals: error reduction from a network's answer, beside the best of 60 random starts.

Masto et al. (2025) report 400 cycles from their network's phase where the best of 60 fails.  Sixty starts of 1700
cycles take seven minutes of a core at 64^3, so there are few crystals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby, product

from rich.table import Table

from cdi_stream.inversion.methods import MethodSettings
from cdi_stream.networks.packaged import DEFAULT_NETWORK, network_file
from tests.bench.crystals import Case as Crystal
from tests.bench.crystals import crystal
from tests.bench.networks.polish import phased
from tests.bench.phasing.shared_crystals import RIGHT
from tests.bench.record import Case, Line, SkippedError, median, plain_table

SEEDS = range(400_000, 400_004)
PHASES_PI = (3, 4, 5)
REFERENCE = "best of 60"
SEARCH = "auto, 10 s"


def cases(networks: Sequence[str]) -> Iterator[Case]:
    """Each crystal, by each network, by the paper's reference, and by the automatic method."""
    for seed, phase_pi in product(SEEDS, PHASES_PI):
        for way in (*networks, REFERENCE, SEARCH):
            yield Case(key=f"strained/{way}/{phase_pi} pi/{seed}", measure=partial(_measured, way, phase_pi, seed))


def _measured(way: str, phase_pi: int, seed: int) -> Line:
    kind = ("polyhedron", "superellipsoid")[seed % 2]
    case = Crystal(seed=seed, kind=kind, phase_pi=phase_pi, n=64, photons=1e6)
    method = {REFERENCE: "recipe", SEARCH: "auto"}.get(way, "hybrid")
    settings = MethodSettings(
        recipe="masto2025-er" if method == "hybrid" else "masto2025-reference",
        network_file=network_file(way) if method == "hybrid" else DEFAULT_NETWORK,
        network_steps=1,
        starts=60 if way == REFERENCE else 1,
        budget_s=10.0 if way == SEARCH else 1200.0,
    )
    line = phased(case, crystal(case), method, settings)
    if way == REFERENCE and line["is_truncated"]:
        raise SkippedError("the reference had no time for all of its starts: on a quieter machine")
    return {"way": way, "phase_pi": phase_pi, **line}


def table(lines: list[Line]) -> Table:
    """Crystals found of all, and of those that the reference does not find."""
    columns = ("way", "pi", "found", "where the best of 60 fails", "s median")
    result = plain_table(f"Strongly strained (found: NMSE < {RIGHT})", *columns)
    lost = {_place(line) for line in lines if line["way"] == REFERENCE and line["nmse"] >= RIGHT}
    for (way, phase_pi), members in groupby(sorted(lines, key=_group), key=_group):
        some = list(members)
        hard = [line for line in some if _place(line) in lost]
        counted = (f"{sum(line['nmse'] < RIGHT for line in group)} of {len(group)}" for group in (some, hard))
        result.add_row(way, f"{phase_pi}", *counted, f"{median(line['seconds'] for line in some):.1f}")
    return result


def _group(line: Line) -> tuple[str, int]:
    return line["way"], line["phase_pi"]


def _place(line: Line) -> str:
    """The crystal of a line."""
    return str(line["key"]).split("/", 2)[2]
