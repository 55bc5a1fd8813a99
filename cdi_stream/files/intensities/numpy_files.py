"""Read arrays from npy and npz files; the header is checked before the data is read, and pickles are refused."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import IntensitiesError
from cdi_stream.files.intensities.limits import Shape, require_intensities, require_mask

_HEAD_BYTES = 16_384
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_Judge = Callable[[Shape, np.dtype[Any], str], None]


def read_npy(path: Path) -> NDArray[Any]:
    """Return the intensities ``(n0, n1)`` or ``(n0, n1, n2)`` of an npy file, unchanged.

    Raises
    ------
    IntensitiesError
        If the array cannot be intensities or is cut short; broken files raise one of ``limits.UNREADABLE``.
    """
    with path.open("rb") as file:
        return _array(file, str(path), path.stat().st_size, require_intensities)


def read_npz(path: Path) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return ``data`` and ``mask`` (true = use; None if there is none) of an npz file; raises as `read_npy`."""
    with zipfile.ZipFile(path) as archive:
        data = _member(archive, "data", path, require_intensities)
        has_mask = "mask.npy" in archive.namelist()
        return data, _usable(_member(archive, "mask", path, require_mask), f"{path}: 'mask'") if has_mask else None


def read_npy_mask(path: Path) -> NDArray[np.bool_]:
    """Return the mask of an npy file, true = use; raises as `read_npy`."""
    with path.open("rb") as file:
        return _usable(_array(file, str(path), path.stat().st_size, require_mask), str(path))


def read_npz_mask(path: Path) -> NDArray[np.bool_]:
    """Return ``mask``, or the only array, of an npz file, true = use; raises as `read_npy`."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        name = names[0].removesuffix(".npy") if len(names) == 1 else "mask"
        return _usable(_member(archive, name, path, require_mask), f"{path}: {name!r}")


def _member(archive: zipfile.ZipFile, name: str, path: Path, judge: _Judge) -> NDArray[Any]:
    if f"{name}.npy" not in archive.namelist():
        names = ", ".join(member[:40].removesuffix(".npy") for member in archive.namelist()[:10]) or "nothing"
        raise IntensitiesError(f"{path}: expected an array {name!r}, got {names}: save it as numpy.savez(..., {name}=)")
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise IntensitiesError(
            f"{path}: expected a compression that NumPy writes, got type {info.compress_type}: "
            "save it by numpy.savez or numpy.savez_compressed"
        )
    with archive.open(info) as member:
        return _array(member, f"{path}: {name!r}", info.file_size, judge)


def _array(stream: IO[bytes], where: str, n_bytes: int, judge: _Judge) -> NDArray[Any]:
    """Return the array of a stream of ``n_bytes``, after ``judge`` has checked shape and type in the header."""
    head = BytesIO(stream.read(_HEAD_BYTES))
    version = np.lib.format.read_magic(head)
    if version not in _HEADERS:
        raise IntensitiesError(f"{where}: expected npy of version 1 or 2, got {version}: save the plain array")
    shape, _, dtype = _HEADERS[version](head)
    judge(shape, dtype, where)
    expected_bytes = head.tell() + math.prod(shape) * dtype.itemsize
    if n_bytes < expected_bytes:
        raise IntensitiesError(
            f"{where}: expected {expected_bytes} bytes, got {n_bytes}: the file is cut short, copy it again"
        )
    stream.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _usable(mask: NDArray[Any], where: str) -> NDArray[np.bool_]:
    """Return a mask of 0 and 1 as booleans; raises `IntensitiesError` if it holds other values."""
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise IntensitiesError(f"{where}: expected 1 where a voxel may be used and 0 elsewhere, got other values")
    return mask.astype(bool)
