"""``python -m tests.bench.scale``: time, transforms and memory of ``auto`` against the size of the volume.

Each volume is phased in a process of its own, whose largest memory is read at its end.  A pair of transforms of the
same volume is timed in the same process, before and after.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from rich.console import Console

from cdi_stream.numerics.fourier import from_fourier_order
from cdi_stream.phasing.auto import solve
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.judge import judge
from cdi_stream.phasing.ranking import metrics_of
from tests.bench.crystals import Case, crystal, measured
from tests.bench.phasing.shared_crystals import distance
from tests.bench.record import plain_table
from tests.measurements import data_of

PHASE_PI = 3.0
PHOTONS = 2e7
BUDGET_S = {64: 30.0, 96: 60.0, 128: 120.0, 192: 240.0, 256: 300.0, 512: 600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One volume of ``n`` voxels along each axis; memory is over one complex volume, beyond that of the start."""

    n: int
    threads: int
    seconds: float
    pair_ms: float
    pairs: float
    volumes: float
    peak_mib: float
    nmse: float
    verdict: str


def measure(n: int, threads: int) -> Size:
    """Phase one volume in this process."""
    torch.set_num_threads(threads)
    case = Case(seed=88_000 + n, kind="polyhedron", phase_pi=PHASE_PI, photons=PHOTONS * (n / 64) ** 3, n=n)
    truth = crystal(case)
    data = data_of(*measured(case, truth))
    pair_s, begin_mib = _pair_s(n), _peak_mib()
    begin_s = time.perf_counter()
    solution = solve(data, 1, Deadline(BUDGET_S[n]))
    seconds = time.perf_counter() - begin_s
    peak_mib = _peak_mib()
    pair_s = (pair_s + _pair_s(n)) / 2
    found = from_fourier_order(solution.crystal).numpy()
    return Size(
        n=n,
        threads=threads,
        seconds=seconds,
        pair_ms=1e3 * pair_s,
        pairs=seconds / pair_s,
        volumes=(peak_mib - begin_mib) / (8 * n**3 / 2**20),
        peak_mib=peak_mib,
        nmse=distance(truth, found)["nmse"],
        verdict=judge(metrics_of(solution, data)).grade,
    )


def _pair_s(n: int) -> float:
    """Return the median time of two transforms of a volume [s]."""
    field = torch.randn((n, n, n), dtype=torch.complex64)
    times_s = []
    for _ in range(5):
        begin_s = time.perf_counter()
        field = torch.fft.fftn(torch.fft.ifftn(field))
        times_s.append(time.perf_counter() - begin_s)
    return float(np.median(times_s))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure each size with each number of threads; print a JSON line each, then a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--sizes", default="64,96,128,192,256", help="voxels along each axis")
    parser.add_argument("--threads", default="1,2", help="numbers of threads")
    parser.add_argument("--one", nargs=2, type=int, metavar=("N", "THREADS"), help="one volume, in this process")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(asdict(measure(*asked.one))))
        return
    found = plain_table("Scale of auto", "n", "threads", "s", "pair ms", "pairs", "volumes", "MiB", "NMSE", "verdict")
    for n in asked.sizes.split(","):
        for threads in asked.threads.split(","):
            command = [sys.executable, "-m", "tests.bench.scale", "--one", n, threads]
            line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            print(line, file=sys.stderr, flush=True)
            values = Size(**json.loads(line))
            numbers = (values.seconds, values.pair_ms, values.pairs, values.volumes, values.peak_mib, values.nmse)
            found.add_row(str(values.n), str(values.threads), *(f"{v:.4g}" for v in numbers), values.verdict)
    Console(soft_wrap=True, width=140).print(found)


if __name__ == "__main__":
    main()
