"""Supervised training on crystals simulated as they are needed; no data set on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from cdi_stream.networks import losses
from cdi_stream.training.crystals import CrystalRanges, crystals
from cdi_stream.training.diffraction import measure

HELD_OUT_SEED = 20_260_000
"""Validation crystals are drawn from this seed; training seeds count up from the caller's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast to train; the rate warms up and then falls along a cosine of the time."""

    minutes: float = 20.0
    batch: int = 16
    learning_rate: float = 2e-3
    validate_every: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One line of the training curve."""

    step: int
    minutes: float
    training_loss: float
    validation_loss: float


def make_batch(batch: int, n: int, ranges: CrystalRanges, seed: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Magnitudes ``(batch, n, n, n)`` and crystals ``(batch, n/2, n/2, n/2)`` of one seed."""
    generator = Generator().manual_seed(seed)
    magnitude, crystal = measure(crystals(batch, n // 2, ranges, generator), generator)
    return magnitude.to(device), crystal.to(device)


@torch.no_grad()
def validate(network: nn.Module, n: int, ranges: CrystalRanges, device: str, n_batches: int = 4) -> float:
    """Mean loss over held-out crystals, with the network in evaluation mode."""
    network.eval()
    total = 0.0
    for index in range(n_batches):
        magnitude, crystal = make_batch(16, n, ranges, HELD_OUT_SEED + index, device)
        total += _loss(network, magnitude, crystal, in_half=False).item()
    network.train()
    return total / n_batches


def train(
    network: nn.Module,
    n: int,
    ranges: CrystalRanges,
    schedule: Schedule,
    *,
    seed: int,
    device: str,
    report: Callable[[Progress], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Train ``network`` in place for ``schedule.minutes``; ``report`` receives the curve."""
    network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=1e-4)
    start, step, mean = clock(), 0, math.nan

    def note() -> None:
        held_out = validate(network, n, ranges, device)
        minutes = (clock() - start) / 60
        report(Progress(step=step, minutes=minutes, training_loss=mean, validation_loss=held_out))

    while (elapsed := (clock() - start) / 60 / schedule.minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * _rate(step, elapsed)
        magnitude, crystal = make_batch(schedule.batch, n, ranges, seed + step, device)
        loss = _backward(network, optimizer, magnitude, crystal, in_half=True)
        if loss is None:  # bfloat16 convolutions on CPU return a gradient of NaN now and then
            loss = _backward(network, optimizer, magnitude, crystal, in_half=False)
        if loss is None:
            step += 1
            continue
        optimizer.step()
        mean = loss if math.isnan(mean) else 0.98 * mean + 0.02 * loss
        step += 1
        if step % schedule.validate_every == 0:
            note()
    note()


def _backward(
    network: nn.Module, optimizer: torch.optim.Optimizer, magnitude: Tensor, crystal: Tensor, *, in_half: bool
) -> float | None:
    """Leave the gradients of one batch, clipped; returns the loss, or None if they are not finite."""
    optimizer.zero_grad()
    loss = _loss(network, magnitude, crystal, in_half=in_half)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    return loss.item() if torch.isfinite(norm) else None


def _loss(network: nn.Module, magnitude: Tensor, crystal: Tensor, *, in_half: bool) -> Tensor:
    with torch.autocast(magnitude.device.type, dtype=torch.bfloat16, enabled=in_half):
        amplitude, phase = network(magnitude)
    return losses.supervised(amplitude.float(), phase.float(), crystal)


def _rate(step: int, elapsed: float) -> float:
    return min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(elapsed, 1.0))))
