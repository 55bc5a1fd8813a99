"""Settings of shrink-wrap, the update of the support; this module does not import torch, so recipes are read fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Relative = Literal["max", "mean", "rms"]
"""Amplitude that a threshold multiplies: maximum of the array, or mean or rms inside the present support."""

Mode = Literal["full", "border", "fixed"]
"""Voxels that an update may change: all, only the border of the support, or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkWrap:
    """When and how the support follows the crystal.

    Every ``every`` cycles, from cycle ``after`` on, the support becomes the voxels whose blurred amplitude exceeds
    ``threshold`` times the reference amplitude ``relative``.  The blur is a Gaussian with the standard deviation
    ``sigma_vox`` [voxels].  Marchesini et al. (2003), Phys. Rev. B 68, 140101, doi:10.1103/PhysRevB.68.140101.
    """

    every: int = 10
    after: int = 100
    threshold: float = 0.2
    relative: Relative = "max"
    sigma_vox: float = 1.0

    def is_due(self, cycle: int) -> bool:
        """Return whether the support is updated after this cycle, counted from 1."""
        return cycle >= self.after and cycle % self.every == 0
