"""Input file of a refinement: the measured volume and the crystal of the live path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cdi_stream.disk.atomic import atomic_write
from cdi_stream.errors import RecordingError
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.messages import Crystal, PhasedVolume, PreparedVolume, Verdict, read_only
from cdi_stream.metrics import Metrics

INPUTS = "jobs"
"""Folder of the input files, in the results folder."""

_VOLUME = ("counts", "valid_pixels", "expected_scale")
_CRYSTAL = ("density", "support")


def write_input(path: Path, phased: PhasedVolume) -> None:
    """Write volume and crystal; the file appears at ``path`` only when it is complete and on disk."""
    volume, crystal = phased.volume, phased.crystal
    with atomic_write(path) as part, h5py.File(part, "w") as file:
        for names, holder in ((_VOLUME, volume), (_CRYSTAL, crystal)):
            for name in names:
                file.create_dataset(name, data=getattr(holder, name), compression="lzf")
        affine = volume.affine
        file.attrs["q0_inv_m"], file.attrs["bq_inv_m"] = affine.q0, affine.bq
        file.attrs["sample_to_lab"] = affine.sample_to_lab
        file.attrs["coordinates"], file.attrs["fourier_sign"] = affine.coordinates, affine.fourier_sign
        file.attrs["crystal_extent_m"], file.attrs["oversampling"] = volume.crystal_extent_m, volume.oversampling
        if volume.frame_shifts is not None:
            file.attrs["frame_shifts_steps"] = volume.frame_shifts
        file.attrs["n_bad"], file.attrs["n_alien"] = volume.n_bad, volume.n_alien
        for key, value in crystal.metrics.known().items():
            file.attrs[f"metric {key}"] = value


def read_input(path: Path) -> PhasedVolume:
    """Return volume and crystal of a file from `write_input`.

    Raises
    ------
    RecordingError
        If the file does not exist or has other content.
    """
    try:
        with h5py.File(path, "r") as file:
            return _phased({name: read_only(file[name][()]) for name in (*_VOLUME, *_CRYSTAL)}, dict(file.attrs))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RecordingError(f"{path}: expected the input of a refinement, got: {error}; cancel the job") from error


def _phased(arrays: Mapping[str, NDArray[Any]], attrs: Mapping[str, Any]) -> PhasedVolume:
    """Return volume and crystal from the arrays and attributes of an input file."""
    affine = AffineMap(
        shape=arrays["counts"].shape,
        q0=attrs["q0_inv_m"],
        bq=attrs["bq_inv_m"],
        sample_to_lab=attrs["sample_to_lab"],
        coordinates=attrs["coordinates"],
        fourier_sign=int(attrs["fourier_sign"]),
    )
    volume = PreparedVolume(
        counts=arrays["counts"],
        valid_pixels=arrays["valid_pixels"],
        expected_scale=arrays["expected_scale"],
        affine=affine,
        crystal_extent_m=_triple(attrs["crystal_extent_m"]),
        oversampling=_triple(attrs["oversampling"]),
        n_bad=int(attrs["n_bad"]),
        n_alien=int(attrs["n_alien"]),
        frame_shifts=attrs.get("frame_shifts_steps"),
    )
    crystal = Crystal(
        density=arrays["density"],
        support=arrays["support"],
        affine=affine,
        metrics=_metrics(attrs),
        verdict=Verdict(grade="doubtful"),
    )
    return PhasedVolume(volume=volume, crystal=crystal)


def _metrics(attrs: Mapping[str, Any]) -> Metrics:
    """Return the metrics among the attributes; a name that this version does not know is an error."""
    if former := [key for key in attrs if key.startswith("scalar ")]:
        raise ValueError(f"{former[0]!r} of an earlier version of cdi-stream")
    return Metrics(**{key[7:]: value.item() for key, value in attrs.items() if key.startswith("metric ")})


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
