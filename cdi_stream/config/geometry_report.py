"""Report on the geometry of a configuration, in numbers and as a sketch, before any frame is taken.

The conventions stand in `cdi_stream.geometry.circles`; deploy/docs/how-to/beamline.md explains them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cdi_stream.config import GeometryConfig
from cdi_stream.errors import InputError
from cdi_stream.geometry.circles import (
    HC_EV_M,
    Beamline,
    Circle,
    DetectorPlacement,
    Floats,
    LinearMap,
    Positions,
    Vector,
    linear_map,
    require_volume,
    wavenumber,
)

_PER_NM = 1e-9
ENERGY = "energy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Assumptions about one scan, in addition to the configuration.

    ``angles_deg`` wins over ``geometry.circles_deg``; ``scan`` is a circle's name, or ``energy``, with its step a frame
    [degrees or eV]; ``shape`` is frames, rows, columns.
    """

    shape: tuple[int, int, int]
    angles_deg: Mapping[str, float] = field(default_factory=dict)
    scan: tuple[str, float] | None = None
    photon_energy_ev: float | None = None
    distance_m: float | None = None
    pixel_m: float | None = None

    def __post_init__(self) -> None:
        """Refuse impossible numbers; raises `InputError`."""
        numbers = (*self.angles_deg.values(), *(self.scan or ("", 0.0))[1:], *self.shape)
        positive = [n for n in (self.photon_energy_ev, self.distance_m, self.pixel_m) if n is not None]
        if not np.isfinite([*numbers, *positive]).all() or min((*positive, *self.shape)) <= 0:
            raise InputError(f"expected finite numbers, and energy, distance, pixel and shape above 0, got {self}")


def report(geometry: GeometryConfig, place: Place) -> dict[str, Any]:
    """Return 2 theta, Q, d and the steps of a voxel for one place of a diffractometer.

    Returns
    -------
    dict
        ``two_theta_deg``; ``q_inv_nm``, the length of Q, and ``q_lab_inv_nm``; ``d_nm``, None at the direct beam;
        ``step_inv_nm``, the steps of q along frame (None without a scan), row and column; ``voxel_nm``, the voxel of
        the reconstructed array (None without a scan).

    Raises
    ------
    InputError
        If a number is known neither from the configuration nor from ``place``: the error names all missing numbers.
    GeometryError
        If the scan gives no volume.
    """
    beamline = geometry.value()
    _require_known(beamline, geometry, place)
    tangent, energy_ev = _tangent(beamline, geometry, place)
    k = float(wavenumber(energy_ev))
    k_out = tangent.q0 + k * np.asarray(beamline.beam)
    length = float(np.linalg.norm(tangent.q0))
    steps: list[float | None] = [float(step) for step in np.linalg.norm(tangent.bq, axis=0) * _PER_NM]
    return {
        "beamline": beamline.name,
        "shape": list(place.shape),
        "wavelength_nm": HC_EV_M / energy_ev / _PER_NM,
        "two_theta_deg": float(np.degrees(np.arccos(np.clip(k_out @ np.asarray(beamline.beam) / k, -1, 1)))),
        "q_inv_nm": length * _PER_NM,
        "q_lab_inv_nm": (tangent.q0 * _PER_NM).tolist(),
        "d_nm": 2 * np.pi / length / _PER_NM if length > 1e-6 * k else None,
        "step_inv_nm": steps if place.scan else [None, *steps[1:]],
        "voxel_nm": _voxel_nm(tangent.bq, place.shape) if place.scan else None,
    }


