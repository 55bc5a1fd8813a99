"""The papers' figures beside ours: every packaged network, the nearest neighbour and the mean on crystals never seen.

* Wu et al. (2021), npj Comput. Mater. 7, 175: loss of equation 6, 0.031;
* Wu et al. (2021), IUCrJ 8, 12: chi2 of diffraction 0.019, amplitude 0.005, phase 0.029, nearest neighbour 0.08;
* Chan et al. (2021), Appl. Phys. Rev. 8, 021407: mean absolute errors of shape and phase;
* Masto et al. (2025): weighted coherent average, here so that 0 is perfect.

All are laid on the truth first, over twin, shift and global phase, which the data do not tell; phases count in the
crystal, as (phase + pi) / 2 pi, and their differences within half a turn.  The papers do not say so, and without it
these numbers mean nothing.  The WCA of a network that answers with phases of the diffraction is of these.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import torch
from rich.table import Table
from torch import Generator, Tensor

from cdi_stream.networks.losses import chi2, incoherence, pad_to_double, pearson
from cdi_stream.networks.masto2025 import FieldPhase, compress_intensity
from cdi_stream.networks.packaged import network_file, packaged_networks
from cdi_stream.networks.torchscript import load, load_trainable
from cdi_stream.numerics.fourier import to_reciprocal
from cdi_stream.phasing.align import align
from cdi_stream.training import masto2025, unrolled, wu2021
from cdi_stream.training.crystals import CrystalRanges, crystals
from cdi_stream.training.diffraction import measure
from cdi_stream.training.run import TASKS
from cdi_stream.training.trainer import HELD_OUT_SEED
from tests.bench.networks import gold
from tests.bench.networks.baselines import Known, written
from tests.bench.record import Case, Line, plain_table

N_CRYSTALS = 200
FOLDER = Path("bench-results/baselines")


def _volumes(ranges: CrystalRanges, measured: Callable[[Tensor, Generator], tuple[Tensor, Tensor]] = measure) -> Known:
    return lambda batch, generator: measured(crystals(batch, wu2021.N_VOXELS // 2, ranges, generator), generator)


KNOWN: dict[str, Known] = {
    "unrolled": _volumes(unrolled.RANGES),
    "wu2021-small": _volumes(wu2021.WEAK),
    "wu2021": _volumes(wu2021.SUPERELLIPSOIDS),
    "wu2021-2d": TASKS["wu2021-2d"].draw,
    "chan2021-small": TASKS["chan2021-small"].draw,
    "chan2021": TASKS["chan2021"].draw,
    "masto2025-small": _volumes(masto2025.RANGES, masto2025.volumes),
    "masto2025": _volumes(masto2025.RANGES, masto2025.volumes),
}


def cases() -> Iterator[Case]:
    """Every packaged network, and both baselines on what it was trained for; those of Chan et al. on gold, too."""
    for name in packaged_networks():
        for kind in ("network", "nearest", "mean"):
            yield Case(key=f"papers/{name}/{kind}", measure=partial(_on_its_own, kind, name))
            if name.startswith("chan2021"):
                yield Case(key=f"papers/{name}/{kind}, gold", measure=partial(_on_gold, kind, name))


def _on_its_own(kind: str, name: str) -> Line:
    def held_out(k: int) -> tuple[Tensor, Tensor]:
        return KNOWN[name](1, Generator().manual_seed(HELD_OUT_SEED + 1000 + k))

    return measured(_file(kind, name), held_out, N_CRYSTALS)


def _on_gold(kind: str, name: str) -> Line:
    gold.gold(0)
    return measured(_file(kind, name), gold.hardly_oversampled, gold.count())


def _file(kind: str, name: str) -> Path:
    return network_file(name) if kind == "network" else written(kind, TASKS[name], KNOWN[name], FOLDER)


def measured(file: Path, held_out: Callable[[int], tuple[Tensor, Tensor]], n: int) -> Line:
    """Means over ``n`` held-out crystals of what the papers report, and the median time of a pass."""
    network, lines, seconds = load(file), [], []
    phase_of = phase_network(file)
    for k in range(n):
        magnitude, truth = held_out(k)
        begin_s = time.perf_counter()
        answer = network(magnitude[0])
        seconds.append(time.perf_counter() - begin_s)
        lines.append(figures(answer[None], truth, magnitude, None if phase_of is None else phase_of(magnitude)))
    means = {key: sum(line[key] for line in lines) / len(lines) for key in lines[0]}
    return {"training": network.contract.training, "crystals": n, "ms": 1e3 * median(seconds), **means}


def phase_network(file: Path) -> Callable[[Tensor], Tensor] | None:
    """What answers with phases of the diffraction inside of a file, as `FieldPhase` holds it; else nothing."""
    script = load_trainable(file).script
    if script.original_name != FieldPhase.__name__:
        return None
    inner = script.network

    @torch.inference_mode()
    def phase_of(magnitude: Tensor) -> Tensor:
        answer: Tensor = inner(magnitude)
        return answer.float()

    return phase_of


def figures(answer: Tensor, truth: Tensor, magnitude: Tensor, phase: Tensor | None = None) -> Line:
    """Of one crystal ``(1, ...)``, and of the ``phase`` of its diffraction where that is the answer."""
    n_axes = truth.ndim - 1
    is_padded = answer.shape != magnitude.shape
    whole, wanted = (pad_to_double(one, n_axes) if is_padded else one for one in (answer, truth))
    whole = align(wanted[0], whole[0]).crystal[None]
    fields = [to_reciprocal(one, n_axes) for one in (whole, wanted)]
    model, data = (one.abs() for one in fields)
    quarter = (whole.shape[-1] - truth.shape[-1]) // 2
    answer = whole[(0, *(slice(quarter, quarter + n) for n in truth.shape[1:]))][None]
    inside = truth.abs() > 0.5 * truth.abs().amax()
    turns = [(one.angle()[inside] / (2 * math.pi) + 0.5)[None] for one in (answer, truth)]
    amplitude = [one.abs() for one in (answer, truth)]
    found = {
        "chi2": chi2(model, data, n_axes),
        "r_p": pearson(model, data, n_axes),
        "chi2_amplitude": _misfit(*amplitude),
        "chi2_phase": _within_half(turns[0] - turns[1]).square().sum() / turns[1].square().sum(),
        "mae_amplitude": (amplitude[0] - amplitude[1]).abs().mean(),
        "mae_phase_turns": _within_half(turns[0] - turns[1]).abs().mean(),
        "wca": incoherence(
            fields[0].angle() if phase is None else phase,
            fields[1].angle(),
            compress_intensity(magnitude / magnitude.amax()),
        ),
    }
    line = {key: float(value) for key, value in found.items()}
    relative = [math.sqrt(line[key]) for key in ("chi2_amplitude", "chi2_phase")]
    return {**line, "s1_loss": (sum(relative) + 1 - line["r_p"]) / 3}


def _within_half(turns: Tensor) -> Tensor:
    return (turns + 0.5).remainder(1) - 0.5


def _misfit(answer: Tensor, truth: Tensor) -> Tensor:
    """Sum of squared differences over that of the truth."""
    return (answer - truth).square().sum() / truth.square().sum()


def table(lines: list[Line]) -> Table:
    """One row a network or baseline."""
    keys = ("s1_loss", "chi2", "chi2_amplitude", "chi2_phase", "mae_amplitude", "mae_phase_turns", "wca", "r_p", "ms")
    result = plain_table(
        "Held-out crystals (papers: S1 loss 0.031, 9 ms; S2 chi2 0.019, 0.005, 0.029, nearest 0.08, 0.5 ms; S3 145 ms)",
        "trained for",
        "answer",
        *keys,
    )
    for line in lines:
        _, name, kind = line["key"].split("/")
        result.add_row(name, kind, *(f"{line[key]:.3f}" for key in keys))
    return result
