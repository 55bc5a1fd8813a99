"""What a network's forward pass takes, trained or not, beside the transforms of one cycle of phasing."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from cdi_stream.networks.torchscript import export, load
from cdi_stream.training.run import TASKS
from tests.bench.record import Case, Line, plain_table

N_PASSES = 60


def cases() -> Iterator[Case]:
    """Every network on the CPU, and on a GPU where there is one."""
    for name in TASKS:
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            yield Case(key=f"forward/{name}/{device}", measure=partial(timed, name, device))


def timed(name: str, device: str) -> Line:
    """Median and 95th percentile of a pass at batch 1, as exported, and of two transforms of 64^3 in between."""
    task = TASKS[name]
    with tempfile.TemporaryDirectory() as folder:
        file, made = Path(folder) / "network.pt", task.network()
        export(task.wrap_for_export(made), task.contract(made, "none"), file)
        network = load(file, device)
    volume = torch.rand(task.input_shape)
    pair = torch.randn((64, 64, 64), dtype=torch.complex64, device=device)
    passes, pairs = [], []
    for _ in range(N_PASSES):
        passes.append(_ms(lambda: network(volume), device))
        pairs.append(_ms(lambda: torch.fft.fftn(torch.fft.ifftn(pair)), device))
    p50, p95 = np.percentile(passes, (50, 95))
    n = sum(weight.numel() for weight in task.network().parameters())
    return {"weights": n, "p50_ms": float(p50), "p95_ms": float(p95), "pair_ms": float(np.median(pairs))}


def _ms(work: Callable[[], object], device: str) -> float:
    begin_s = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - begin_s)


def table(lines: list[Line]) -> Table:
    """Against the goals: 60 ms on a CPU, 1 ms on a GPU."""
    columns = ("network", "device", "weights [M]", "p50 [ms]", "p95 [ms]", "two transforms of 64^3 [ms]")
    result = plain_table("Forward pass, batch 1 (goals: 60 ms CPU, 1 ms GPU)", *columns)
    for line in lines:
        _, name, device = line["key"].split("/")
        numbers = (f"{line['weights'] / 1e6:.2f}", *(f"{line[k]:.1f}" for k in ("p50_ms", "p95_ms", "pair_ms")))
        result.add_row(name, device, *numbers)
    return result
