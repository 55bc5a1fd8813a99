"""Read diffraction intensities from a file; its content, not its name, determines the format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import IntensitiesError
from cdi_stream.files.intensities.cleaning import mask_blemishes
from cdi_stream.files.intensities.hdf5_files import read_cxi, read_cxi_mask
from cdi_stream.files.intensities.limits import UNREADABLE, Shape
from cdi_stream.files.intensities.masks import apply_mask
from cdi_stream.files.intensities.numpy_files import read_npy, read_npy_mask, read_npz, read_npz_mask
from cdi_stream.files.intensities.scan_files import is_facility_scan, read_facility_scan, read_own_scan
from cdi_stream.files.intensities.scans import Placement
from cdi_stream.files.intensities.tiff_files import MAGIC, TiffFrames, is_tiff_folder, read_tiff, read_tiff_folder
from cdi_stream.files.intensities.volume import Intensities, mask_clipped_peak, mask_non_counts, require_signal
from cdi_stream.files.intensities.window import peak_of

_MASKS: dict[str, Callable[[Path], NDArray[np.bool_]]] = {
    "npy": read_npy_mask,
    "npz": read_npz_mask,
    "CXI": read_cxi_mask,
}


def read_intensities(
    path: Path,
    mask_path: Path | None = None,
    scan: int | str | None = None,
    *,
    cleans: bool = True,
    placement: Placement | None = None,
) -> Intensities:
    """Read intensities from npy, npz (``data``, optional ``mask``), CXI, TIFF, or a scan recorded here or elsewhere.

    Parameters
    ----------
    path
        File of 2D or 3D intensities, or folder of a facility's scan or of numbered TIFF files.
    mask_path
        Additional mask as npy, npz or CXI, of the file's shape or 2D for all frames; true or 1 = use, in CXI 0 = good.
    scan
        Number of the scan where the file holds several, or its name, such as ``20.1``; None: the first.
    cleans
        Whether hot voxels and alien peaks are masked.
    placement
        Beamline and fixed geometry, which replace the recorded geometry of the scan.

    Raises
    ------
    IntensitiesError, RecordingError
        If a file is broken or too large, holds no intensities or no signal, or if ``scan`` or ``placement`` is given
        for a file without scans.
    """
    kind = _kind_of(path)
    is_plain = kind not in (None, "scan")
    if is_plain and scan is not None:
        raise IntensitiesError(
            f"--scan {scan}: expected a file or folder of scans, got {path} as {kind}: leave --scan out"
        )
    if is_plain and placement is not None:
        raise IntensitiesError(
            f"--config: expected a scan with its motors, got {path} as {kind}, which has none: leave --config out"
        )
    try:
        if kind is None:
            intensities = read_facility_scan(path, scan, placement)
        else:
            intensities = read_own_scan(path, scan, placement) if kind == "scan" else _read_plain(path, kind)
    except UNREADABLE as error:
        raise IntensitiesError(
            f"{path}: expected {kind or 'intensities'}, got a broken file: {error!r}; copy it again"
        ) from error
    if mask_path is not None:
        intensities = apply_mask(intensities, read_mask(mask_path), str(mask_path))
    return mark_untrusted(intensities, is_plain=is_plain, cleans=cleans)


def mark_untrusted(intensities: Intensities, *, is_plain: bool, cleans: bool = True) -> Intensities:
    """Return intensities with all voxels marked that cannot be trusted, and with their peak.

    Parameters
    ----------
    intensities
        Intensities with their masks applied.
    is_plain
        Whether the intensities are a plain array; in a scan, bad voxels are marked already.
    cleans
        Whether hot voxels and islands of other grains are masked.

    Raises
    ------
    IntensitiesError
        If nothing is left to phase.
    """
    intensities = mask_non_counts(intensities) if is_plain else intensities
    require_signal(intensities)
    intensities = mask_blemishes(intensities) if cleans else intensities
    intensities = (
        mask_clipped_peak(intensities) if is_plain else replace(intensities, blemishes=None)
    )  # a scan's own mask includes them
    require_signal(intensities)
    peak = peak_of(intensities)
    return replace(intensities, peak=peak, notes=intensities.notes + _order_note(peak, intensities.counts.shape))


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Return a mask, 2D or 3D, true = use, of an npy, npz (``mask``, or its only array) or CXI file.

    In npy and npz files true or 1 means use; in CXI files 0 means good.

    Raises
    ------
    IntensitiesError
        If the file holds no mask of these formats.
    """
    kind = _kind_of(path)
    if kind not in _MASKS:
        raise IntensitiesError(
            f"{path}: expected a mask as npy, npz or CXI, got {kind or 'another format'}: is it the right file?"
        )
    try:
        return _MASKS[kind](path)
    except UNREADABLE as error:
        raise IntensitiesError(
            f"{path}: expected a mask as {kind}, got a broken file: {error!r}; copy it again"
        ) from error


def _kind_of(path: Path) -> str | None:
    """Return the format: ``npy``, ``npz``, ``CXI``, ``TIFF``, ``TIFF folder``, or ``scan`` for a scan recorded here.

    The first bytes and the HDF5 groups decide.  None for other formats; an installed reader may know them.
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
        with h5py.File(path, "r", locking=False) as file:  # another program may be writing it
            return "CXI" if "entry_1" in file else "scan" if "entry/cdi_stream" in file else None
    except UNREADABLE as error:
        raise IntensitiesError(f"{path} cannot be opened: {error}; check the file and its permissions") from error


def _order_note(peak: Shape, shape: Shape) -> tuple[str, ...]:
    """Return a note if the peak lies at voxel 0, as in an array in the order of an unshifted transform."""
    is_corner = all(min(p, n - p) <= 1 for p, n in zip(peak, shape, strict=True))
    return ("the peak lies at voxel 0: the origin is taken to be at N//2 all the same",) if is_corner else ()


def _read_plain(path: Path, kind: str) -> Intensities:
    """Return the intensities of a plain array file, with the file's mask applied."""
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
    intensities = Intensities(
        counts=data,
        valid_pixels=np.ones(data.shape, dtype=bool),
        axes=names or tuple(f"axis {k}" for k in range(data.ndim)),
        source=str(path),
    )
    if data.ndim == 3 and intensities.axes[0] == "experiment_identifier":
        doubt = "the first axis counts experiments: they are used as the frames of one rocking curve"
        intensities = replace(intensities, doubts=(doubt,))
    return intensities if mask is None else apply_mask(intensities, mask, f"{path}: its mask")


def _from_tiff(frames: TiffFrames, path: Path) -> Intensities:
    """Return TIFF frames as intensities; missing frames are masked."""
    valid = np.ones(frames.data.shape, dtype=bool)
    valid[list(frames.missing)] = False
    axes = ("frame", "row", "col")[-frames.data.ndim :]
    return Intensities(counts=frames.data, valid_pixels=valid, axes=axes, source=str(path), doubts=frames.notes)
