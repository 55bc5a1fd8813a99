"""Training of the small two-decoder network, from nothing to an exported file with its curve beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from cdi_stream.fourier import FOURIER_SIGN
from cdi_stream.networks.torchscript import NetworkContract, export, weights_sha256
from cdi_stream.networks.wu2021 import Wu2021
from cdi_stream.training.crystals import CrystalRanges
from cdi_stream.training.trainer import Progress, Schedule, train

N_VOXELS = 64
OVERSAMPLING = 2.6
"""Middle of what the training crystals span: 64 voxels over a longest extent of 19 to 29."""


def train_wu2021(
    out: Path, *, minutes: float, seed: int, device: str, report: Callable[[str], None], batch: int = 16
) -> None:
    """Train and export; the curve goes to ``out`` with the suffix ``.curve.jsonl``."""
    torch.manual_seed(seed)
    network = Wu2021().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    ranges, schedule = CrystalRanges(), Schedule(minutes=minutes, batch=batch)
    lines: list[Progress] = []

    def note(progress: Progress) -> None:
        lines.append(progress)
        report(
            f"step {progress.step}, {progress.minutes:.1f} min: loss {progress.training_loss:.4f}, "
            f"held out {progress.validation_loss:.4f}"
        )

    train(network, N_VOXELS, ranges, schedule, seed=seed, device=device, report=note)
    network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    out.parent.mkdir(parents=True, exist_ok=True)
    export(network, contract(network, describe(minutes, lines)), out)
    curve = "".join(json.dumps(asdict(line)) + "\n" for line in lines)
    out.with_suffix(".curve.jsonl").write_text(curve)


def contract(network: Wu2021, training: str) -> NetworkContract:
    """Contract of a network of this size."""
    return NetworkContract(
        name="wu2021_small",
        version="1",
        input_shape=(N_VOXELS,) * 3,
        output_shape=(N_VOXELS // 2,) * 3,
        input_scaling="magnitude, maximum 1",
        oversampling=OVERSAMPLING,
        phase_range_rad=math.pi,
        coordinates="lab",
        fourier_sign=FOURIER_SIGN,
        weights_sha256=weights_sha256(network),
        training=training,
    )


def describe(minutes: float, lines: list[Progress]) -> str:
    """One sentence on how a network came to be."""
    last = lines[-1]
    return f"{last.step} steps in {minutes:g} minutes on simulated crystals; held-out loss {last.validation_loss:.3f}"
