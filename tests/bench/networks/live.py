"""Crystals found by the live polish, a short search on all cores, with a network's answer among its starts and without.

Crystals are those of `tests.bench.networks.polish`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cdi_stream.config import PhaseConfig
from cdi_stream.files.intensities.read import read_intensities
from cdi_stream.files.intensities.volume import in_counts
from cdi_stream.files.intensities.window import Window, window_of
from cdi_stream.interface.phase_counts import prepared
from cdi_stream.inversion.chain import lab_volume, starting_point
from cdi_stream.inversion.infer import infer
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.inversion.phase_retrieval import LIVE_SEARCH, LIVE_SEED, retrieve_phase
from cdi_stream.messages import PreparedVolume
from cdi_stream.networks.mirrors import is_sure
from cdi_stream.networks.packaged import network_file
from cdi_stream.networks.torchscript import load
from cdi_stream.numerics.fourier import from_fourier_order
from cdi_stream.phasing.auto import solve
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.judge import judge
from cdi_stream.phasing.ranking import metrics_of
from tests.bench.crystals import measured
from tests.bench.networks.polish import N_CRYSTALS, SAMPLES
from tests.bench.phasing.shared_crystals import distance
from tests.bench.record import Case, Line

DEFAULT = PhaseConfig()
LARGE = "+others"
"""After a network's name: as volumes go that are too large for a search."""


def starts(networks: Sequence[str]) -> Sequence[str]:
    """Random starts alone, with these networks, and as large volumes go."""
    return ("random", *networks, *(name + LARGE for name in networks))


def cases(starts: Sequence[str]) -> Iterator[Case]:
    """Every crystal, by each of these."""
    for k in range(N_CRYSTALS):
        for sample in SAMPLES:
            for start in starts:
                yield Case(key=f"live/{start}/{sample}/{k}", measure=partial(searched, start, sample, k))


def searched(start: str, sample: str, k: int) -> Line:
    """Polish one crystal as the live path does and compare it with the truth."""
    case, truth = SAMPLES[sample](k)
    volume, window = _prepared(*measured(case, truth))
    network = None if start == "random" else load(network_file(start.removesuffix(LARGE)))
    begin_s = time.perf_counter()
    if network is None:
        data = measurement_of(volume)
        found = solve(data, LIVE_SEED, Deadline(DEFAULT.budget_s), LIVE_SEARCH)
        density, metrics = from_fourier_order(found.crystal), metrics_of(found, data)
        grade = judge(metrics).grade
    else:
        lab = lab_volume(volume, network)
        is_large = start.endswith(LARGE)
        sure = not is_large and is_sure(network, torch.from_numpy(lab.magnitude.copy()))
        start_point = replace(starting_point(infer(lab, network), volume, "cpu"), ask_sure=lambda: sure)
        most_voxels = 0 if is_large else DEFAULT.most_voxels
        crystal = retrieve_phase(volume, start_point, PhaseConfig(budget_s=DEFAULT.budget_s, most_voxels=most_voxels))
        density, metrics, grade = torch.from_numpy(crystal.density.copy()), crystal.metrics, crystal.verdict.grade
    seconds = time.perf_counter() - begin_s
    line = {
        "start": start,
        "is_sure": network is not None and sure,
        "sample": sample,
        "kind": case.kind,
        "seconds": seconds,
        "verdict": grade,
        **metrics.known(),
    }
    return {**line, **distance(truth, window.undo(density).numpy())}


def _prepared(counts: np.ndarray, valid: np.ndarray) -> tuple[PreparedVolume, Window]:
    """As the command ``phase`` reads it from a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "counts.npz"
        np.savez(file, data=counts, mask=valid)
        found = in_counts(read_intensities(file, None))
    window = window_of(found, counts.shape)
    return prepared(window.take(found)), window
