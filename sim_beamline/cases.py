"""Simulated scans by name: the demonstration, and geometries that reveal a wrong sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sim_beamline.crystal import ChiralCrystal
from sim_beamline.diffract import Experiment, q_sample

PEAK_VOXEL_OFFSET = (2, -5, 4)
"""Distance of the Bragg peak from the centre of the scan and of the detector [frames, rows, columns]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedScan:
    """One experiment with its crystal, its rocking circle, its number of photons, and the seed of its noise."""

    name: str
    experiment: Experiment
    crystal: ChiralCrystal
    rocking: str
    photons: float = 2e7
    seed: int = 20

    @property
    def pitch_m(self) -> float:
        """Step of the grid of the direct sum [m]; its first replica lies far outside the detector."""
        return self.crystal.size_m / 44


def _ramp(start: float, step: float, n: int) -> tuple[float, ...]:
    return tuple(float(v) for v in start + step * np.arange(n))


def _with_crystal(name: str, experiment: Experiment, rocking: str, size_m: float) -> SimulatedScan:
    """Return a scan whose Bragg peak lies near, but not at, the middle of the scan."""
    frame, row, col = (n // 2 + d for n, d in zip(experiment.shape, PEAK_VOXEL_OFFSET, strict=True))
    q = q_sample(experiment, frame)[row, col]
    crystal = ChiralCrystal(size_m=size_m, q_bragg=(float(q[0]), float(q[1]), float(q[2])))
    return SimulatedScan(name=name, experiment=experiment, crystal=crystal, rocking=rocking)


def _aps_34idc(shape: tuple[int, int, int], step_deg: float) -> Experiment:
    """Return a theta scan of a gold 111 peak at 9 keV on a detector of 55 um pixels, with the geometry of 34-ID-C."""
    return Experiment(
        sample_circles={"theta": "y+", "chi": "z-", "phi": "y+"},
        arm_circles={"delta": "y+", "gamma": "x-"},
        sample_deg={"theta": _ramp(0.3 - step_deg * shape[0] / 2, step_deg, shape[0]), "chi": 90.0, "phi": -5.0},
        arm_deg={"delta": 30.5, "gamma": 13.8},
        photon_energy_ev=9000.0,
        row_direction="y-",
        col_direction="x+",
        distance_m=0.5,
        pixel_row_m=55e-6,
        pixel_col_m=55e-6,
        beam_row=shape[1] / 2 + 7.3,
        beam_col=shape[2] / 2 - 9.6,
        shape=shape,
    )


def simulated_scan(name: str) -> SimulatedScan:
    """Return a case by name.

    Raises
    ------
    KeyError
        If there is no case of that name in `CASES`.
    """
    demo = _aps_34idc((72, 112, 128), 0.009)
    small = _aps_34idc((48, 56, 64), 0.012)
    if name == "demo":
        return _with_crystal(name, demo, "theta", 400e-9)
    if name == "plain":
        return _with_crystal(name, small, "theta", 300e-9)
    if name == "small":
        return _with_crystal(name, _aps_34idc((32, 64, 64), 0.016), "theta", 250e-9)
    if name == "negative_step":
        backwards = {**small.sample_deg, "theta": _ramp(0.588, -0.012, 48)}
        reversed_scan = replace(small, sample_deg=backwards)
        return _with_crystal(name, reversed_scan, "theta", 300e-9)
    if name == "mirrored_columns":
        return _with_crystal(name, replace(small, col_direction="x-"), "theta", 300e-9)
    if name == "inner_circle":
        angles_deg: dict[str, float | tuple[float, ...]] = {"theta": 12.0, "chi": 60.0, "phi": _ramp(-7.16, 0.09, 48)}
        return _with_crystal(name, replace(small, sample_deg=angles_deg), "phi", 300e-9)
    if name == "energy":
        energies = _ramp(9000.0 - 24 * 4.0, 4.0, 48)
        sample_deg = {**small.sample_deg, "theta": 0.3}
        return _with_crystal(name, replace(small, sample_deg=sample_deg, photon_energy_ev=energies), "energy", 300e-9)
    if name == "rectangular":
        experiment = replace(small, pixel_row_m=75e-6, pixel_col_m=50e-6, beam_row=-140.2, beam_col=310.7)
        return _with_crystal(name, experiment, "theta", 300e-9)
    raise KeyError(name)


def strained_series(phase_ranges_rad: Sequence[float]) -> tuple[SimulatedScan, ...]:
    """Return scans of one crystal whose displacement grows from scan to scan, each with noise of its own.

    ``phase_ranges_rad`` holds the range of Q.u over the crystal for each scan [rad].
    """
    first = simulated_scan("plain")
    return tuple(
        replace(
            first,
            name=f"series_{phase_range_rad:.3f}_rad",
            crystal=replace(first.crystal, phase_range_rad=phase_range_rad),
            seed=first.seed + index,
        )
        for index, phase_range_rad in enumerate(phase_ranges_rad)
    )


CASES = ("demo", "plain", "small", "negative_step", "mirrored_columns", "inner_circle", "energy", "rectangular")
"""Names of the simulated scans."""
