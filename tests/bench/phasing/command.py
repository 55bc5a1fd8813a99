"""The command ``cdi-stream phase`` as a user starts it: its numbers, its object, its wall time."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.bench.record import Line


def phase(file: Path, *options: str) -> Line:
    """Numbers of the last line, and ``wall_s``."""
    begin_s = time.perf_counter()
    command = [sys.executable, "-m", "cdi_stream", "phase", str(file), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall_s = time.perf_counter() - begin_s
    if done.returncode not in (0, 3):
        raise RuntimeError(f"the command ended with code {done.returncode}: {done.stderr.strip()[-600:]}")
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "wall_s": wall_s, "file": None}


def phase_counts(counts: NDArray[np.float32], *options: str) -> tuple[Line, NDArray[np.complex64]]:
    """The same for an array, and the object that was written."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "counts.npy", Path(folder) / "object.npz"
        np.save(file, counts)
        line = phase(file, "--out", str(out), *options)
        with np.load(out) as written:
            return line, written["object"]
