"""``python -m tests.bench.series``: crystals found by the live search with and without the crystal of the scan before.

The crystal of the scan before has the same shape, and a phase range that is smaller by pi; it was found by the same
search.  A foreign crystal has another shape and another phase.  Crystals are those of `tests.bench.crystals`, from
seeds that nothing was tuned or trained on.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from itertools import groupby

import torch
from rich.console import Console

from cdi_stream.config import PhaseConfig
from cdi_stream.inversion.chain import lab_volume, starting_point
from cdi_stream.inversion.infer import infer
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.inversion.phase_retrieval import Start, retrieve_phase
from cdi_stream.inversion.previous import laid_on_peak
from cdi_stream.networks.mirrors import is_sure
from cdi_stream.networks.packaged import DEFAULT_NETWORK
from cdi_stream.networks.torchscript import load
from cdi_stream.numerics.fourier import from_fourier_order, to_fourier_order
from cdi_stream.phasing.support import grow
from tests.bench.crystals import Case, crystal, measured
from tests.bench.networks.live import _prepared
from tests.bench.phasing.shared_crystals import RIGHT, distance
from tests.bench.record import Line, median, plain_table

SEEDS = range(700_000, 700_004)
PHASES_PI = (3, 4, 5)
WAYS = ("no earlier crystal", "the scan before", "a foreign crystal")


def case_of(seed: int, phase_pi: float, photons: float) -> Case:
    return Case(seed=seed, kind=("polyhedron", "superellipsoid")[seed % 2], phase_pi=phase_pi, photons=photons)


def searched(case: Case, network, before: tuple[torch.Tensor, torch.Tensor] | None) -> tuple[Line, Start]:
    """Phase one crystal as the live path does; ``before`` is a crystal with its support."""
    truth = crystal(case)
    volume, window = _prepared(*measured(case, truth))
    lab = lab_volume(volume, network)
    sure = is_sure(network, torch.from_numpy(lab.magnitude.copy()))
    start = replace(starting_point(infer(lab, network), volume, "cpu"), ask_sure=lambda: sure)
    begin_s = time.perf_counter()
    previous = None
    if before is not None:
        support = grow(before[1])
        laid = laid_on_peak(to_fourier_order(before[0] * support), measurement_of(volume))
        previous = Start(density=from_fourier_order(laid), support=support, affine=volume.affine)
    found = retrieve_phase(volume, start, PhaseConfig(), previous=previous)
    seconds = time.perf_counter() - begin_s
    density, support = (torch.from_numpy(array.copy()) for array in (found.density, found.support))
    line = {"seconds": seconds, "verdict": found.verdict.grade, "free_llk": found.metrics.free_llk}
    return {**line, **distance(truth, window.undo(density).numpy())}, (density, support)


def lines(photons: float) -> list[Line]:
    network, result = load(DEFAULT_NETWORK), []
    for phase_pi in PHASES_PI:
        for seed in SEEDS:
            _, before = searched(case_of(seed, phase_pi - 1, photons), network, None)
            _, foreign = searched(case_of(seed + 1000, 1.0, photons), network, None)
            for way, known in zip(WAYS, (None, before, foreign), strict=True):
                line, _ = searched(case_of(seed, phase_pi, photons), network, known)
                result.append({"way": way, "phase_pi": phase_pi, "seed": seed, **line})
                print(result[-1], flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photons", type=float, default=1e6)
    options = parser.parse_args()
    table = plain_table(
        f"{options.photons:g} photons (found: NMSE < {RIGHT})", "start", "pi", "found", "good", "s median"
    )
    for (way, phase_pi), members in groupby(sorted(lines(options.photons), key=_group), key=_group):
        some = list(members)
        n_found, n_good = sum(line["nmse"] < RIGHT for line in some), sum(line["verdict"] == "good" for line in some)
        seconds = f"{median(line['seconds'] for line in some):.1f}"
        table.add_row(way, f"{phase_pi}", f"{n_found} of {len(some)}", f"{n_good}", seconds)
    Console(width=120).print(table)


def _group(line: Line) -> tuple[str, int]:
    return line["way"], line["phase_pi"]


if __name__ == "__main__":
    main()
