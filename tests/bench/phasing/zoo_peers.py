"""Random starts of cohere_core on samples of the zoo, for comparison."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.bench import zoo
from tests.bench.phasing.shared_crystals import distance
from tests.bench.phasing.speed import PYTHON
from tests.bench.phasing.zoo import about
from tests.bench.record import Case, Line, SkippedError

N_SAMPLES, N_STARTS = 20, 3
SEQUENCES = {
    "coherent": "50*ER+50*HIO+50*ER+50*HIO+50*ER+50*HIO+50*ER+50*HIO+50*ER+50*HIO+100*ER",
    "partly_coherent": "50*ER+50*HIO+50*ER+50*HIO+50*ERpc+50*HIOpc+50*ERpc+50*HIOpc+50*ERpc+50*HIOpc+100*ERpc",
}
"""The 600 cycles of Wu et al. (2021), without and with partial coherence in the last 400 of them."""


def cases() -> Iterator[Case]:
    """The first samples, by random starts of cohere_core."""
    for number in range(zoo.FIRST, zoo.FIRST + N_SAMPLES):
        yield Case(key=f"zoo-peers/{number}", measure=partial(by_cohere, number))


def by_cohere(number: int) -> Line:
    """Phase one sample by cohere_core, without and with its partial coherence; the crystal nearest to the truth counts.

    No start is dropped and none chosen by a number that a beamline would have, so this favours cohere_core.
    """
    if not (python := os.environ.get(PYTHON)):
        raise SkippedError(f"{PYTHON} names no Python with cohere_core and torch")
    case = zoo.sample(number)
    truth = zoo.crystal(case)
    counts, _ = zoo.measure(case, truth)
    script, nearest, seconds = Path(__file__).with_name("cohere_starts.py"), {}, 0.0
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "counts.npz", Path(folder) / "crystals.npz"
        np.savez(file, data=counts)
        for name, sequence in SEQUENCES.items():
            command = [python, str(script), str(file), str(out), sequence, str(N_STARTS)]
            subprocess.run(command, check=True, capture_output=True)
            with np.load(out) as written:
                seconds += float(written["seconds"])
                nearest[f"nmse_{name}"] = min(_distance_of_peer(truth, found) for found in written["crystals"])
    return {**about(case), **nearest, "nmse": min(nearest.values()), "seconds": seconds, "verdict": "none"}


def _distance_of_peer(truth: NDArray[np.complex64], found: NDArray[np.complex64]) -> float:
    """Return the NMSE of a crystal whose sign of the transform is not known."""
    return min(distance(truth, np.ascontiguousarray(one))["nmse"] for one in (found, np.flip(found)))
