"""Figures of ingest, latency and cycles, in one run, each beside the bare work that it cannot do without."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch

from cdi_stream.networks.packaged import DEFAULT_NETWORK
from cdi_stream.networks.torchscript import load
from cdi_stream.numerics.workers import one_thread_each
from tests.bench import ingest, latency
from tests.bench.phasing.speed import against_transforms

DEMO_SHAPE = (72, 112, 128)
"""Voxels of the demo volume about its peak."""

APART_S = 12.0
"""Pause between two curves of which nothing of the first is left when the second comes [s]."""

CURVE_S = 18.0
"""Time from one such curve to the next [s]."""

N_PASSES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of a run; ``beside`` is with a refinement at work, ``back_to_back`` with no pause between curves."""

    ingest_ratio: float
    inference_p50_ms: float
    inference_p95_ms: float
    inference_beside_p50_ms: float
    inference_beside_p95_ms: float
    bare_pass_p50_ms: float
    reconstruction_p50_ms: float
    fft_pair_ms: float
    back_to_back_p95_ms: float
    cycle_ratio_64: float
    cycle_ratio_128: float
    cycle_ratio_64_one_thread: float
    stages_p50_ms: dict[str, float]
    curves: dict[str, int]
    threads: int

    @property
    def inference_pairs(self) -> tuple[float, float]:
        """Median and 95th percentile of the inference without the network's pass, in FFT pairs of the demo volume."""
        p50, p95 = (ms - self.bare_pass_p50_ms for ms in (self.inference_p50_ms, self.inference_p95_ms))
        return p50 / self.fft_pair_ms, p95 / self.fft_pair_ms

    @property
    def reconstruction_pairs(self) -> float:
        """Median of the reconstruction in FFT pairs of the demo volume."""
        return self.reconstruction_p50_ms / self.fft_pair_ms

    def plain(self) -> dict[str, object]:
        """Return the figures by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def measure(minutes: float) -> Figures:
    """Measure for about so many minutes; at least three curves of each kind."""
    n_apart = _between(3, 20, 60 * minutes * 0.3 / CURVE_S)
    n_back_to_back = _between(5, 20, 60 * minutes * 0.25 / 8)
    bare_pass_ms, pair_ms = bare_pass_p50_ms(), fft_pair_p50_ms()
    alone = latency.measure(n_curves=n_apart, pause_s=APART_S)
    beside = latency.measure(n_curves=n_apart, pause_s=APART_S, refine=True)
    back_to_back = latency.measure(n_curves=n_back_to_back, speed="max", pause_s=0.0)
    rounds = _between(6, 60, 4 * minutes)
    with one_thread_each():
        one_thread = against_transforms(64, rounds)
    return Figures(
        ingest_ratio=ingest.measure()["ratio"],
        inference_p50_ms=1e3 * alone["inference"]["p50_s"],
        inference_p95_ms=1e3 * alone["inference"]["p95_s"],
        inference_beside_p50_ms=1e3 * beside["inference"]["p50_s"],
        inference_beside_p95_ms=1e3 * beside["inference"]["p95_s"],
        bare_pass_p50_ms=bare_pass_ms,
        reconstruction_p50_ms=1e3 * alone["reconstruction"]["p50_s"],
        fft_pair_ms=pair_ms,
        back_to_back_p95_ms=1e3 * back_to_back["reconstruction"]["p95_s"],
        cycle_ratio_64=against_transforms(64, rounds)["ratios"]["HIO"],
        cycle_ratio_128=against_transforms(128, max(3, rounds // 5))["ratios"]["HIO"],
        cycle_ratio_64_one_thread=one_thread["ratios"]["HIO"],
        stages_p50_ms={name: 1e3 * values["p50_s"] for name, values in alone.items()},
        curves={"apart": n_apart, "back_to_back": n_back_to_back},
        threads=torch.get_num_threads(),
    )


def bare_pass_p50_ms() -> float:
    """Return the median time of a pass of the packaged network [ms]."""
    network = load(DEFAULT_NETWORK)
    volume = torch.rand(network.contract.input_shape)
    return _median_ms(lambda: network(volume))


def fft_pair_p50_ms() -> float:
    """Return the median time of two transforms of the demo volume [ms]."""
    field = torch.randn(DEMO_SHAPE, dtype=torch.complex64)
    there, back = torch.empty_like(field), torch.empty_like(field)
    return _median_ms(lambda: torch.fft.fftn(torch.fft.ifftn(field, out=there), out=back))


def _median_ms(work: Callable[[], object]) -> float:
    times_s = []
    for _ in range(N_PASSES):
        begin_s = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - begin_s)
    return 1e3 * float(np.median(times_s))


def _between(least: int, most: int, value: float) -> int:
    return max(least, min(most, round(value)))
