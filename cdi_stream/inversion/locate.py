"""Determine the geometry of a rocking curve from motor readings, detector header and configuration.

The configuration comes first, then the Bluesky documents, then the detector's header.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cdi_stream.config import FixedGeometry
from cdi_stream.errors import CurveError
from cdi_stream.geometry.circles import (
    Beamline,
    Circle,
    CurveGeometry,
    DetectorPlacement,
    LinearMap,
    Positions,
    linear_map,
)
from cdi_stream.inversion.device_prefix import device_prefix
from cdi_stream.inversion.tracks import fill_missing
from cdi_stream.inversion.units import Kind, factor
from cdi_stream.messages import RockingCurve

LEAST_SPAN_PIXELS = 3.0
"""Least length of a scan normal to the detector's plane, in q steps of the larger pixel side.

In a shorter scan the Bragg peak is a single frame.
"""

LEAST_STEP_PIXELS = 0.01
"""Least step of a scan normal to the detector's plane, in q steps of the larger pixel side.

For scale: a step of a thousandth of a degree at a detector distance of half a metre is about 0.1.
"""

MAX_LOST_SHARE = 0.1
"""Largest share of the frames whose reading of a motor may be missing and interpolated."""

MAX_UNEVENNESS_STEPS = 0.5
"""Largest distance of a frame from the evenly spaced scan, along the scan [steps]; beyond, the scan gets a doubt.

The phase retrieval knows the places of the frames, but gaps between them become too wide.
"""

MAX_SIDEWAYS_PIXELS = 0.25
"""Largest such distance along rows or columns [pixels], which the phase retrieval does not know."""


def locate(
    curve: RockingCurve, beamline: Beamline, fixed: FixedGeometry
) -> tuple[CurveGeometry, tuple[str, ...], tuple[str, ...]]:
    """Return the geometry of a curve, doubts about it, and notes on assumptions.

    Parameters
    ----------
    curve
        Rocking curve with its readings.
    beamline
        Circles of the goniometer and of the detector arm, with the names of their motors.
    fixed
        Values of the configuration, which replace readings.

    Raises
    ------
    CurveError
        If a circle, the energy or a detector value has no source; the message names the key that sets it.  Or if the
        readings do not move the frames through a volume; the message names the motors that moved.
    """
    circles = beamline.sample_circles + beamline.detector_circles
    if not circles:
        raise CurveError(
            f"beamline {beamline.name!r}: expected circles, got none, so its frames have no angles; give its geometry "
            "in the configuration, or record with --documents and --beamline"
        )
    needed = [circle for circle in circles if circle.name not in fixed.circles_deg]
    readings = _Readings(curve, device_prefix({*curve.scanned, *curve.run.readings}, needed))
    tracks = [_circle(readings, circle, fixed) for circle in circles]
    n_sample = len(beamline.sample_circles)
    positions = Positions(
        sample_rad=np.stack(tracks[:n_sample], axis=1),
        arm_rad=np.stack(tracks[n_sample:], axis=1) if tracks[n_sample:] else np.zeros((len(curve.counts), 0)),
        photon_energy_ev=_energy(readings, beamline, fixed),
    )
    detector, notes = _detector(readings, beamline, fixed)
    geometry = CurveGeometry(beamline=beamline, detector=detector, positions=positions)
    middle, row, col = (n // 2 for n in curve.counts.shape)
    tangent = linear_map(beamline, detector, positions, middle, row, col)
    _require_span(tangent.bq, curve, readings)
    return geometry, (*readings.doubts, *_irregularity(tangent)), notes


class _Readings:
    """Readings of a curve by name; collects doubts about them, and the names of the readings in use.

    A name that is not recorded is looked for with ``prefix`` before it, the name of the goniometer's device.
    """

    def __init__(self, curve: RockingCurve, prefix: str) -> None:
        self.curve = curve
        self._prefix = prefix
        self.doubts: list[str] = []
        self.names_in_use: set[str] = set()

    def is_scanned(self, name: str) -> bool:
        """Return whether a reading has a value for each frame."""
        return not self.curve.scanned.keys().isdisjoint((name, self._prefix + name))

    def track(self, name: str, unit: str, kind: Kind) -> NDArray[np.float64] | None:
        """Return the reading at each frame in the project's unit; None if there is no reading of this name.

        Parameters
        ----------
        name
            Name of the reading; a scanned motor has a value for each frame, any other reading one value for the run.
        unit
            Unit of a reading whose unit is not recorded.
        kind
            Kind of quantity.
        """
        curve = self.curve
        if name not in curve.scanned and name not in curve.run.readings:
            name = self._prefix + name
        if name in curve.scanned:
            values = self._interpolate(name, np.asarray(curve.scanned[name], dtype=float))
        elif name in curve.run.readings:
            values = np.full(len(curve.counts), curve.run.readings[name])
            if not np.isfinite(values).all():
                raise CurveError(f"reading {name!r} of the whole run is {values[0]}: check the motor's readback")
        else:
            return None
        self.names_in_use.add(name)
        return values * self._factor(name, unit, kind)

    def _interpolate(self, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return readings in which missing values of a few events are interpolated; each such reading gets a doubt."""
        gaps = np.flatnonzero(~np.isfinite(values))
        if not len(gaps):
            return values
        if len(gaps) > max(1, MAX_LOST_SHARE * len(values)):
            raise CurveError(
                f"reading {name!r} is no number at {len(gaps)} of {len(values)} frames, first at frame {gaps[0]}: "
                "check the motor's readback"
            )
        self.doubts.append(f"reading {name!r} is no number at frame {', '.join(map(str, gaps[:5]))}: interpolated")
        return fill_missing(values)

    def _factor(self, name: str, default: str, kind: Kind) -> float:
        unit = self.curve.run.units.get(name, "") or default
        scale = factor(unit, kind)
        if scale is None:
            self.doubts.append(
                f"reading {name!r} has the unit {unit!r}, expected a unit of {kind}: taken as {default}; "
                "set the unit in the device"
            )
            scale = factor(default, kind)
        assert scale is not None
        return scale


