"""Sample of the simulated beamline: crystals at places of the sample stage, each with its strain and orientation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sim_beamline.crystal import ChiralCrystal

ROOM_TEMPERATURE_K = 300.0
"""Temperature [K] at which a crystal has the strain of its description."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedCrystal:
    """Crystal on the sample stage.

    Parameters
    ----------
    crystal
        Shape, size and displacement.
    x_um, y_um
        Place on the stage [um].
    brightness
        Factor of the diffracted intensity.
    theta_offset_deg
        Rotation of the lattice about the rocking circle [deg]: the peak is found at an angle larger by this much.
    spin_deg_per_s
        Speed at which the crystal rotates in the beam about the rocking circle [deg/s].
    phase_per_k
        Growth of the phase range with temperature [rad/K].
    """

    crystal: ChiralCrystal
    x_um: float = 0.0
    y_um: float = 0.0
    brightness: float = 1.0
    theta_offset_deg: float = 0.0
    spin_deg_per_s: float = 0.0
    phase_per_k: float = 0.0

    def at(self, temperature_k: float) -> ChiralCrystal:
        """Return the crystal at a temperature [K]."""
        phase = self.crystal.phase_range_rad + self.phase_per_k * (temperature_k - ROOM_TEMPERATURE_K)
        return replace(self.crystal, phase_range_rad=round(phase, 6))

    def theta_error_deg(self, time_s: float) -> float:
        """Return the rotation of the lattice about the rocking circle at a time since the start [deg]."""
        return self.theta_offset_deg + self.spin_deg_per_s * time_s
