"""The instrument: exposes a frame at the true positions of all axes; a direct sum gives the diffraction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim_beamline.crystal import ChiralCrystal
from sim_beamline.diffract import Experiment, direct_sum, q_sample
from sim_beamline.instrument.axis import Axis
from sim_beamline.instrument.beam import Beam
from sim_beamline.instrument.sample import MountedCrystal
from sim_beamline.instrument.sensor import Sensor

_DARK = 1e-4
"""Illumination below which a crystal adds nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """One frame, and the flux that made it."""

    counts: NDArray[np.uint32]
    monitor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """Simulated diffractometer.

    Parameters
    ----------
    experiment
        Geometry; the angles of its circles are replaced by the positions of the axes.
    rocking
        Name of the circle that rocks the crystal.
    axes
        Axes by name: each circle [deg], ``energy`` [eV], ``sample_x``, ``sample_y`` [um] and ``temperature`` [K].
    crystals
        Crystals on the sample stage.
    beam, sensor
        Beam, and sensor of the detector.
    counts_per_s
        Counts per second in the brightest pixel of a crystal without strain, brightness 1.
    pitch_parts
        Number of steps of the direct sum along a crystal; fewer steps are faster.
    clock
        Monotonic time [s].
    start_s
        Time on the clock at which decay and drift begin [s].
    """

    experiment: Experiment
    rocking: str
    axes: Mapping[str, Axis]
    crystals: tuple[MountedCrystal, ...]
    beam: Beam
    sensor: Sensor
    counts_per_s: float
    pitch_parts: int
    clock: Callable[[], float]
    start_s: float

    def expose(self, exposure_s: float) -> Exposure:
        """Return one frame of an exposure [s] at the positions of this moment."""
        time_s = self.clock() - self.start_s
        flux = self.beam.flux(time_s) * exposure_s
        rate = sum((self._intensity(crystal, time_s) for crystal in self.crystals), np.zeros(self.shape))
        return Exposure(counts=self.sensor.counts(rate * self.counts_per_s * flux), monitor=1e6 * flux)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        return self.experiment.shape[1:]

    def _intensity(self, mounted: MountedCrystal, time_s: float) -> NDArray[np.float64]:
        """Return the intensity of one crystal, 1 in the brightest pixel of the crystal without strain."""
        x_um, y_um, kelvin = (self.axes[name].true_position for name in ("sample_x", "sample_y", "temperature"))
        light = mounted.brightness * self.beam.illumination(mounted.x_um - x_um, mounted.y_um - y_um, time_s)
        if light < _DARK:
            return np.zeros(self.shape)
        crystal, pitch_m = mounted.at(kelvin), mounted.crystal.size_m / self.pitch_parts
        amplitude = direct_sum(crystal, q_sample(self._at_angles(mounted, time_s), 0), pitch_m)
        return light * np.abs(amplitude).astype(np.float64) ** 2 / _peak(crystal, pitch_m)

    def _at_angles(self, mounted: MountedCrystal, time_s: float) -> Experiment:
        """Return the geometry of one frame at the true angles, as the crystal's own lattice sees them."""
        now = {name: axis.true_position for name, axis in self.axes.items()}
        now[self.rocking] -= mounted.theta_error_deg(time_s)
        return replace(
            self.experiment,
            sample_deg={name: now[name] for name in self.experiment.sample_circles},
            arm_deg={name: now[name] for name in self.experiment.arm_circles},
            photon_energy_ev=now["energy"],
        )


def _peak(crystal: ChiralCrystal, pitch_m: float) -> float:
    """Return the intensity at the Bragg peak of the crystal without strain."""
    relaxed = replace(crystal, phase_range_rad=0.0)
    return float(np.abs(direct_sum(relaxed, np.array(crystal.q_bragg)[None], pitch_m)[0]) ** 2)
