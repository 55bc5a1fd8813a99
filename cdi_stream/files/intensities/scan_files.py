"""Read recorded scans as intensities: the project's own files, and files that an installed reader knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py

from cdi_stream.errors import IntensitiesError
from cdi_stream.files.intensities.hdf5_files import dataset_of
from cdi_stream.files.intensities.limits import require_intensities
from cdi_stream.files.intensities.scans import Placement, scan_intensities
from cdi_stream.files.intensities.volume import Intensities
from cdi_stream.files.recorded_scan import read_recorded, readers_of


def read_own_scan(path: Path, number: int | str | None = None, placement: Placement | None = None) -> Intensities:
    """Return the intensities of a scan in the project's own HDF5 file.

    Parameters
    ----------
    path
        HDF5 file.
    number
        Number of the series where the file holds several; None: the first, with a note.
    placement
        Beamline and fixed geometry, which replace the recorded geometry of the scan.

    Raises
    ------
    IntensitiesError, RecordingError
        If the file holds no scan, or frames that cannot be phased.
    """
    with h5py.File(path, "r") as file:
        if "entry/data/crystal" in file:
            raise IntensitiesError(
                f"{path}: expected measured intensities, got a result of cdi-stream: give the scan of that result"
            )
        for entry in file:
            frames = dataset_of(file, f"{entry}/data/data", path)
            if frames is not None:
                require_intensities(frames.shape, frames.dtype, f"{path}: /{entry}/data/data")
        numbers = _series_in(file)
    series = min(numbers) if number is None and numbers else number
    intensities = scan_intensities(read_recorded(path, series), placement)
    if number is None and len(numbers) > 1:
        available = ", ".join(map(str, numbers))
        intensities = replace(
            intensities, notes=(*intensities.notes, f"series {series} is taken, the first of {available}")
        )
    return intensities


def read_facility_scan(path: Path, number: int | str | None = None, placement: Placement | None = None) -> Intensities:
    """Return the intensities of a facility's scan, read by an installed reader; parameters as in `read_own_scan`.

    Raises
    ------
    IntensitiesError, RecordingError
        If no reader can read the file or folder, or its frames cannot be phased.
    """
    if not is_facility_scan(path):
        raise IntensitiesError(
            f"{path}: expected intensities as npy, npz, CXI or a recorded scan, or as TIFF, got another format: "
            "save the array as npy"
        )
    return scan_intensities(read_recorded(path, number), placement)


def is_facility_scan(path: Path) -> bool:
    """Return whether an installed reader can read the file or folder."""
    return bool(readers_of(path))


def _series_in(file: h5py.File) -> list[int]:
    """Return the numbers of the series that ``record`` wrote; empty where the file holds a single scan."""
    groups = [group for entry in file if isinstance(group := file.get(f"{entry}/cdi_stream"), h5py.Group)]
    if any("header" in group.attrs for group in groups):
        return []
    return sorted(int(name[7:]) for group in groups for name in group if name[:7] == "series_" and name[7:].isdigit())