def _circle(readings: _Readings, circle: Circle, fixed: FixedGeometry) -> NDArray[np.float64]:
    if circle.name in fixed.circles_deg:
        return np.full(len(readings.curve.counts), math.radians(fixed.circles_deg[circle.name]))
    names = (circle.name, *circle.motors)
    for name in sorted(names, key=readings.is_scanned, reverse=True):  # one reading of a run says nothing of a scan
        track = readings.track(name, "deg", "angle")
        if track is not None:
            return track
    axes = readings.curve.series.goniometer
    resting = [start for start, step in (axes[name] for name in names if name in axes) if not step]
    if resting:
        return np.full(len(readings.curve.counts), math.radians(resting[0]))
    raise CurveError(
        f"no reading of circle {circle.name!r} (looked for {', '.join(names)}): record it in "
        f"the run's baseline, or set geometry.circles_deg.{circle.name} in the configuration"
    )


def _energy(readings: _Readings, beamline: Beamline, fixed: FixedGeometry) -> NDArray[np.float64]:
    curve = readings.curve
    is_scanned = any(readings.is_scanned(name) for name, _ in beamline.energy_readings)
    if fixed.photon_energy_ev is not None and not is_scanned:
        return np.full(len(curve.counts), fixed.photon_energy_ev)
    for name, unit in beamline.energy_readings:
        track = readings.track(name, unit, "energy")
        if track is not None:
            return track
    if curve.series.photon_energy_ev is not None:
        return np.full(len(curve.counts), curve.series.photon_energy_ev)
    names = ", ".join(name for name, _ in beamline.energy_readings)
    raise CurveError(
        f"no photon energy (looked for {names}, and in the detector's header): record it in the run's baseline, name "
        "its reading in geometry.inline.energy_readings, or set geometry.photon_energy_ev"
    )


