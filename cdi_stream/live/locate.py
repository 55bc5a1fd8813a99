"""Locate: where the frames of a curve lie, from the readings that came with it.

Each number has one source: the configuration if it names one, else the Bluesky documents, else the wire.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import CurveError
from cdi_stream.geometry import Beamline, Circle, CurveGeometry, DetectorPlacement, Positions
from cdi_stream.messages import RockingCurve

_TO_SI = {"m": 1.0, "mm": 1e-3, "cm": 1e-2, "um": 1e-6}
_TO_EV = {"eV": 1.0, "keV": 1e3}
_TO_RAD = {"deg": math.pi / 180, "degree": math.pi / 180, "degrees": math.pi / 180, "rad": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedGeometry:
    """Numbers that the configuration fixes; None leaves them to documents and wire."""

    distance_m: float | None = None
    pixel_row_m: float | None = None
    pixel_col_m: float | None = None
    beam_row: float | None = None
    beam_col: float | None = None
    photon_energy_ev: float | None = None
    circles_deg: Mapping[str, float] = field(default_factory=dict)


def locate(
    curve: RockingCurve, beamline: Beamline, fixed: FixedGeometry
) -> tuple[CurveGeometry, tuple[str, ...], tuple[str, ...]]:
    """Return the geometry of a curve, doubts about it, and notes on what had to be assumed.

    Raises
    ------
    CurveError
        If a circle, the energy or a detector number is known to nobody; it says where to give it.
    """
    circles = beamline.sample_circles + beamline.detector_circles
    if not circles:
        raise CurveError(
            f"beamline {beamline.name!r} has no circles, so its frames cannot be placed; give its geometry in the "
            "configuration, or record with --documents and --beamline"
        )
    tracks = [_circle(curve, circle, fixed) for circle in circles]
    n_sample = len(beamline.sample_circles)
    positions = Positions(
        sample_rad=np.stack(tracks[:n_sample], axis=1),
        arm_rad=np.stack(tracks[n_sample:], axis=1) if tracks[n_sample:] else np.zeros((len(curve.counts), 0)),
        photon_energy_ev=_energy(curve, beamline, fixed),
    )
    detector, notes = _detector(curve, beamline, fixed)
    geometry = CurveGeometry(beamline=beamline, detector=detector, positions=positions)
    return geometry, _irregularity(positions), notes


def _circle(curve: RockingCurve, circle: Circle, fixed: FixedGeometry) -> NDArray[np.float64]:
    if circle.name in fixed.circles_deg:
        return np.full(len(curve.counts), math.radians(fixed.circles_deg[circle.name]))
    for name in (circle.name, *circle.motors):
        track = _track(curve, name)
        if track is not None:
            return track * _factor(curve, name, "deg", _TO_RAD)
    raise CurveError(
        f"no reading of circle {circle.name!r} (motors {', '.join((circle.name, *circle.motors))}): record it in the "
        f"run's baseline, or set geometry.circles_deg.{circle.name} in the configuration"
    )


def _energy(curve: RockingCurve, beamline: Beamline, fixed: FixedGeometry) -> NDArray[np.float64]:
    scanned = [name for name, _ in beamline.energy_readings if name in curve.scanned]
    if fixed.photon_energy_ev is not None and not scanned:
        return np.full(len(curve.counts), fixed.photon_energy_ev)
    for name, unit in beamline.energy_readings:
        track = _track(curve, name)
        if track is not None:
            return track * _factor(curve, name, unit, _TO_EV)
    if curve.series.photon_energy_ev is not None:
        return np.full(len(curve.counts), curve.series.photon_energy_ev)
    raise CurveError("no photon energy: record it in the run's baseline, or set geometry.photon_energy_ev")


def _track(curve: RockingCurve, name: str) -> NDArray[np.float64] | None:
    """Value at each frame: from the events, else one reading for all frames."""
    if name in curve.scanned:
        track = np.asarray(curve.scanned[name], dtype=float)
    elif name in curve.run.readings:
        track = np.full(len(curve.counts), curve.run.readings[name])
    else:
        return None
    if not np.isfinite(track).all():
        bad = int(np.flatnonzero(~np.isfinite(track))[0])
        raise CurveError(f"reading {name!r} is {track[bad]} at frame {bad}: check the motor's readback")
    return track


def _factor(curve: RockingCurve, name: str, default: str, table: Mapping[str, float]) -> float:
    unit = curve.run.units.get(name, default)
    if unit not in table:
        raise CurveError(f"reading {name!r}: expected a unit out of {', '.join(table)}, got {unit!r}")
    return table[unit]


def _detector(
    curve: RockingCurve, beamline: Beamline, fixed: FixedGeometry
) -> tuple[DetectorPlacement, tuple[str, ...]]:
    wire = curve.series
    notes: tuple[str, ...] = ()
    distance = fixed.distance_m
    for name, unit in beamline.distance_readings:
        if distance is None and name in curve.run.readings:
            distance = curve.run.readings[name] * _factor(curve, name, unit, _TO_SI)
    rows, cols = curve.counts.shape[1:]
    beam_row = _first(fixed.beam_row, wire.beam_row)
    beam_col = _first(fixed.beam_col, wire.beam_col)
    roi = wire.roi or (0, rows, 0, cols)
    if beam_row is None or beam_col is None:
        notes = ("direct-beam pixel unknown: the centre of the image is assumed",)
    return (
        DetectorPlacement(
            distance_m=_need(_first(distance, wire.distance_m), "distance_m", "detector distance"),
            pixel_row_m=_need(_first(fixed.pixel_row_m, wire.pixel_row_m), "pixel_row_m", "pixel size along rows"),
            pixel_col_m=_need(_first(fixed.pixel_col_m, wire.pixel_col_m), "pixel_col_m", "pixel size along columns"),
            beam_row=rows / 2 if beam_row is None else beam_row - roi[0],
            beam_col=cols / 2 if beam_col is None else beam_col - roi[2],
        ),
        notes,
    )


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _need(value: float | None, key: str, what: str) -> float:
    if value is None or not value > 0:
        raise CurveError(f"no {what}: the detector's header and the run's baseline lack it; set geometry.{key}")
    return value


def _irregularity(positions: Positions) -> tuple[str, ...]:
    """Say so when steps are uneven: the volume is taken as evenly spaced."""
    index = np.arange(positions.n_frames)
    tracks = [*positions.sample_rad.T, *positions.arm_rad.T, positions.photon_energy_ev]
    for track in tracks:
        slope, start = np.polyfit(index, track, 1) if len(index) > 1 else (0.0, 0.0)
        is_scanned = np.ptp(track) > 1e-9 * abs(track).max() and abs(slope) * len(index) > 0.5 * np.ptp(track)
        if is_scanned:
            worst = np.abs(track - start - slope * index).max() / abs(slope)
            if worst > 0.25:
                return (f"uneven scan: a point lies {worst:.2f} steps off the straight line",)
    return ()
