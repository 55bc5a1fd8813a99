"""What a cycle costs: against the two transforms it cannot do without, and against cohere_core in one run."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.engine import run, run_to_end
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.starts import random_starts
from tests.bench import crystals
from tests.bench.phasing.shared_crystals import bench_common
from tests.bench.record import Case, Line, SkippedError, median, plain_table
from tests.conftest import SHARED

BLOCK = 10
"""Cycles timed at once; shrink-wrap, every ten cycles, takes part once in each block."""
WAYS = {
    "HIO": "SW[off]+900000*HIO",
    "ER": "SW[off]+900000*ER",
    "HIO, SW every 10": "SW[every=10,after=0]+900000*HIO",
    "ER, SW every 10": "SW[every=10,after=0]+900000*ER",
}
PYTHON = "CDI_STREAM_COHERE_PYTHON"


def cases() -> Iterator[Case]:
    """Both comparisons at two sizes."""
    for n, rounds in ((64, 60), (128, 12)):
        yield Case(key=f"speed/transforms/{n}", measure=partial(against_transforms, n, rounds))
    for n, rounds in ((64, 5), (128, 2)):
        yield Case(key=f"speed/cohere/{n}", measure=partial(against_cohere, n, rounds))


def against_transforms(n: int, rounds: int) -> Line:
    """Medians of the ratios of blocks: some cycles, over as many pairs of transforms just before."""
    data = measurement(n)
    pair, pair_s = _pair(n), []
    ratios: dict[str, list[float]] = {name: [] for name in WAYS}
    cycles = {name: _cycle(text, data) for name, text in WAYS.items()}
    for step in (pair, *cycles.values()):
        _block_s(step)
    for _ in range(rounds):
        for name, cycle in cycles.items():
            pair_s.append(_block_s(pair))
            ratios[name].append(_block_s(cycle) / pair_s[-1])
    return {
        "n": n,
        "pair_ms": 1e3 * median(pair_s) / BLOCK,
        "ratios": {name: median(values) for name, values in ratios.items()},
        "lower_quartiles": {name: float(np.quantile(values, 0.25)) for name, values in ratios.items()},
    }


def measurement(n: int) -> Measurement:
    """One crystal with noise."""
    case = crystals.Case(seed=80_000, kind="polyhedron", phase_pi=1.0, n=n)
    counts, valid = crystals.measured(case, crystals.crystal(case))
    return plain_measurement(counts, valid)


def plain_measurement(counts: NDArray[np.float32], valid: NDArray[np.bool_] | None = None) -> Measurement:
    """Counts with their origin at N//2, all of them valid if nothing else is said."""
    magnitude = to_fourier_order(torch.from_numpy(counts)).sqrt().contiguous()
    known = torch.ones(counts.shape, dtype=torch.bool) if valid is None else torch.from_numpy(valid)
    return Measurement(
        magnitude=magnitude, magnitude_scale=torch.ones(counts.shape), valid=to_fourier_order(known).contiguous()
    )


def _pair(n: int) -> Callable[[], object]:
    crystal = torch.randn((1, n, n, n), dtype=torch.complex64)
    field, back = torch.empty_like(crystal), torch.empty_like(crystal)

    def pair() -> None:
        torch.fft.ifftn(crystal, dim=(-3, -2, -1), norm="ortho", out=field)
        torch.fft.fftn(field, dim=(-3, -2, -1), norm="ortho", out=back)

    return pair


def _cycle(text: str, data: Measurement) -> Callable[[], object]:
    return partial(next, run(parse_recipe(text), data, random_starts(data, [1])))


def _block_s(step: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    for _ in range(BLOCK):
        step()
    return time.perf_counter() - begin_s


def against_cohere(n: int, rounds: int, cycles: int = 600) -> Line:
    """The same recipe on the same counts, in turn: milliseconds a cycle, and the median of the ratios."""
    if not (python := os.environ.get(PYTHON)):
        raise SkippedError(f"{PYTHON} names no Python with cohere_core and torch")
    common = bench_common()
    _, counts, _ = common.case(n, "faceted", np.pi, 1e6)
    recipe, data = "+".join(f"{k}*{name}" for name, k in common.recipe(cycles)), plain_measurement(counts)
    pairs = [(_ours_ms(recipe, data, seed), _theirs_ms(python, n, cycles)) for seed in range(rounds)]
    return {
        "n": n,
        "recipe": recipe,
        "ours_ms": [ours for ours, _ in pairs],
        "theirs_ms": [theirs for _, theirs in pairs],
        "ratio": median(ours / theirs for ours, theirs in pairs),
    }


def _ours_ms(text: str, data: Measurement, seed: int) -> float:
    recipe, start = parse_recipe(text), random_starts(data, [seed])
    begin_s = time.perf_counter()
    run_to_end(recipe, data, start)
    return 1e3 * (time.perf_counter() - begin_s) / recipe.cycles


def _theirs_ms(python: str, n: int, cycles: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        out, script = Path(folder) / "line.jsonl", SHARED / "bench" / "bench_cohere.py"
        options = ["--pkg", "torch", "--n", str(n), "--runs", "1", "--iters", str(cycles), "--out", str(out)]
        threads = {"BENCH_THREADS": str(torch.get_num_threads())}
        subprocess.run([python, str(script), *options], check=True, capture_output=True, env=os.environ | threads)
        return float(json.loads(out.read_text())["summary"]["ms_per_iter"])


def table(lines: list[Line]) -> Table:
    """Ratios against their goals."""
    result = plain_table("Speed", "what", "size", "measured", "goal")
    for line in lines:
        if "pair_ms" in line:
            result.add_row("two transforms", f"{line['n']}^3", f"{line['pair_ms']:.2f} ms", "")
        for name, ratio in line.get("ratios", {}).items():
            goal = "<= 1.5" if "SW" in name else "<= 1.2"
            result.add_row(f"{name}, over two transforms", f"{line['n']}^3", f"{ratio:.2f}", goal)
        if "ratio" in line:
            both = f"{line['ratio']:.2f} (best {min(line['ours_ms']):.1f} / {min(line['theirs_ms']):.1f} ms)"
            result.add_row("the 600-cycle recipe, over cohere_core's torch", f"{line['n']}^3", both, "<= 0.5")
    return result
