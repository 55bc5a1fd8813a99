"""Beam of the simulated beamline: its flux decays, and it drifts over the sample."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """Gaussian beam.

    Parameters
    ----------
    lifetime_s
        Time in which the flux decays to 1/e [s], as the current of a storage ring without top-up.
    fwhm_um
        Full width at half maximum on the sample [um].
    drift_um_per_s
        Drift over the sample along x and y [um/s].
    """

    lifetime_s: float = math.inf
    fwhm_um: float = 1.0
    drift_um_per_s: tuple[float, float] = (0.0, 0.0)

    def flux(self, time_s: float) -> float:
        """Return the flux at a time since the start [s], 1 at the start."""
        return math.exp(-time_s / self.lifetime_s)

    def illumination(self, x_um: float, y_um: float, time_s: float) -> float:
        """Return the intensity on a point of the sample [um], relative to the centre of the beam."""
        dx, dy = (p - v * time_s for p, v in zip((x_um, y_um), self.drift_um_per_s, strict=True))
        return math.exp(-4 * math.log(2) * (dx**2 + dy**2) / self.fwhm_um**2)
