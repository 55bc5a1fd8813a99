"""Gold crystals simulated atom by atom, as Chan et al. (2021) train and test on; nothing here was trained on them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from cdi_stream.training.diffraction import Array, measure
from cdi_stream.training.trainer import HELD_OUT_SEED
from tests.bench.record import SkippedError

ATOMS = Path("bench-results/atoms.h5")
"""Made by ``cdi-stream atoms --out bench-results/atoms.h5 --count 50 --seed 7``."""


def count() -> int:
    """How many there are."""
    if not ATOMS.is_file():
        return 0
    with h5py.File(ATOMS) as file:
        return len(file["crystal"])


def gold(k: int) -> NDArray[np.complex64]:
    """One of them, ``(32, 32, 32)``."""
    if k >= count():
        raise SkippedError(f"{ATOMS} holds {count()} crystals: cdi-stream atoms makes more")
    with h5py.File(ATOMS) as file:
        crystal: NDArray[np.complex64] = file["crystal"][k]
    return crystal


def hardly_oversampled(k: int) -> tuple[Tensor, Tensor]:
    """Magnitudes of one on its own array, and the crystal, ``(1, 32, 32, 32)``."""
    crystal = torch.from_numpy(gold(k))[None]
    return measure(crystal, Generator().manual_seed(HELD_OUT_SEED + 2000 + k), array=Array.SAME)
