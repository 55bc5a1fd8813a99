"""Compute momentum transfer from circles, detector and energy.  This page defines all conventions of the project.

Axes.  Lab axes are right-handed, CXI style: z along the beam, y up, x outboard.  Arrays are
``[frame, row, col]`` in detector coordinates and ``[z, y, x]`` in lab coordinates; vectors are always
``(x, y, z)``.  A beamline may use its own right-handed axes and beam direction: the equations below are
covariant, and need only vectors in the same axes.

Units.  Metres, radians and electronvolts; |k| = 2 pi / lambda, so q is in 1/m.  Other units appear only
where they are in the name.

Origin.  The zero frequency of an array is voxel N//2 on each axis, wherever the brightest voxel is.

Goniometer.  Sample circles are ordered outermost first, a_1 ... a_m with angles alpha_1 ... alpha_m.  They
rotate the crystal by S = R(a_1, alpha_1) R(a_2, alpha_2) ...: v_lab = S v_sample.  Detector circles rotate the
arm in the same way by D.  R(n, a) is the right-handed rotation by a about n; an axis written ``y-`` means n = -y.

Pixel.  At zero arm angles the pixel (row, col) lies at
v = L b + (row - row_0) p_r e_r + (col - col_0) p_c e_c, with b the beam, L the distance, (row_0, col_0)
the pixel hit by the direct beam, and e_r, e_c the directions in which row and column grow.

Momentum transfer.  Q_lab = k (D v/|v| - b), exact, and Q_sample = S^T Q_lab.  Its linear map
q(i) = Q_0 + B_q (i - N//2) at a reference voxel, in the lab at the orientation of the reference frame, is

* b_row = k p_r D P e_r and b_col = k p_c D P e_c, with u = v/|v| and P = (1 - u u^T)/|v|;
* a sample circle stepping by d_alpha: b_frame = -d_alpha (n x Q), n = R(a_1) ... R(a_(m-1)) a_m.  The minus
  sign holds since a fixed pixel sees the crystal rotated backwards; n depends on the outer circles only;
* an arm circle stepping by d_delta: b_frame = d_delta (n' x k_f);
* the energy stepping by dE: b_frame = Q dE / E.

Phase and displacement.  F(q) = sum rho exp(+i q.r) (`cdi_stream.numerics.fourier`): a crystal displaced by u has
the phase +Q.u; displacement along Q is phase/|Q|, strain is Qhat.grad(u).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdi_stream.errors import GeometryError

Vector = tuple[float, float, float]
Floats = NDArray[np.float64]

FOURIER_SIGN = +1
"""Sign of the exponent in the transform from the crystal to reciprocal space (`cdi_stream.numerics.fourier`)."""

HC_EV_M = 1.2398419843320026e-6
"""Planck constant times speed of light [eV m], CODATA 2018 (exact)."""

_LETTERS: dict[str, Vector] = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


def direction(name: str) -> Vector:
    """Return a signed axis such as ``"y-"`` as a unit vector."""
    if len(name) != 2 or name[0] not in _LETTERS or name[1] not in "+-":
        raise GeometryError(f"expected a signed axis such as 'x+' or 'y-', got {name!r}")
    sign = 1.0 if name[1] == "+" else -1.0
    x, y, z = _LETTERS[name[0]]
    return (sign * x, sign * y, sign * z)


@dataclass(frozen=True, slots=True, kw_only=True)
class Circle:
    """One rotation axis: its name, its unit vector at zero angles, and the names of its motors in the documents."""

    name: str
    axis: Vector
    motors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Beamline:
    """A diffractometer: its circles (outermost first), its beam direction and its pixel directions.

    ``energy_readings`` and ``distance_readings`` name the readings of photon energy and detector distance,
    each with the unit that is assumed where the documents state none.
    """

    name: str
    sample_circles: tuple[Circle, ...]
    detector_circles: tuple[Circle, ...]
    row_direction: Vector
    col_direction: Vector
    beam: Vector = (0.0, 0.0, 1.0)
    energy_readings: tuple[tuple[str, str], ...] = (("energy", "eV"),)
    distance_readings: tuple[tuple[str, str], ...] = (("detector_distance", "m"),)


def readings_of(beamline: Beamline) -> dict[str, list[str]]:
    """Return the names of the readings that a beamline uses, with the unit assumed where documents state none."""
    circles = beamline.sample_circles + beamline.detector_circles
    return {
        "circles": ["/".join((circle.name, *circle.motors)) for circle in circles],
        "energy": [f"{name} ({unit})" for name, unit in beamline.energy_readings],
        "distance": [f"{name} ({unit})" for name, unit in beamline.distance_readings],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorPlacement:
    """Distance, pixel sizes and direct-beam pixel (fractional, may lie outside) at zero arm angles."""

    distance_m: float
    pixel_row_m: float
    pixel_col_m: float
    beam_row: float
    beam_col: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """Angles of all circles and photon energy at each frame.

    ``sample_rad`` is ``(n_frames, n_sample_circles)``, ``arm_rad`` ``(n_frames, n_detector_circles)``,
    ``photon_energy_ev`` ``(n_frames,)``.
    """

    sample_rad: Floats
    arm_rad: Floats
    photon_energy_ev: Floats

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.photon_energy_ev)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveGeometry:
    """Geometry of a curve: beamline, detector within the region of interest, angles and energy at each frame."""

    beamline: Beamline
    detector: DetectorPlacement
    positions: Positions


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearMap:
    """Q_0 and B_q = [b_frame b_row b_col] [1/m] in lab axes, and the rotation S from sample to lab.

    ``frame_offsets (n, 3)`` are the distances of the frames from evenly spaced ones, to first order [1/m].
    """

    q0: Floats
    bq: Floats
    sample_to_lab: Floats
    frame_offsets: Floats

    @property
    def uneven_steps(self) -> Floats:
        """Distances of the frames from evenly spaced ones ``(n, 3)``, in steps along frame, row and column."""
        result: Floats = self.frame_offsets @ np.linalg.inv(self.bq).T
        return result


def rotation(axis: ArrayLike, angle_rad: float) -> Floats:
    """Return the right-handed rotation by ``angle_rad`` about the unit vector ``axis`` (Rodrigues' formula)."""
    x, y, z = np.asarray(axis, dtype=float)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    result: Floats = np.eye(3) + np.sin(angle_rad) * cross + (1 - np.cos(angle_rad)) * cross @ cross
    return result


def compose_rotations(circles: tuple[Circle, ...], angles_rad: Floats) -> tuple[Floats, list[Floats]]:
    """Return the rotation of all circles, outermost first, and each axis as rotated by the circles outside it."""
    total, axes = np.eye(3), []
    for circle, angle in zip(circles, angles_rad, strict=True):
        axes.append(total @ np.asarray(circle.axis))
        total = total @ rotation(circle.axis, float(angle))
    return total, axes


def wavenumber(photon_energy_ev: ArrayLike) -> Floats:
    """Return |k| = 2 pi E / (h c) [1/m] of a photon energy [eV]."""
    return 2 * np.pi * np.asarray(photon_energy_ev, dtype=float) / HC_EV_M


def pixel_vectors(beamline: Beamline, detector: DetectorPlacement, row: ArrayLike, col: ArrayLike) -> Floats:
    """Return the vector from crystal to pixel at zero arm angles, ``(..., 3)`` [m]; pixels may be fractional."""
    row, col = np.asarray(row, dtype=float), np.asarray(col, dtype=float)
    along_row = (row - detector.beam_row)[..., None] * detector.pixel_row_m * np.asarray(beamline.row_direction)
    along_col = (col - detector.beam_col)[..., None] * detector.pixel_col_m * np.asarray(beamline.col_direction)
    result: Floats = detector.distance_m * np.asarray(beamline.beam) + along_row + along_col
    return result


def exact_q_lab(
    beamline: Beamline, detector: DetectorPlacement, positions: Positions, frame: int, row: ArrayLike, col: ArrayLike
) -> Floats:
    """Return the exact Q_lab ``(..., 3)`` [1/m] of pixels of one frame, at that frame's own orientation."""
    arm, _ = compose_rotations(beamline.detector_circles, positions.arm_rad[frame])
    vectors = pixel_vectors(beamline, detector, row, col)
    units = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: Floats = wavenumber(positions.photon_energy_ev[frame]) * (units @ arm.T - np.asarray(beamline.beam))
    return result


def sample_rotation(beamline: Beamline, positions: Positions, frame: int) -> Floats:
    """Return the rotation S ``(3, 3)`` of one frame: v_lab = S v_sample."""
    return compose_rotations(beamline.sample_circles, positions.sample_rad[frame])[0]


def exact_q_sample(
    beamline: Beamline, detector: DetectorPlacement, positions: Positions, frame: int, row: ArrayLike, col: ArrayLike
) -> Floats:
    """Return the exact Q_sample ``(..., 3)`` [1/m]; sample axes are lab axes where every sample circle is at zero."""
    return exact_q_lab(beamline, detector, positions, frame, row, col) @ sample_rotation(beamline, positions, frame)


def linear_map(
    beamline: Beamline, detector: DetectorPlacement, positions: Positions, frame: int, row: float, col: float
) -> LinearMap:
    """Return the linear map of q at a reference voxel, in the lab at the orientation of frame ``frame``.

    Parameters
    ----------
    beamline, detector, positions
        Geometry of the curve.
    frame, row, col
        Reference voxel.
    """
    sample, sample_axes = compose_rotations(beamline.sample_circles, positions.sample_rad[frame])
    arm, arm_axes = compose_rotations(beamline.detector_circles, positions.arm_rad[frame])
    energy = float(positions.photon_energy_ev[frame])
    k = float(wavenumber(energy))
    vector = pixel_vectors(beamline, detector, row, col)
    length = np.linalg.norm(vector)
    unit = vector / length
    k_out = k * arm @ unit
    q0 = k_out - k * np.asarray(beamline.beam)
    across = k * arm @ (np.eye(3) - np.outer(unit, unit)) / length
    derivatives = [(positions.photon_energy_ev, q0 / energy)]
    derivatives += [(v, -np.cross(axis, q0)) for axis, v in zip(sample_axes, positions.sample_rad.T, strict=True)]
    derivatives += [(v, np.cross(axis, k_out)) for axis, v in zip(arm_axes, positions.arm_rad.T, strict=True)]
    b_frame = sum((_slope(track) * vector for track, vector in derivatives), np.zeros(3))
    b_row = detector.pixel_row_m * across @ np.asarray(beamline.row_direction)
    b_col = detector.pixel_col_m * across @ np.asarray(beamline.col_direction)
    bq = np.stack([b_frame, b_row, b_col], axis=1)
    offsets = sum((np.outer(_unevenness(track), vector) for track, vector in derivatives), np.zeros(()))
    return LinearMap(q0=q0, bq=bq, sample_to_lab=sample, frame_offsets=np.asarray(offsets))


def _unevenness(values: Floats) -> Floats:
    """Return the differences of values from their least-squares line."""
    centred = np.arange(len(values)) - (len(values) - 1) / 2
    result: Floats = values - values.mean() - _slope(values) * centred
    return result


def _slope(values: Floats) -> float:
    """Return the least-squares step per frame: exact for even steps, and averaging over encoder noise."""
    centred = np.arange(len(values)) - (len(values) - 1) / 2
    return float(centred @ values / max(float(centred @ centred), 1.0))


def spans_volume(bq: Floats) -> bool:
    """Return whether the three columns of B_q span space.

    They do not in a scan of the detector arm alone: all three steps are then tangent to the Ewald sphere.
    """
    lengths = np.linalg.norm(bq, axis=0)
    return bool(lengths.min() > 0 and abs(np.linalg.det(bq / np.maximum(lengths, 1e-300))) > 1e-6)


def require_volume(bq: Floats) -> None:
    """Raise `GeometryError` if the columns of B_q do not span space."""
    lengths = np.linalg.norm(bq, axis=0)
    if lengths.min() == 0:
        raise GeometryError(
            "expected q to change along frame, row and column, got steps of "
            f"{lengths * 1e-10} 1/Angstrom: a rocking circle, an arm circle or the energy must be scanned"
        )
    if not spans_volume(bq):
        raise GeometryError(
            "expected steps of q that span a volume, got frame, row and column directions in one plane, as in a scan "
            "of the detector arm alone: scan a sample circle or the energy"
        )
