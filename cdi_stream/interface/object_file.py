"""The npz file of a reconstruction: the arrays of the command ``phase``, with map, metrics and verdict."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.disk.atomic import atomic_write
from cdi_stream.errors import ConfigError, RecordingError
from cdi_stream.files.intensities.limits import UNREADABLE
from cdi_stream.files.intensities.objects import LabObject, object_arrays
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.geometry.circles import FOURIER_SIGN
from cdi_stream.messages import Verdict
from cdi_stream.metrics import Metrics

NO_VERDICT = Verdict(
    grade="unknown", reasons=("the file holds no verdict: the command phase prints it, and does not write it",)
)
"""Verdict of an object from a file without one."""

_MAP = ("q0_inv_m", "bq_inv_m", "sample_to_lab", "coordinates")


def save_object(
    path: Path,
    density: NDArray[np.complex64],
    support: NDArray[np.bool_],
    *,
    lab: LabObject | None,
    about: Mapping[str, Any],
) -> Path:
    """Write an object as npz, and return the file's path; the file appears only when it is complete.

    Parameters
    ----------
    path
        Name of the file, ending in ``.npz``.
    density, support
        Arrays of one shape.
    lab
        The object in lab coordinates, where the geometry is known.
    about
        ``affine`` (or None), ``metrics``, ``verdict`` and ``axes`` of the object.

    Raises
    ------
    ConfigError
        If the name has another suffix, or the file cannot be written.
    """
    if path.suffix.lower() != ".npz":
        raise ConfigError(
            f"{path}: expected a name that ends in .npz, .h5, .cxi or .vti, got {path.suffix or 'no suffix'!r}: "
            "choose .npz, which holds everything"
        )
    arrays = object_arrays(density, support, lab)
    affine: AffineMap | None = about["affine"]
    if affine is not None:
        values = (affine.q0, affine.bq, affine.sample_to_lab, np.str_(affine.coordinates))
        arrays |= {f"affine_{name}": value for name, value in zip(_MAP, values, strict=True)}
    arrays |= {"numbers": np.str_(_json_of(about["metrics"], about["verdict"], about["axes"]))}
    try:
        with atomic_write(path) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error}; choose another place") from error
    return path


def read_object(path: Path) -> dict[str, Any]:
    """Return the fields of a reconstruction by name, from an npz file of the command ``phase`` or of `save_object`.

    Raises
    ------
    RecordingError
        If the file is no such file, or has another Fourier sign.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        density, sign = arrays["object"], int(arrays["fourier_sign"])
        if sign != FOURIER_SIGN or density.dtype.kind != "c" or density.shape != arrays["support"].shape:
            raise ValueError(f"object {density.dtype} {density.shape} with fourier_sign {sign}")
        return {
            "object": density,
            "support": arrays["support"],
            "affine": _affine(arrays, "affine_", density.shape),
            "lab": _lab(arrays),
            **_numbers(arrays),
        }
    except (*UNREADABLE, zipfile.BadZipFile) as error:
        raise RecordingError(
            f"{path}: expected an object that the command phase or Reconstruction.save wrote, got: {error}; "
            f"take a file with 'object', 'support' and 'fourier_sign' = {FOURIER_SIGN}"
        ) from error


def metrics_from(numbers: Mapping[str, Any]) -> Metrics:
    """Return the metrics among numbers by name; numbers that are no metrics are left out."""
    values: dict[str, Any] = {}
    for metric in fields(Metrics):
        if (value := numbers.get(metric.name)) is not None:
            values[metric.name] = _typed(value, metric.default)
    return Metrics(**values)


def _typed(value: Any, default: Any) -> float | int | bool | None:
    """Return a number with the type of its metric; ``default`` is the metric's default."""
    if isinstance(default, bool):
        return bool(value)
    if default is None:
        return int(value) if math.isfinite(value) else None
    return float(value)


def _json_of(metrics: Metrics, verdict: Verdict, axes: tuple[str, ...]) -> str:
    """Return metrics, verdict and axes as JSON; numbers that are not known are left out."""
    numbers = metrics.known() | {flag.name: v for flag in fields(metrics) if (v := getattr(metrics, flag.name)) is True}
    return json.dumps(
        {
            "metrics": numbers,
            "verdict": {name: getattr(verdict, name) for name in ("grade", "reasons", "crystal", "join")},
            "axes": axes,
        }
    )


def _numbers(arrays: Mapping[str, Any]) -> dict[str, Any]:
    if "numbers" not in arrays:
        return {"metrics": Metrics(), "verdict": NO_VERDICT, "axes": ()}
    content = json.loads(str(arrays["numbers"]))
    verdict = content["verdict"]
    return {
        "metrics": metrics_from(content["metrics"]),
        "verdict": Verdict(**{**verdict, "reasons": tuple(verdict["reasons"])}),
        "axes": tuple(content["axes"]),
    }


def _affine(arrays: Mapping[str, Any], prefix: str, shape: Any) -> AffineMap | None:
    """Return the map whose arrays have a prefix; None if there is none."""
    if f"{prefix}bq_inv_m" not in arrays:
        return None
    q0, bq, sample_to_lab, coordinates = (arrays[f"{prefix}{name}"] for name in _MAP)
    return AffineMap(shape=shape, q0=q0, bq=bq, sample_to_lab=sample_to_lab, coordinates=str(coordinates))  # type: ignore[arg-type]


def _lab(arrays: Mapping[str, Any]) -> LabObject | None:
    if "object_lab" not in arrays:
        return None
    density = arrays["object_lab"]
    affine = _affine(arrays, "lab_", density.shape)
    assert affine is not None
    return LabObject(density=density, support=arrays["support_lab"], affine=affine)
