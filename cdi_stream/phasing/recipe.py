"""A recipe: an ordered schedule of projections with its support updates, and the loop that runs it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cdi_stream.errors import ConfigError
from cdi_stream.phasing.projections import Measurement, error_reduction, hybrid_input_output, project_magnitude
from cdi_stream.phasing.support import border_support, threshold_support


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """``cycles`` of one algorithm, ``ER`` or ``HIO``."""

    algorithm: str
    cycles: int
    beta: float = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportUpdate:
    """When and how the support follows the crystal; ``border_only`` moves it by a voxel at most."""

    every: int = 10
    after: int = 0
    threshold: float = 0.2
    sigma_vox: float = 1.0
    border_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A whole schedule; its text is what is published."""

    text: str
    steps: tuple[Step, ...]
    support_update: SupportUpdate = SupportUpdate()

    @property
    def cycles(self) -> int:
        """Total number of cycles."""
        return sum(step.cycles for step in self.steps)


_STEP = re.compile(r"(\d+)\*(ER|HIO)(?:\[beta=(\d+\.?\d*|\.\d+)\])?")


def parse_recipe(text: str, support_update: SupportUpdate | None = None) -> Recipe:
    """Read a schedule such as ``20*ER+30*HIO[beta=0.9]+50*ER``.

    Raises
    ------
    ConfigError
        If a term is not a count of ER or HIO cycles.
    """
    steps = []
    for term in text.replace(" ", "").split("+"):
        match = _STEP.fullmatch(term)
        if match is None:
            raise ConfigError(f"recipe {text!r}: expected terms like '50*ER' or '50*HIO[beta=0.9]', got {term!r}")
        steps.append(Step(algorithm=match[2], cycles=int(match[1]), beta=float(match[3] or 0.9)))
    return Recipe(text=text, steps=tuple(steps), support_update=support_update or SupportUpdate())


def run_recipe(
    recipe: Recipe,
    data: Measurement,
    crystal: Tensor,
    support: Tensor,
    wait_turn: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Run a schedule from ``crystal`` and ``support`` (Fourier order); return both as they end.

    ``wait_turn`` is called before every cycle and may hold it up.  The crystal returned is zero outside its
    support.
    """
    update, cycle = recipe.support_update, 0
    for step in recipe.steps:
        for _ in range(step.cycles):
            wait_turn()
            projected = project_magnitude(crystal, data)
            if step.algorithm == "ER":
                crystal = error_reduction(crystal, projected, support)
            else:
                crystal = hybrid_input_output(crystal, projected, support, step.beta)
            cycle += 1
            if update.every and cycle % update.every == 0 and cycle >= update.after:
                support = _updated(support, crystal, update)
    return crystal * support, support


def _updated(support: Tensor, crystal: Tensor, update: SupportUpdate) -> Tensor:
    amplitude = crystal.abs()
    if update.border_only:
        return border_support(support, amplitude, update.threshold, update.sigma_vox)
    return threshold_support(amplitude, update.threshold, update.sigma_vox)


def random_start(data: Measurement, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random phases on the measured magnitudes, and a box of half the array as support (Fourier order)."""
    angle = 2 * torch.pi * torch.rand(data.magnitude.shape, generator=generator)
    field = torch.polar(data.magnitude / data.gain, angle.to(data.magnitude.device))
    support = torch.ones((), dtype=torch.bool, device=data.magnitude.device)
    for axis, n in enumerate(data.magnitude.shape):
        inside = (torch.fft.fftfreq(n, device=data.magnitude.device) * n).abs() < n // 4 + 0.5
        support = support & inside.reshape([-1 if k == axis else 1 for k in range(data.n_axes)])
    return torch.fft.fftn(field, norm="ortho"), support