def _detector(
    readings: _Readings, beamline: Beamline, fixed: FixedGeometry
) -> tuple[DetectorPlacement, tuple[str, ...]]:
    curve = readings.curve
    wire = curve.series
    notes: tuple[str, ...] = ()
    distance = fixed.distance_m
    for name, unit in beamline.distance_readings:
        track = None if distance is not None else readings.track(name, unit, "length")
        distance = distance if track is None else float(track.mean())
    rows, cols = curve.counts.shape[1:]
    beam_row = _first(fixed.beam_row, wire.beam_row)
    beam_col = _first(fixed.beam_col, wire.beam_col)
    roi = wire.roi or (0, rows, 0, cols)
    names = ", ".join(name for name, _ in beamline.distance_readings)
    if beam_row is None or beam_col is None:
        notes = ("direct-beam pixel unknown: the centre of the image is assumed",)
    return (
        DetectorPlacement(
            distance_m=_need(
                _first(distance, wire.distance_m), "distance_m", f"detector distance (looked for {names})"
            ),
            pixel_row_m=_need(_first(fixed.pixel_row_m, wire.pixel_row_m), "pixel_row_m", "pixel size along rows"),
            pixel_col_m=_need(_first(fixed.pixel_col_m, wire.pixel_col_m), "pixel_col_m", "pixel size along columns"),
            beam_row=rows / 2 if beam_row is None else beam_row - roi[0],
            beam_col=cols / 2 if beam_col is None else beam_col - roi[2],
        ),
        notes,
    )


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _need(value: float | None, key: str, quantity: str) -> float:
    if value is None or not value > 0:
        raise CurveError(f"no {quantity}: the detector's header and the run's baseline lack it; set geometry.{key}")
    return value


def _require_span(bq: NDArray[np.float64], curve: RockingCurve, readings: _Readings) -> None:
    """Raise `CurveError` unless the frames span a volume that is more than a few pixels thick."""
    n = len(curve.counts)
    across = np.cross(bq[:, 1], bq[:, 2])
    pixel = float(np.linalg.norm(bq[:, 1:], axis=0).max())
    step = abs(float(bq[:, 0] @ across)) / max(float(np.linalg.norm(across)), 1e-300) / pixel
    if step >= LEAST_STEP_PIXELS and step * (n - 1) >= LEAST_SPAN_PIXELS:
        return
    raise CurveError(
        f"the frames span no volume: {n} frames {step:.2g} pixels apart, expected at least {LEAST_STEP_PIXELS} and "
        f"{LEAST_SPAN_PIXELS:.0f} pixels in all; {_moving(curve, readings)}"
    )


def _moving(curve: RockingCurve, readings: _Readings) -> str:
    """Return a sentence on the readings that change during the scan, and on which of them belong to circles."""
    plan_motors = set(curve.run.motors)
    tracks = {name: track for name, track in curve.scanned.items() if np.isfinite(track).any()}
    unknown_motors = sorted(
        name for name, track in tracks.items() if name not in readings.names_in_use and name in plan_motors
    )
    if unknown_motors:
        return (
            f"the plan moved {', '.join(unknown_motors)}, no motor of a circle and not the energy: "
            "add the name to the circle's motors"
        )
    moving_motors = sorted(
        name for name in readings.names_in_use & tracks.keys() if np.nanmax(tracks[name]) > np.nanmin(tracks[name])
    )
    if moving_motors:
        return f"{', '.join(moving_motors)} moved, but on the whole not normal to the detector's plane"
    changing_readings = sorted(name for name, track in tracks.items() if np.nanmax(track) > np.nanmin(track))[:8]
    return f"no circle and no energy moved; readings that changed: {', '.join(changing_readings) or 'none'}"


def _irregularity(tangent: LinearMap) -> tuple[str, ...]:
    """Return a doubt if the frames lie far from evenly spaced ones, as in a scan that runs forth and back."""
    distances = np.abs(tangent.uneven_steps)
    share = (distances / [MAX_UNEVENNESS_STEPS, MAX_SIDEWAYS_PIXELS, MAX_SIDEWAYS_PIXELS]).max(axis=1)
    worst = int(np.argmax(share))
    if share[worst] <= 1:
        return ()
    return (f"uneven scan: frame {worst} lies {distances[worst].max():.2f} steps off the even scan",)
