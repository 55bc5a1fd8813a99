"""Read intensities to be phased from whatever file holds them, known by its content rather than by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import IntensitiesError
from cdi_stream.files.intensities.cleaning import cleaned
from cdi_stream.files.intensities.hdf5_files import read_cxi, read_cxi_mask
from cdi_stream.files.intensities.limits import UNREADABLE, Shape
from cdi_stream.files.intensities.masks import masked
from cdi_stream.files.intensities.numpy_files import read_npy, read_npy_mask, read_npz, read_npz_mask
from cdi_stream.files.intensities.scan_files import is_facility_scan, read_facility_scan, read_own_scan
from cdi_stream.files.intensities.scans import Placement
from cdi_stream.files.intensities.tiff_files import MAGIC, TiffFrames, is_tiff_folder, read_tiff, read_tiff_folder
from cdi_stream.files.intensities.volume import Intensities, counted, require_signal, unsaturated
from cdi_stream.files.intensities.window import peak_of

_MASKS: dict[str, Callable[[Path], NDArray[np.bool_]]] = {
    "npy": read_npy_mask,
    "npz": read_npz_mask,
    "CXI": read_cxi_mask,
}


def read_intensities(
    path: Path,
    mask_path: Path | None = None,
    scan: int | None = None,
    *,
    cleans: bool = True,
    placement: Placement | None = None,
) -> Intensities:
    """Read npy, npz (``data``, optional ``mask``), CXI, TIFF, a scan of ours, or one that an installed reader knows.

    Parameters
    ----------
    path
        File of 2D or 3D intensities, or a folder: of a facility's scan, or of numbered TIFF files.
    mask_path
        Further mask as npy, npz or CXI, of the file's shape or 2D for all frames; true or 1 = use, in CXI 0 = good.
    scan
        Which scan of several; without it, the first.
    cleans
        Whether hot voxels and islands of other grains are masked.
    placement
        Beamline and fixed numbers by which a scan's frames are placed, instead of what the scan says.

    Raises
    ------
    IntensitiesError, RecordingError
        If a file is broken, too large, no intensities, or holds nothing to phase; if a scan or a geometry is asked for
        where there are none.
    """
    kind = _kind_of(path)
    is_plain = kind not in (None, "scan")
    if is_plain and scan is not None:
        raise IntensitiesError(f"--scan {scan}: expected a file or folder of scans, got {path} as {kind}: leave it out")
    if is_plain and placement is not None:
        raise IntensitiesError(
            f"--config: expected a scan with its motors, got {path} as {kind}, which has none: leave it out"
        )
    try:
        if kind is None:
            found = read_facility_scan(path, scan, placement)
        else:
            found = read_own_scan(path, scan, placement) if kind == "scan" else _read_plain(path, kind)
    except UNREADABLE as error:
        raise IntensitiesError(
            f"{path}: expected {kind or 'intensities'}, got a file that breaks: {error!r}; copy it again"
        ) from error
    if mask_path is not None:
        found = masked(found, read_mask(mask_path), str(mask_path))
    found = counted(found) if is_plain else found
    require_signal(found)
    found = cleaned(found) if cleans else found
    found = unsaturated(found) if is_plain else replace(found, blemishes=None)  # a scan's own mask includes them
    require_signal(found)
    peak = peak_of(found)
    return replace(found, peak=peak, notes=found.notes + _order_note(peak, found.counts.shape))


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a mask, 2D or 3D, true where a voxel may be used: npy, npz (``mask``, or its only array) or CXI.

    In npy and npz true or 1 means use, in CXI 0 means good.

    Raises
    ------
    IntensitiesError
        If the file holds no such mask.
    """
    kind = _kind_of(path)
    if kind not in _MASKS:
        raise IntensitiesError(f"{path}: expected a mask as npy, npz or CXI, got none of them: is it the right file?")
    try:
        return _MASKS[kind](path)
    except UNREADABLE as error:
        raise IntensitiesError(f"{path}: expected a mask as {kind}, got a file that breaks: {error!r}") from error


def _kind_of(path: Path) -> str | None:
    """Tell ``npy``, ``npz``, ``CXI``, ``TIFF`` and ``scan`` (of ours) by the first bytes and groups, ``TIFF folder``.

    None for anything else, and where an installed reader knows the file or folder.
    """
    try:
        if not path.exists():
            raise IntensitiesError(f"{path} does not exist")
        if not path.is_file():
            return "TIFF folder" if is_tiff_folder(path) and not is_facility_scan(path) else None
        with path.open("rb") as file:
            magic = file.read(6)
        if not h5py.is_hdf5(path):
            kinds = {b"\x93NUMPY": "npy", **dict.fromkeys(MAGIC, "TIFF")}
            return "npz" if magic[:2] == b"PK" else kinds.get(magic) or kinds.get(magic[:4])
        with h5py.File(path, "r") as file:
            return "CXI" if "entry_1" in file else "scan" if "entry/cdi_stream" in file else None
    except UNREADABLE as error:
        raise IntensitiesError(f"{path} cannot be opened: {error}") from error


def _order_note(peak: Shape, shape: Shape) -> tuple[str, ...]:
    """Whether the peak lies where programs put it that leave an array in the order of its transform."""
    is_corner = all(min(p, n - p) <= 1 for p, n in zip(peak, shape, strict=True))
    return ("the peak lies at voxel 0: the origin is taken to be at N//2 all the same",) if is_corner else ()


def _read_plain(path: Path, kind: str) -> Intensities:
    """Read an array given by itself, its mask applied."""
    mask, axes = None, None
    if kind == "npy":
        data = read_npy(path)
    elif kind == "npz":
        data, mask = read_npz(path)
    elif kind == "CXI":
        data, mask, axes = read_cxi(path)
    else:
        return _from_tiff(read_tiff(path) if kind == "TIFF" else read_tiff_folder(path), path)
    names = tuple(axes.split(":")) if axes is not None and axes.count(":") == data.ndim - 1 else ()
    found = Intensities(
        counts=data,
        valid_pixels=np.ones(data.shape, dtype=bool),
        axes=names or tuple(f"axis {k}" for k in range(data.ndim)),
        source=str(path),
    )
    if data.ndim == 3 and found.axes[0] == "experiment_identifier":
        doubt = "the first axis counts experiments: they are taken as the frames of one rocking curve"
        found = replace(found, doubts=(doubt,))
    return found if mask is None else masked(found, mask, f"{path}: its mask")


def _from_tiff(frames: TiffFrames, path: Path) -> Intensities:
    """Frames as they are, missing ones masked."""
    valid = np.ones(frames.data.shape, dtype=bool)
    valid[list(frames.missing)] = False
    axes = ("frame", "row", "col")[-frames.data.ndim :]
    return Intensities(counts=frames.data, valid_pixels=valid, axes=axes, source=str(path), doubts=frames.notes)
