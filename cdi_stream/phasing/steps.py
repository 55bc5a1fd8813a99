"""Steps of a recipe: the values that a phasing schedule is built from.

`cdi_stream.phasing.recipe` reads them from text, `cdi_stream.phasing.schedules` builds them in Python, and
`cdi_stream.phasing.engine` runs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from cdi_stream.phasing.shrink_wrap import Mode, ShrinkWrap

DETWIN_CYCLES = 10
"""Number of ER cycles that `Detwin` runs in one half of the support."""

DEFAULT_BETA = 0.9
"""Feedback parameter of HIO, RAAR and DM where a recipe gives none; dimensionless, the value of Wu et al. (2021)."""

Algorithm = Literal["ER", "AER", "HIO", "RAAR", "DM"]


@dataclass(frozen=True, slots=True)
class Cycles:
    """Run ``count`` cycles of one algorithm with the feedback parameter ``beta``; ER and AER have none."""

    algorithm: Algorithm
    count: int
    beta: float = DEFAULT_BETA


@dataclass(frozen=True, slots=True)
class SupportMode:
    """Choose how far an update may move the support: anywhere, at its border only, or not at all."""

    mode: Mode


@dataclass(frozen=True, slots=True)
class Detwin:
    """Run `DETWIN_CYCLES` of ER in one half of the support, so that either the crystal or its twin remains."""


@dataclass(frozen=True, slots=True)
class Average:
    """Return the mean crystal of the last ``cycles`` cycles of the recipe instead of the last crystal."""

    cycles: int


@dataclass(frozen=True, slots=True)
class AmplitudeClip:
    """Clip the amplitude inside the support to ``low`` and ``high`` times its mean, every ``every`` cycles (0: never).

    A crystal of one material has a nearly even amplitude.  Strong strain makes the iterates uneven, and shrink-wrap
    then removes their faint parts from the support.  With the clip most random starts find a crystal with a phase range
    of 5 pi; without it none does (decision record 0007).
    """

    every: int = 10
    low: float = 0.5
    high: float = 1.5

    def is_due(self, cycle: int) -> bool:
        """Return whether amplitudes are clipped after this cycle, counted from 1."""
        return self.every > 0 and cycle % self.every == 0


NO_CLIP = AmplitudeClip(every=0)
"""Step that ends the clipping of amplitudes."""

Step = Cycles | ShrinkWrap | SupportMode | Detwin | Average | AmplitudeClip | None
"""One step of a recipe; None switches shrink-wrap off."""


@dataclass(frozen=True)
class Recipe:
    """A phasing schedule: its steps, and the text that is published with a result.

    The first step is the default `ShrinkWrap`, which holds until another step replaces it.
    """

    text: str
    steps: tuple[Step, ...]

    @cached_property
    def cycles(self) -> int:
        """Total number of cycles."""
        detwin = sum(DETWIN_CYCLES for step in self.steps if isinstance(step, Detwin))
        return sum(step.count for step in self.steps if isinstance(step, Cycles)) + detwin

    @property
    def n_averaged(self) -> int:
        """Number of last cycles whose mean is the result; 1 means the last cycle alone."""
        n_cycles = max((step.cycles for step in self.steps if isinstance(step, Average)), default=1)
        return min(n_cycles, self.cycles)

    def then(self, other: Recipe) -> Recipe:
        """Return the recipe that runs this recipe and then ``other``; ``+`` joins the two texts."""
        return Recipe(text=f"{self.text}+{other.text}", steps=(*self.steps, *other.steps[1:]))


def recipe_of(*steps: Step) -> Recipe:
    """Return the recipe with these steps; its text reads back to the same steps."""
    return Recipe(text="+".join(map(_text_of, steps)), steps=(ShrinkWrap(), *steps))


def descent(steps: int) -> Recipe:
    """Return steps of descent with momentum in a support that stays."""
    return recipe_of(None, Cycles("AER", steps))


def _text_of(step: Step) -> str:
    """Return a step as the recipe grammar writes it."""
    match step:
        case Cycles(algorithm, count, beta):
            return f"{count}*{algorithm}" + (f"[beta={beta}]" if beta != DEFAULT_BETA else "")
        case ShrinkWrap():
            options = f"every={step.every},after={step.after},threshold={step.threshold},relative={step.relative}"
            return f"SW[{options},sigma={step.sigma_vox}]"
        case SupportMode(mode):
            return f"SUPPORT[{mode}]"
        case Detwin():
            return "DETWIN"
        case Average(cycles):
            return f"AVG[{cycles}]"
        case AmplitudeClip(every, low, high):
            return f"CLIP[every={every},low={low},high={high}]" if every else "CLIP[off]"
        case None:
            return "SW[off]"
