"""The result file, written and read: crystal and support on a lab grid, with axes and numbers; HDF5 in NeXus form."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cdi_stream.disk.atomic import atomic_write
from cdi_stream.errors import RecordingError
from cdi_stream.geometry.affine import AffineMap, Floats, Shape
from cdi_stream.messages import Crystal, Reading, Verdict
from cdi_stream.metrics import Metrics
from cdi_stream.numerics.boxes import bounding_box
from cdi_stream.physics.lattice import DensityOnGrid, lattice_of

ARRAYS = {"crystal": "<c8", "support": "|u1"}
"""Arrays of every result file by name, with their data types."""

LATTICE_ARRAYS = {"displacement_nm": "<f4", "strain": "<f4", "d_spacing_nm": "<f4"}
"""Maps of the lattice along Q, with their data types; NaN outside the crystal.  A first answer has none."""

_READING_ROW = [("name", h5py.string_dtype()), ("value", "<f8"), ("unit", h5py.string_dtype())]
"""Columns of the table of readings."""

_CHUNK_VOX = 16
"""Side of the cubes of voxels in which an array is stored; a cube far from the crystal takes no room and no time."""

_FREE_BYTES = 32 << 20
"""Room on the disk that is left to journals and logs."""


def write_result(path: Path, content: bytes) -> None:
    """Write a result file whole or not at all.

    Raises
    ------
    OSError
        If the disk is full, or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < len(content) + _FREE_BYTES:
        raise OSError(errno.ENOSPC, "no space left on the disk", str(path.parent))
    with atomic_write(path) as part:
        part.write_bytes(content)


