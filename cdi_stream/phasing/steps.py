"""What a recipe is made of; `cdi_stream.phasing.recipe` reads it from text, `cdi_stream.phasing.engine` runs it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from cdi_stream.phasing.shrink_wrap import Mode, ShrinkWrap

DETWIN_CYCLES = 10

Algorithm = Literal["ER", "HIO", "RAAR", "DM"]


@dataclass(frozen=True, slots=True)
class Cycles:
    """``count`` cycles of one algorithm."""

    algorithm: Algorithm
    count: int
    beta: float = 0.9


@dataclass(frozen=True, slots=True)
class SupportMode:
    """How far an update may move the support."""

    mode: Mode


@dataclass(frozen=True, slots=True)
class Detwin:
    """Half of the support for ten cycles, so that crystal or twin wins."""


@dataclass(frozen=True, slots=True)
class Average:
    """Mean of the last cycles as the result."""

    cycles: int


@dataclass(frozen=True, slots=True)
class AmplitudeClip:
    """Clip amplitudes inside the support to these multiples of their mean, every so many cycles; 0 is never.

    A crystal is of one material, so its amplitude is nearly even.  Strong strain makes iterates uneven and the
    support is eaten where they are faint: with the clip most random starts find a crystal of 5 pi, without it none.
    """

    every: int = 10
    low: float = 0.5
    high: float = 1.5

    def is_due(self, cycle: int) -> bool:
        """Whether amplitudes are clipped after this cycle, counted from 1."""
        return self.every > 0 and cycle % self.every == 0


Step = Cycles | ShrinkWrap | SupportMode | Detwin | Average | AmplitudeClip | None
"""None switches shrink-wrap off."""


@dataclass(frozen=True)
class Recipe:
    """A whole schedule; its text is what is published."""

    text: str
    steps: tuple[Step, ...]

    @cached_property
    def cycles(self) -> int:
        """Total number of cycles."""
        detwin = sum(DETWIN_CYCLES for step in self.steps if isinstance(step, Detwin))
        return sum(step.count for step in self.steps if isinstance(step, Cycles)) + detwin

    @property
    def n_averaged(self) -> int:
        """How many of the last cycles are averaged; 1 is none but the last."""
        wanted = max((step.cycles for step in self.steps if isinstance(step, Average)), default=1)
        return min(wanted, self.cycles)
