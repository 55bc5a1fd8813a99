"""What a network must beat: the nearest of many known crystals, and their mean; written as networks, so that all that
takes a network takes them.

Wu et al. (2021), IUCrJ 8, 12, doi:10.1107/S2052252520013780, compare theirs with a search of the training set.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from cdi_stream.networks.blocks import compress_magnitude
from cdi_stream.networks.torchscript import export, round_to_half
from cdi_stream.training.task import Task
from cdi_stream.training.trainer import seed_of

N_KNOWN = 2000
BATCH = 20
SEED = 77
"""Of a training that might have seen these crystals."""

Known = Callable[[int, Generator], tuple[Tensor, Tensor]]
"""Draws magnitudes and crystals."""


class Nearest(nn.Module):
    """Answers with the known crystal whose compress_magnitude magnitudes, in the middle half, correlate best."""

    def __init__(self, magnitude: Tensor, crystal: Tensor) -> None:
        super().__init__()
        self.register_buffer("keys", key_of(magnitude))
        self.register_buffer("amplitude", crystal.abs())
        self.register_buffer("phase", crystal.angle())

    def forward(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Look up."""
        best = (key_of(magnitude) @ self.keys.t()).argmax(1)
        return self.amplitude.index_select(0, best), self.phase.index_select(0, best)


class Mean(nn.Module):
    """Answers with the mean amplitude of all, and no phase, whatever it sees."""

    def __init__(self, crystal: Tensor) -> None:
        super().__init__()
        amplitude = crystal.abs().mean(0)
        self.register_buffer("amplitude", amplitude / amplitude.amax())

    def forward(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """The same."""
        amplitude = self.amplitude.unsqueeze(0).repeat([magnitude.shape[0]] + [1] * self.amplitude.ndim)
        return amplitude, torch.zeros_like(amplitude)


def key_of(magnitude: Tensor) -> Tensor:
    """Compressed magnitudes of the middle half ``(batch, voxels)``, their norm 1."""
    quarter, half = magnitude.shape[-1] // 4, magnitude.shape[-1] // 2
    for axis in range(1, magnitude.ndim):
        magnitude = magnitude.narrow(axis, quarter, half)
    return torch.nn.functional.normalize(compress_magnitude(magnitude).flatten(1), dim=1)


def written(kind: str, task: Task, known: Known, folder: Path) -> Path:
    """File of the baseline ``nearest`` or ``mean`` for what this task's network sees; made once."""
    file = folder / f"{kind}-{task.name}.pt"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        generator = Generator().manual_seed(seed_of(SEED, 0))
        drawn = [known(BATCH, generator) for _ in range(N_KNOWN // BATCH)]
        magnitude, crystal = (torch.cat(part) for part in zip(*drawn, strict=True))
        made = round_to_half(Nearest(magnitude, crystal) if kind == "nearest" else Mean(crystal))
        export(made, task.contract(made, f"{kind} of {N_KNOWN} crystals"), file)
    return file
