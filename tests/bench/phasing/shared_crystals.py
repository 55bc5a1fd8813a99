"""The crystals on which all packages are compared, in our sign of the transform, and how far a crystal is from one.

They are those of ``bench_common``, from the folder of reference cases beside the checkout.  Its sign of the transform
is the other one: the conjugate of its crystal has the diffraction that we expect.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cdi_stream.phasing.align import align
from tests.bench.record import Line, SkippedError
from tests.conftest import SHARED

Complex = NDArray[np.complex64]
Floats = NDArray[np.float32]

RIGHT = 0.1
"""NMSE below which a crystal is called found."""


@lru_cache(maxsize=1)
def bench_common() -> Any:
    """The module of the same name."""
    folder = SHARED / "bench"
    if not folder.is_dir():
        raise SkippedError(f"{folder.name} is not beside the checkout")
    sys.path.append(str(folder))
    return import_module("bench_common")


def crystal(kind: str, phase_pi: float, seed: int, n: int = 64) -> Complex:
    """Crystal with the phase's range in pi, in our sign."""
    found: Complex = bench_common().crystal(n, kind, phase_pi * np.pi, seed).conj()
    return found


def counts(truth: Complex, seed: int, photons: float = 1e6) -> Floats:
    """What a detector counts of it; without noise for infinitely many photons, then 1e6 in all."""
    if np.isfinite(photons):
        noisy: Floats = bench_common().measured(truth.conj(), photons, seed)
        return noisy
    intensity = np.abs(bench_common().ft(truth.conj())) ** 2
    exact: Floats = (intensity * (1e6 / intensity.sum())).astype(np.float32)
    return exact


def distance(truth: Complex, found: Complex) -> Line:
    """NMSE after shift, global phase and twin, 1 - |correlation|^2."""
    return {"nmse": 1 - align(torch.from_numpy(truth), torch.from_numpy(found)).correlation ** 2}


def distances(truth: Complex, found: Complex) -> Line:
    """`distance`, and the same by ``bench_common``."""
    theirs = bench_common().compare(truth.conj(), found.conj())["nmse"]
    return {**distance(truth, found), "nmse_by_bench_common": theirs}
