"""When and how the support follows the crystal, as a value: recipes are read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Relative = Literal["max", "mean", "rms"]
Mode = Literal["full", "border", "fixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkWrap:
    """When and how the support follows the crystal.

    Every ``every`` cycles, from cycle ``after`` on, voxels stay whose blurred amplitude exceeds ``threshold`` of the
    maximum of the array, or of the mean or rms inside the old support.
    """

    every: int = 10
    after: int = 100
    threshold: float = 0.2
    relative: Relative = "max"
    sigma_vox: float = 1.0

    def is_due(self, cycle: int) -> bool:
        """Whether the support moves after this cycle, counted from 1."""
        return cycle >= self.after and cycle % self.every == 0
