"""The zoo: 200 samples of all shapes and effects, phased by ``auto`` in 30 s and by the live search."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from rich.table import Table

from cdi_stream.interface.phase_counts import method_settings
from cdi_stream.interface.phase_file import Request, phase_file
from cdi_stream.phasing.deadline import Deadline
from tests.bench import zoo
from tests.bench.phasing.shared_crystals import RIGHT, distance
from tests.bench.record import Case, Line, median, plain_table

N_SAMPLES = 200
BUDGET_S = 30.0


def cases() -> Iterator[Case]:
    """All samples of the table."""
    for number in range(zoo.FIRST, zoo.FIRST + N_SAMPLES):
        yield Case(key=f"zoo/{number}", measure=partial(phased, number))


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
    about = {"shape": case.shape, "effect": case.effect, "phase_pi": case.phase_pi, "photons": case.photons}
    about |= {"oversampling": case.oversampling, "blur_vox": list(case.blur_vox)}
    return {**about, **line, "file": None, **distance(truth, found)}


def table(lines: list[Line]) -> Table:
    """Success and verdict, over all and by what makes a sample hard."""
    columns = ("samples", "n", "found", "NMSE median", "s median", "good of found", "good & wrong")
    result = plain_table(f"Zoo (found: NMSE < {RIGHT})", *columns)
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
