"""Geometry cases in JSON files: circles, detector and one scanned quantity, from which q is computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cdi_stream.errors import GeometryError, InputError, describe_error
from cdi_stream.geometry.circles import (
    HC_EV_M,
    Beamline,
    Circle,
    CurveGeometry,
    DetectorPlacement,
    Positions,
    direction,
    linear_map,
    spans_volume,
)

_PER_ANGSTROM = 1e-10
Scanned = float | tuple[float, float]
"""Fixed value of a quantity, or (start, step) of the scanned quantity."""

MAX_AXIS = 1_000_000
"""Largest number of frames, rows or columns of a case."""


def _ends(value: Scanned, n: int) -> tuple[float, float]:
    """Return the first and last value of a quantity over ``n`` frames."""
    return (value[0], value[0] + value[1] * (n - 1)) if isinstance(value, tuple) else (value, value)


class Recipe(BaseModel):
    """Geometry of one experiment, with axis letters, signs and beam direction of its own.

    Angles are in degrees, energies in eV, lengths in metres; ``beam_row`` and ``beam_col`` are pixels.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    beam: tuple[float, float, float]
    sample_axes: list[str]
    sample_names: list[str]
    detector_axes: list[str]
    detector_names: list[str]
    det_row_dir: str
    det_col_dir: str
    energy_eV: Scanned  # noqa: N815 - the file format's name
    distance_m: float = Field(gt=0)
    pixel_row_m: float = Field(gt=0)
    pixel_col_m: float = Field(gt=0)
    shape: tuple[int, int, int]
    beam_row: float
    beam_col: float
    sample_deg: dict[str, Scanned]
    detector_deg: dict[str, Scanned]
    scan: str

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if min(self.shape) < 1 or max(self.shape) > MAX_AXIS:
            raise ValueError(f"expected 1 to {MAX_AXIS} voxels along each axis, got {self.shape}")
        for kind, names, axes, degrees in (
            ("sample", self.sample_names, self.sample_axes, self.sample_deg),
            ("detector", self.detector_names, self.detector_axes, self.detector_deg),
        ):
            if len(names) != len(axes) or set(names) != set(degrees):
                raise ValueError(
                    f"{kind}: expected one axis and one angle for each name, got names {names}, axes {axes} and angles "
                    f"{sorted(degrees)}"
                )
        scanned = [name for name, value in self._quantities().items() if isinstance(value, tuple)]
        if scanned != [self.scan]:
            raise ValueError(
                f"expected [start, step] for the scanned quantity {self.scan!r} alone, got it for {scanned}"
            )
        if min(_ends(self.energy_eV, self.shape[0])) <= 0:
            raise ValueError(f"expected a positive energy_eV at every frame, got {self.energy_eV}")
        return self

    def _quantities(self) -> dict[str, Scanned]:
        return {**self.sample_deg, **self.detector_deg, "energy": self.energy_eV}


def read_case(path: Path) -> tuple[str, CurveGeometry, tuple[int, int, int]]:
    """Return name, geometry and array shape of a case.

    Raises
    ------
    InputError
        If the file is not a valid case; the message has one line for each wrong key.
    """
    try:
        case: dict[str, Any] = json.loads(path.read_text())
        recipe = Recipe.model_validate(case["recipe"])
    except ValidationError as error:
        raise InputError(f"{path}:\n" + "\n".join(describe_error(e) for e in error.errors())) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f'{path}: expected a case as JSON, {{"name": ..., "recipe": {{...}}}}, or a configuration that ends in '
            f".toml, got: {type(error).__name__}: {error!s:.120}"
        ) from error
    return str(case.get("name", path.stem)), _geometry(recipe), recipe.shape


def _geometry(recipe: Recipe) -> CurveGeometry:
    n = recipe.shape[0]

    def track(value: Scanned) -> np.ndarray:
        """Return one value for each frame, from a constant or from (first value, step)."""
        return value[0] + value[1] * np.arange(n) if isinstance(value, tuple) else np.full(n, float(value))

    def stack(names: list[str], degrees: dict[str, Scanned]) -> np.ndarray:
        """Return the angles of circles for each frame, ``(frames, circles)`` [rad]."""
        return np.deg2rad(np.stack([track(degrees[name]) for name in names], axis=1)) if names else np.zeros((n, 0))

    def circles(names: list[str], axes: list[str]) -> tuple[Circle, ...]:
        """Return the circles with their names and axes."""
        return tuple(Circle(name=name, axis=direction(axis)) for name, axis in zip(names, axes, strict=True))

    length = float(np.linalg.norm(recipe.beam))
    if length == 0:
        raise GeometryError(f"expected a beam direction of non-zero length, got {recipe.beam}")
    beam = (recipe.beam[0] / length, recipe.beam[1] / length, recipe.beam[2] / length)
    beamline = Beamline(
        name="case",
        sample_circles=circles(recipe.sample_names, recipe.sample_axes),
        detector_circles=circles(recipe.detector_names, recipe.detector_axes),
        row_direction=direction(recipe.det_row_dir),
        col_direction=direction(recipe.det_col_dir),
        beam=beam,
    )
    detector = DetectorPlacement(
        distance_m=recipe.distance_m,
        pixel_row_m=recipe.pixel_row_m,
        pixel_col_m=recipe.pixel_col_m,
        beam_row=recipe.beam_row,
        beam_col=recipe.beam_col,
    )
    positions = Positions(
        sample_rad=stack(recipe.sample_names, recipe.sample_deg),
        arm_rad=stack(recipe.detector_names, recipe.detector_deg),
        photon_energy_ev=track(recipe.energy_eV),
    )
    return CurveGeometry(beamline=beamline, detector=detector, positions=positions)


def solve_case(path: Path) -> dict[str, Any]:
    """Return q, B_q, B_r, voxel volume and handedness at the reference voxel shape//2, in 1/Angstrom and Angstrom."""
    name, geometry, shape = read_case(path)
    frame, row, col = (n // 2 for n in shape)
    tangent = linear_map(geometry.beamline, geometry.detector, geometry.positions, frame, row, col)
    to_sample = tangent.sample_to_lab.T
    bq_lab = tangent.bq * _PER_ANGSTROM
    bq_sample = to_sample @ bq_lab
    q_lab = tangent.q0 * _PER_ANGSTROM
    return {
        "name": name,
        "wavelength_A": HC_EV_M / float(geometry.positions.photon_energy_ev[frame]) / _PER_ANGSTROM,
        "q_centre_lab": q_lab.tolist(),
        "q_centre_sample": (to_sample @ q_lab).tolist(),
        "Bq_lab": bq_lab.tolist(),
        "Bq_sample": bq_sample.tolist(),
        **_direct_space(bq_lab, bq_sample, shape),
    }


def _direct_space(bq_lab: np.ndarray, bq_sample: np.ndarray, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return the real-space voxels; None where B_q does not span space, as in a scan of the detector arm alone."""
    if not spans_volume(bq_lab):
        return {"Br_lab_A": None, "Br_sample_A": None, "voxel_volume_A3": None, "handedness": None}
    br_lab, br_sample = (2 * np.pi * np.linalg.inv(bq).T / np.array(shape) for bq in (bq_lab, bq_sample))
    return {
        "Br_lab_A": br_lab.tolist(),
        "Br_sample_A": br_sample.tolist(),
        "voxel_volume_A3": float(abs(np.linalg.det(br_lab))),
        "handedness": 1 if np.linalg.det(bq_lab) > 0 else -1,
    }
