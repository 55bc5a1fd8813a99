"""The zoo: 200 samples of all shapes and effects, phased by ``auto`` in 30 s and by the live search."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Group
from rich.table import Table

from cdi_stream.interface.phase_counts import method_settings
from cdi_stream.interface.phase_file import Request, phase_file
from cdi_stream.inversion.phase_retrieval import LIVE_SEARCH, LIVE_SEED
from cdi_stream.numerics.fourier import from_fourier_order
from cdi_stream.phasing.auto import solve
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.find_background import with_background
from cdi_stream.phasing.judge import judge
from cdi_stream.phasing.ranking import metrics_of
from tests.bench import zoo
from tests.bench.phasing.shared_crystals import RIGHT, distance
from tests.bench.record import Case, Line, median, plain_table
from tests.measurements import data_of

N_SAMPLES = 200
BUDGET_S = 30.0


def cases() -> Iterator[Case]:
    """All samples, by the command's ``auto``."""
    for number in range(zoo.FIRST, zoo.FIRST + N_SAMPLES):
        yield Case(key=f"zoo/{number}", measure=partial(phased, number))


def live_cases() -> Iterator[Case]:
    """All samples, by the live search without a network."""
    for number in range(zoo.FIRST, zoo.FIRST + N_SAMPLES):
        yield Case(key=f"zoo-live/{number}", measure=partial(searched, number))


def phased(number: int, budget_s: float = BUDGET_S) -> Line:
    """Phase one sample as the command does, in this process."""
    case = zoo.sample(number)
    truth = zoo.crystal(case)
    counts, valid = zoo.measure(case, truth)
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "counts.npz", Path(folder) / "object.npz"
        np.savez(file, data=counts, mask=valid)
        settings = method_settings(budget_s=budget_s, seed=1)
        request = Request(file=file, mask=None, method="auto", settings=settings, deadline=Deadline(budget_s), out=out)
        line = phase_file(request)
        with np.load(out) as written:
            found = written["object"]
    return {**about(case), **line, "file": None, **distance(truth, found)}


def searched(number: int) -> Line:
    """Phase one sample as the live service does from random starts."""
    case = zoo.sample(number)
    truth = zoo.crystal(case)
    data = with_background(data_of(*zoo.measure(case, truth)))
    begin_s = time.monotonic()
    solution = solve(data, LIVE_SEED, Deadline(BUDGET_S), LIVE_SEARCH)
    metrics = metrics_of(solution, data)
    numbers = {"seconds": time.monotonic() - begin_s, "verdict": judge(metrics).grade, **metrics.known()}
    return {**about(case), **numbers, **distance(truth, from_fourier_order(solution.crystal).numpy())}


def coherence_table(lines: list[Line]) -> Table:
    """Widths of the kernels found against the true widths, along all axes; blur of less than 0.3 voxels is left out."""
    result = plain_table("Coherence", "true width [voxels]", "axes", "kernel found", "found over true, 10, 50, 90 %")
    axes = [
        (true, line.get(f"blur_{name}_vox"))
        for line in lines
        for true, name in zip(line["true_blur_vox"], ("frame", "row", "col"), strict=True)
    ]
    for low, high in ((0.3, 0.5), (0.5, 0.7), (0.7, 1.0)):
        some = [(true, found) for true, found in axes if low <= true < high]
        ratios = [found / true for true, found in some if found is not None]
        quantiles = ", ".join(f"{q:.2f}" for q in np.quantile(ratios, (0.1, 0.5, 0.9))) if ratios else "-"
        result.add_row(f"{low} to {high}", str(len(some)), f"{len(ratios)} of {len(some)}", quantiles)
    sharp = [line for line in lines if not any(line["true_blur_vox"])]
    n_blurred = sum(line.get("blur_frame_vox") is not None for line in sharp)
    result.add_row("samples of coherent light", str(len(sharp)), f"{n_blurred} of {len(sharp)}", "-")
    return result


def about(case: zoo.Sample) -> Line:
    """What makes a sample hard."""
    names = ("shape", "effect", "phase_pi", "photons", "oversampling")
    return {name: getattr(case, name) for name in names} | {"true_blur_vox": list(case.blur_vox)}


def tables(title: str, lines: list[Line]) -> Group:
    """Success and verdict, and the kernels found."""
    return Group(table(title, lines), coherence_table(lines))


def table(title: str, lines: list[Line]) -> Table:
    """Success and verdict, over all and by what makes a sample hard."""
    columns = ("samples", "n", "found", "NMSE median", "s median", "good of found", "good & wrong")
    result = plain_table(f"{title} (found: NMSE < {RIGHT})", *columns)
    groups = {"all": lines}
    groups |= {name: [line for line in lines if line["effect"] == name] for name in zoo.EFFECTS}
    groups |= {name: [line for line in lines if line["shape"] == name] for name in zoo.SHAPES}
    groups |= {f"to {p} pi": [line for line in lines if p - 1 < line["phase_pi"] <= p] for p in range(2, 6)}
    groups |= {"fewer than 1e6 photons": [line for line in lines if line["photons"] < 1e6]}
    groups |= {"oversampling below 2.5": [line for line in lines if line["oversampling"] < 2.5]}
    for name, some in groups.items():
        if some:
            result.add_row(name, str(len(some)), *_numbers(some))
    return result


def _numbers(some: list[Line]) -> tuple[str, ...]:
    right = [line for line in some if line["nmse"] < RIGHT]
    good = [line for line in some if line["verdict"] == "good"]
    return (
        str(len(right)),
        f"{median(line['nmse'] for line in some):.3f}",
        f"{median(line['seconds'] for line in some):.1f}",
        f"{sum(line['verdict'] == 'good' for line in right)} of {len(right)}",
        str(sum(line["nmse"] >= RIGHT for line in good)),
    )
