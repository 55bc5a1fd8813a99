"""Crystals found, by the command: of five phase ranges and two kinds, by one random start, and without noise."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import groupby, product

import numpy as np
from rich.table import Table

from tests.bench.phasing.command import phase_counts
from tests.bench.phasing.shared_crystals import RIGHT, bench_common, counts, crystal, distances
from tests.bench.record import Case, Line, median, plain_table

KINDS = ("faceted", "superellipsoid")
SEEDS = range(101, 111)
EXACT_SEEDS = range(101, 104)
RECIPES = {
    "wu2021-2d": "wu2021-2d",
    "rms support": "SW[every=10,after=20,threshold=0.25,relative=rms,sigma=1.0]+300*HIO+500*RAAR+100*ER",
}


def quality() -> Iterator[Case]:
    """All that the automatic method reaches in 30 s."""
    for seed, kind, phase_pi in product(SEEDS, KINDS, range(1, 6)):
        found = partial(phased, kind, phase_pi, seed, 1e6, "--budget", "30")
        yield Case(key=f"quality/{kind}/{phase_pi} pi/seed {seed}", measure=found)


def quality_one() -> Iterator[Case]:
    """What one random start of a recipe reaches."""
    for (name, text), seed, kind, phase_pi in product(RECIPES.items(), SEEDS, KINDS, range(1, 6)):
        options = ("--method", "recipe", "--recipe", text, "--starts", "1")
        found = partial(phased, kind, phase_pi, seed, 1e6, *options)
        yield Case(key=f"quality-one/{name}/{kind}/{phase_pi} pi/seed {seed}", measure=found)


def exact() -> Iterator[Case]:
    """Crystals without noise, in 60 s; of weak phase in less than 10 s, too."""
    for seed, kind, phase_pi in product(EXACT_SEEDS, KINDS, (1, 3, 4)):
        found = partial(phased, kind, phase_pi, seed, np.inf, "--budget", "60")
        yield Case(key=f"exact/{kind}/{phase_pi} pi/seed {seed}", measure=found)
    for seed, kind in product(EXACT_SEEDS, KINDS):
        found = partial(phased, kind, 1, seed, np.inf, "--budget", "9.5")
        yield Case(key=f"exact/{kind}/1 pi in 10 s/seed {seed}", measure=found)


def phased(kind: str, phase_pi: float, seed: int, photons: float, *options: str) -> Line:
    """Phase one crystal and compare it with the truth."""
    truth = crystal(kind, phase_pi, seed)
    measured = counts(truth, seed + 1000, photons)
    line, found = phase_counts(measured, *options)
    model = np.abs(bench_common().ift(found))
    return {
        "kind": kind,
        "phase_pi": phase_pi,
        "crystal_seed": seed,
        **line,
        **distances(truth, found),
        "chi2_by_bench_common": bench_common().chi2(model, measured),
    }


def table(title: str, lines: list[Line]) -> Table:
    """Crystals found of all, by kind and phase range."""
    columns = ("of", "pi", "found", "NMSE median", "s median", "wall s max", "good", "good but wrong")
    result = plain_table(f"{title} (found: NMSE < {RIGHT})", *columns)
    for (group, phase_pi), members in groupby(sorted(lines, key=_group), key=_group):
        some = list(members)
        good = [line for line in some if line["verdict"] == "good"]
        result.add_row(
            group,
            f"{phase_pi}",
            f"{sum(line['nmse'] < RIGHT for line in some)} of {len(some)}",
            f"{median(line['nmse'] for line in some):.3f}",
            f"{median(line['seconds'] for line in some):.1f}",
            f"{max(line['wall_s'] for line in some):.1f}",
            f"{len(good)}",
            f"{sum(line['nmse'] >= RIGHT for line in good)}",
        )
    return result


def _group(line: Line) -> tuple[str, int]:
    """Recipe if there is one, and kind; phase range."""
    return "/".join(line["key"].split("/")[1:-2]), line["phase_pi"]


def exact_table(lines: list[Line]) -> Table:
    """Each crystal against its goals."""
    result = plain_table(
        "Exact (goals: chi2 1e-7, NMSE 0.01, 60 s; in 10 s 2e-6)", "crystal", "chi2", "NMSE", "wall s", "verdict"
    )
    for line in sorted(lines, key=lambda line: line["key"]):
        numbers = (f"{line['chi2']:.2e}", f"{line['nmse']:.5f}", f"{line['wall_s']:.1f}")
        result.add_row(line["key"].removeprefix("exact/"), *numbers, line["verdict"])
    return result