def in_words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of `report` as texts for people, rounded and with units."""
    frame, row, col = ("unknown without --scan" if step is None else f"{step:.3g}" for step in numbers["step_inv_nm"])
    x, y, z = numbers["q_lab_inv_nm"]
    voxel = numbers["voxel_nm"]
    return {
        "beamline": numbers["beamline"],
        "2 theta": f"{numbers['two_theta_deg']:.3f} deg",
        "|Q|": f"{numbers['q_inv_nm']:.3f} 1/nm, in the lab x {x:.3f}, y {y:.3f}, z {z:.3f}",
        "d": "none: this is the direct beam" if numbers["d_nm"] is None else f"{numbers['d_nm']:.5f} nm",
        "step of q": f"along frame {frame}, row {row}, column {col} 1/nm",
        "voxel": "unknown without --scan"
        if voxel is None
        else f"{voxel[0]:.2f} x {voxel[1]:.2f} x {voxel[2]:.2f} nm, for {'x'.join(map(str, numbers['shape']))} voxels",
    }


def missing(geometry: GeometryConfig, place: Place) -> list[str]:
    """Return the missing quantities, which neither configuration nor ``place`` states, each with its key and option."""
    angles_deg = {**geometry.circles_deg, **place.angles_deg}
    circles = [circle.name for circle in _circles(geometry.value()) if circle.name not in angles_deg]
    gaps = [f"angles of {', '.join(circles)} (geometry.circles_deg, or --angle NAME=DEGREES)"] if circles else []
    for name, value, option in (
        ("photon_energy_ev", place.photon_energy_ev, "--energy EV"),
        ("distance_m", place.distance_m, "--distance METRES"),
        ("pixel_row_m", place.pixel_m, "--pixel METRES"),
        ("pixel_col_m", place.pixel_m, "--pixel METRES"),
    ):
        if value is None and getattr(geometry, name) is None:
            gaps.append(f"geometry.{name} (or {option})")
    return gaps


def _require_known(beamline: Beamline, geometry: GeometryConfig, place: Place) -> None:
    names = [circle.name for circle in _circles(beamline)]
    scanned = () if place.scan is None or place.scan[0] == ENERGY else place.scan[:1]
    if unknown_circles := [name for name in (*place.angles_deg, *scanned) if name not in names]:
        raise InputError(f"{beamline.name}: expected circles {', '.join(names)}, got {', '.join(unknown_circles)}")
    if gaps := missing(geometry, place):
        raise InputError(f"{beamline.name}: to tell 2 theta, |Q| and d, these are missing: {'; '.join(gaps)}")


def _tangent(beamline: Beamline, geometry: GeometryConfig, place: Place) -> tuple[LinearMap, float]:
    """Return the map of q at the middle of the array, from three frames around the middle, and the photon energy."""
    energy_ev = _given(place.photon_energy_ev, geometry.photon_energy_ev)
    angles = {**geometry.circles_deg, **place.angles_deg}
    rows, cols = place.shape[1:]

    def track(name: str, value: float) -> Floats:
        """Return the value of a circle or of the energy in the three frames."""
        step = place.scan[1] if place.scan is not None and place.scan[0] == name else 0.0
        return value + step * np.arange(-1.0, 2.0)

    def tracks(circles: tuple[Circle, ...]) -> Floats:
        """Return the angles of circles in the three frames, ``(3, circles)`` [rad]."""
        return np.radians([track(circle.name, angles[circle.name]) for circle in circles]).reshape(len(circles), 3).T

    positions = Positions(
        sample_rad=tracks(beamline.sample_circles),
        arm_rad=tracks(beamline.detector_circles),
        photon_energy_ev=track(ENERGY, energy_ev),
    )
    detector = DetectorPlacement(
        distance_m=_given(place.distance_m, geometry.distance_m),
        pixel_row_m=_given(place.pixel_m, geometry.pixel_row_m),
        pixel_col_m=_given(place.pixel_m, geometry.pixel_col_m),
        beam_row=rows / 2 if geometry.beam_row is None else geometry.beam_row,
        beam_col=cols / 2 if geometry.beam_col is None else geometry.beam_col,
    )
    return linear_map(beamline, detector, positions, 1, rows // 2, cols // 2), energy_ev


def _given(first: float | None, second: float | None) -> float:
    value = first if first is not None else second
    assert value is not None, "what is missing was named before"
    return value


def _voxel_nm(bq: Floats, shape: tuple[int, int, int]) -> list[float]:
    require_volume(bq)
    steps = 2 * np.pi * np.linalg.inv(bq).T / np.array(shape)
    return [float(step) for step in np.linalg.norm(steps, axis=0) / _PER_NM]


def _circles(beamline: Beamline) -> tuple[Circle, ...]:
    return beamline.sample_circles + beamline.detector_circles


def sketch(beamline: Beamline) -> list[str]:
    """Return the lines of a sketch: circles with their axes, and the directions of the detector's rows and columns."""
    return [
        "Looking downstream, from the source to the crystal, all angles at zero:",
        "",
        "            y (up)",
        "            |              beam: along z, away from you",
        "     x -----o              x: to the left (outboard)",
        "",
        *_circle_lines("sample", beamline.sample_circles),
        *_circle_lines("detector", beamline.detector_circles),
        "",
        *_detector_lines(axis_name(beamline.row_direction), axis_name(beamline.col_direction)),
    ]


def axis_name(vector: Vector) -> str:
    """Return the name of an axis-aligned unit vector: ``y-`` for (0, -1, 0)."""
    place = int(np.argmax(np.abs(vector)))
    return f"{'xyz'[place]}{'+' if vector[place] > 0 else '-'}"


def _circle_lines(kind: str, circles: tuple[Circle, ...]) -> list[str]:
    """Return one line for each circle, the outermost first; an outer circle carries the circles after it."""
    if not circles:
        return [f"{kind:>8}: no circles"]
    width = max(len(circle.name) for circle in circles)
    lines = []
    for number, circle in enumerate(circles):
        lead = f"{kind:>8}: " if number == 0 else f"{'carries':>8}: "
        motors = ", ".join(circle.motors)
        lines.append(
            f"{lead}{circle.name:{width}}  about {axis_name(circle.axis)}  {_sense(circle.axis)}"
            + (f"  (also recorded as {motors})" if motors else "")
        )
    return lines


def _sense(axis: Vector) -> str:
    """Return the sense of rotation about an axis, in words."""
    vector: Vector = (0.0, 0.0, 1.0) if axis[2] == 0 else (1.0, 0.0, 0.0)
    x, y, z = np.cross(axis, vector)
    return f"a positive angle turns {axis_name(vector)} towards {axis_name((float(x), float(y), float(z)))}"


def _detector_lines(row: str, col: str) -> list[str]:
    """Return a sketch of the detector with pixel (0, 0) in its corner, seen downstream: x+ goes to the left, y+ up."""
    directions = (row, col)
    vertical, horizontal = (next(name for name in directions if name[0] == letter) for letter in "yx")
    is_top, is_left = vertical == "y-", horizontal == "x-"
    corner = "(0,0)"
    edge = f"{corner}{'':9}" if is_left else f"{'':9}{corner}"
    along = "columns" if col[0] == "x" else "rows"
    arrow = f"{along} ->" if is_left else f"<- {along}"
    first, middle = f"|{edge}|", f"|{arrow:^14}|"
    border = f"+{'':-^14}+"
    rows = [first, middle, f"|{'':14}|"] if is_top else [f"|{'':14}|", middle, first]
    across = "rows" if along == "columns" else "columns"
    return [
        f"detector: rows grow along {row}, columns along {col}; pixel (row 0, column 0) is",
        f"          {'top' if is_top else 'bottom'} {'left' if is_left else 'right'}, "
        f"{across} grow {'downwards' if is_top else 'upwards'}",
        *(f"          {line}" for line in (border, *rows, border)),
    ]
