"""The loop that runs a recipe on a batch of independent starts, cycle by cycle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cdi_stream.numerics.memory import keep_freed_memory
from cdi_stream.phasing import projections
from cdi_stream.phasing.descent import Descend, Momentum, descent_of
from cdi_stream.phasing.kernels import clip
from cdi_stream.phasing.projections import Measurement, Projector
from cdi_stream.phasing.shrink_wrap import Mode, ShrinkWrap
from cdi_stream.phasing.steps import (
    DETWIN_CYCLES,
    Algorithm,
    AmplitudeClip,
    Average,
    Cycles,
    Detwin,
    Recipe,
    SupportMode,
)
from cdi_stream.phasing.support import Limits, halves, update_support


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Crystals, complex, and supports, bool, ``(starts, *shape)`` both, in Fourier order, after ``cycle`` cycles.

    While a recipe runs, its next cycle overwrites both arrays: clone arrays that must stay as they are.
    """

    crystal: Tensor
    support: Tensor
    cycle: int = 0

    def __len__(self) -> int:
        """Return the number of starts."""
        return self.crystal.shape[0]

    @property
    def result(self) -> Tensor:
        """Crystals that are zero outside their supports."""
        return self.crystal * self.support

    def select(self, indices: Sequence[int]) -> Batch:
        """Return a copy of the starts with these indices."""
        return replace(self, crystal=self.crystal[list(indices)], support=self.support[list(indices)])


def run(recipe: Recipe, data: Measurement, start: Batch, limits: Limits | None = None) -> Iterator[Batch]:
    """Run a recipe; yield the batch after every cycle, and at the end once more as the result.

    In the result, crystals are zero outside their supports, and are the average of the last cycles if the recipe says
    so.  The iteration may be ended at any cycle.

    Parameters
    ----------
    recipe
        The schedule of projections.
    data
        The measurement.
    start
        Crystals and supports to begin with; they are not changed.
    limits
        Limits of the supports; without limits by default.
    """
    state = _State(recipe, data, start, limits or Limits())
    for step in recipe.steps:
        match step:
            case Cycles(algorithm, count, beta):
                for _ in range(count):
                    yield state.cycle(algorithm, beta)
            case Detwin():
                yield from state.detwin()
            case SupportMode(mode):
                state.mode = mode
            case AmplitudeClip():
                state.clip = step
            case Average():
                pass  # holds for the whole recipe, see `Recipe.n_averaged`
            case _:
                state.shrink_wrap = step
    yield state.end()


def run_to_end(
    recipe: Recipe,
    data: Measurement,
    start: Batch,
    limits: Limits | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> Batch:
    """Run a recipe and return its last batch; ``is_over`` is asked after every cycle and ends the run when true."""
    batch = start
    for batch in run(recipe, data, start, limits):
        if is_over():
            break
    return batch


class _State:
    """Crystals, supports and settings while a recipe runs."""

    def __init__(self, recipe: Recipe, data: Measurement, start: Batch, limits: Limits) -> None:
        keep_freed_memory()
        self.shrink_wrap: ShrinkWrap | None = None
        self.mode: Mode = "full"
        self.clip = AmplitudeClip(every=0)
        self._data, self._project, self._limits = data, Projector(data), limits
        self._descend: Descend | None = None
        self._momentum: Momentum | None = None
        self._crystal = start.crystal.clone(memory_format=torch.contiguous_format)
        self._support, self._n_cycles = start.support.contiguous(), 0
        self._first_averaged = recipe.cycles - recipe.n_averaged
        self._n_averaged = recipe.n_averaged
        self._sum: Tensor | None = None

    def cycle(self, algorithm: Algorithm, beta: float = 0.9, support: Tensor | None = None) -> Batch:
        """Run one cycle, then the update of the support and the clip of the amplitude if they are due.

        With ``support`` the cycle uses that support instead, and the own support is not updated.
        """
        crystal, mask = self._crystal, self._support if support is None else support
        if algorithm != "AER":
            self._momentum = None
        match algorithm:
            case "AER":
                self._momentum_on(mask).step(crystal)
            case "ER":
                projections.error_reduction(crystal, self._project(crystal), mask)
            case "HIO":
                projections.hybrid_input_output(crystal, self._project(crystal), mask, beta)
            case "RAAR":
                projections.relaxed_reflections(crystal, self._project(crystal), mask, beta)
            case "DM":
                projections.difference_map(crystal, self._project, mask, beta)
        self._n_cycles += 1
        if support is None:
            self._update_support()
        if self.clip.is_due(self._n_cycles):
            clip(crystal, self._support, self.clip.low, self.clip.high)
            self._momentum = None
        if self._n_averaged > 1 and self._n_cycles > self._first_averaged:
            self._sum = crystal.clone() if self._sum is None else self._sum.add_(crystal)
        return Batch(crystal=crystal, support=self._support, cycle=self._n_cycles)

    def _update_support(self) -> None:
        """Update the support if that is due; a descent keeps its momentum."""
        if self.mode == "fixed" or self.shrink_wrap is None or not self.shrink_wrap.is_due(self._n_cycles):
            return
        self._support = update_support(self._support, self._crystal, self.shrink_wrap, self.mode, self._limits)
        if self._momentum is not None:
            self._momentum.confine(self._crystal, self._support)

    def _momentum_on(self, support: Tensor) -> Momentum:
        """Return the descent as it is, or a new one after anything else changed the crystal."""
        if self._descend is None:
            self._descend = descent_of(self._data, self._project)
        if self._momentum is None:
            self._momentum = Momentum(self._descend, self._crystal, support)
        return self._momentum

    def detwin(self) -> Iterator[Batch]:
        """Run cycles of ER in one half of the support, cut along the first axis."""
        half = halves(self._support)
        for _ in range(DETWIN_CYCLES):
            yield self.cycle("ER", support=half)

    def end(self) -> Batch:
        """Return the result."""
        crystal = self._crystal if self._sum is None else self._sum / self._n_averaged
        return Batch(crystal=crystal * self._support, support=self._support, cycle=self._n_cycles)