def result_file(
    crystal: Crystal | None,
    shape: Shape,
    data: Mapping[str, Any],
    about: Mapping[str, Any],
    frame_sums: NDArray[np.int64] | None = None,
    *,
    readings: Mapping[str, Reading] = MappingProxyType({}),
    arrays: Mapping[str, str] = ARRAYS,
) -> bytes:
    """Return the content of a result file, HDF5, written in memory, since HDF5 cannot recover from a full disk.

    ``/entry/data/crystal`` is ``(1, z, y, x)`` complex64 in lab coordinates, ``support`` likewise, and ``x_nm, y_nm,
    z_nm`` are their axes.  Voxels far from the crystal, and all voxels of a failed result, are not stored: readers see
    zeros, NaN in maps of the lattice.  Numbers are attributes of ``/entry/cdi_stream``, where ``frame_sums`` holds the
    counts of each frame and ``readings`` is a table of name, value and unit; ``about`` are attributes of ``/entry``.
    ``arrays`` names the arrays that the file holds.
    """
    image = BytesIO()
    with h5py.File(image, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"], entry.attrs["default"] = "NXentry", "data"
        entry.attrs.update(about)
        group = entry.create_group("data")
        group.attrs["NX_class"], group.attrs["signal"] = "NXdata", "crystal"
        group.attrs["axes"] = ["curve", "z_nm", "y_nm", "x_nm"]
        maps = {} if crystal is None else _maps(crystal, arrays)
        for name, dtype in arrays.items():
            blank = np.nan if name in LATTICE_ARRAYS else None
            chunks = (1, *(min(n, _CHUNK_VOX) for n in shape))
            dataset = group.create_dataset(name, shape=(1, *shape), dtype=dtype, chunks=chunks, fillvalue=blank)
            if name.endswith("_nm"):
                dataset.attrs["units"] = "nm"
            if name in maps:
                box = bounding_box(maps[name] != 0 if blank is None else np.isfinite(maps[name]))
                if maps[name][box].size:
                    dataset[0, *box] = maps[name][box]
        _write_axes(group, crystal, shape)
        numbers = entry.create_group("cdi_stream")
        for key, value in {**data, **json.loads(data["affine"])}.items():
            numbers.attrs[key] = value
        if frame_sums is not None:
            numbers["frame_sums"] = frame_sums
        if readings:
            rows = [(name, reading.value, reading.unit) for name, reading in readings.items()]
            numbers["readings"] = np.array(rows, dtype=_READING_ROW)
    return image.getvalue()


def lattice_maps(crystal: DensityOnGrid) -> dict[str, Floats]:
    """Return the maps `LATTICE_ARRAYS` of a crystal in lab coordinates; nothing if its Q0 is unknown."""
    if not crystal.affine.q0.any():
        return {}
    lattice = lattice_of(crystal)
    return {
        "displacement_nm": lattice.displacement_m * 1e9,
        "strain": lattice.strain,
        "d_spacing_nm": lattice.spacing_m * 1e9,
    }


def _maps(crystal: Crystal, arrays: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a crystal by name."""
    lattice = lattice_maps(crystal) if LATTICE_ARRAYS.keys() & arrays.keys() else {}
    return {"crystal": crystal.density, "support": crystal.support, **lattice}


def _write_axes(group: h5py.Group, crystal: Crystal | None, shape: Shape) -> None:
    """Write the positions of the voxels along z, y and x [nm], 0 at voxel N//2."""
    steps = np.ones(3) if crystal is None else np.linalg.norm(crystal.affine.br, axis=0) * 1e9
    group["curve"] = np.arange(1)
    for name, n, step in zip(("z_nm", "y_nm", "x_nm"), shape, steps, strict=True):
        group[name] = (np.arange(n) - n // 2) * step
        group[name].attrs["units"] = "nm" if crystal is not None else "voxel"


def result_numbers(crystal: Crystal | None, verdict: Verdict, metrics: Metrics) -> dict[str, Any]:
    """Return metrics, verdict and map of a crystal, as documents and files hold them."""
    return {
        **metrics.values(),
        "verdict": verdict.grade,
        "verdict_crystal": verdict.crystal or verdict.grade,
        "verdict_join": verdict.join or verdict.grade,
        "reasons": " | ".join(verdict.reasons),
        "affine": json.dumps(affine_data(crystal)),
    }


def affine_data(crystal: Crystal | None) -> dict[str, Any]:
    """Return the map of a crystal as plain values; events hold them as JSON text, since tables hold no matrices."""
    if crystal is None:
        return {}
    affine = crystal.affine
    return {
        "coordinates": affine.coordinates,
        "fourier_sign": affine.fourier_sign,
        "handedness": affine.handedness,
        "q0_lab_inv_m": affine.q0.tolist(),
        "bq_lab_inv_m": affine.bq.tolist(),
        "sample_to_lab": affine.sample_to_lab.tolist(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """Crystal of a result file, with its numbers.

    Parameters
    ----------
    density, support
        Arrays ``(z, y, x)`` of the shape of ``affine``.
    affine
        Map of the diffraction of the crystal.
    numbers
        Attributes of the result by name: metrics, verdict, frame counts, names.
    """

    density: NDArray[np.complex64]
    support: NDArray[np.uint8]
    affine: AffineMap
    numbers: Mapping[str, Any]

    @property
    def voxel_m(self) -> Floats:
        """Sides of a voxel along z, y, x [m]."""
        result: NDArray[np.float64] = np.linalg.norm(self.affine.br, axis=0)
        return result


def read_result(path: Path) -> StoredResult:
    """Read a result file of the service, or its export as CXI.

    Raises
    ------
    RecordingError
        If the file is neither, or its curve gave no crystal.
    """
    try:
        with h5py.File(path, "r") as file:
            parts = _exported_parts(file) if "entry_1/cdi_stream" in file else _own_parts(file)
        density, support, numbers = parts
        grade, reasons = numbers["verdict"], numbers["reasons"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RecordingError(
            f"{path}: expected a result file of cdi-stream, got: {error}; "
            "take a file ending in _reconstruction.h5 or _inference.h5 from the service's publish directory"
        ) from error
    if "q0_lab_inv_m" not in numbers:
        raise RecordingError(
            f"{path}: expected a crystal, got none: the verdict is {grade} ({reasons}); "
            "take another curve, or measure this one again"
        )
    return StoredResult(density=density, support=support, affine=_affine(numbers, density.shape), numbers=numbers)


def raw_uid_of(path: Path) -> str | None:
    """Return the uid of the raw run of a result file; None if the file names none.

    Raises
    ------
    RecordingError
        If the file cannot be read.
    """
    try:
        with h5py.File(path, "r") as file:
            uid = file["entry"].attrs.get("raw_uid")
    except (OSError, KeyError) as error:
        raise RecordingError(f"{path}: expected a result file of cdi-stream, got: {error}") from error
    return uid if isinstance(uid, str) else None


def read_frame_sums(path: Path) -> NDArray[np.int64] | None:
    """Return the sum of counts of each frame from a result file; None if the file holds no sums."""
    with h5py.File(path, "r") as file:
        numbers = file["entry/cdi_stream"]
        return numbers["frame_sums"][()] if "frame_sums" in numbers else None


def readings_in(file: h5py.File) -> dict[str, Reading]:
    """Return the readings of the run from an open result file; none if the file holds none."""
    table = file.get("entry/cdi_stream/readings")
    rows = [] if table is None else table[()]
    return {row["name"].decode(): Reading(value=float(row["value"]), unit=row["unit"].decode()) for row in rows}


def _own_parts(file: h5py.File) -> tuple[NDArray[np.complex64], NDArray[np.uint8], dict[str, Any]]:
    """Return crystal, support and numbers of a result file."""
    numbers = dict(file["entry/cdi_stream"].attrs)
    return file["entry/data/crystal"][0], file["entry/data/support"][0], numbers


def _exported_parts(file: h5py.File) -> tuple[NDArray[np.complex64], NDArray[np.uint8], dict[str, Any]]:
    """Return crystal, support and numbers of a CXI file that `cdi_stream.files.exports` wrote."""
    image = file["entry_1/image_1"]
    numbers: dict[str, Any] = {}
    for group in (image["process_1/results"], file["entry_1/cdi_stream"]):
        for name, dataset in group.items():
            is_text = h5py.check_string_dtype(dataset.dtype) is not None
            numbers[name] = dataset.asstr()[()] if is_text else dataset[()]
    return image["data"][()], image["mask"][()], numbers


def _affine(numbers: Mapping[str, Any], shape: Shape) -> AffineMap:
    return AffineMap(
        shape=shape,
        q0=numbers["q0_lab_inv_m"],
        bq=numbers["bq_lab_inv_m"],
        sample_to_lab=numbers["sample_to_lab"],
        coordinates=numbers["coordinates"],
        fourier_sign=int(numbers["fourier_sign"]),
    )
