"""Read scans in the project's HDF5 format."""

from __future__ import annotations

from pathlib import Path

import h5py

from cdi_stream.files.recording import read_scan
from cdi_stream.messages import RecordedScan


class OwnReader:
    """Reader of group ``cdi_stream.reader`` for files that cdi-stream wrote."""

    def can_read(self, path: Path) -> bool:
        """Return whether the file is HDF5 with the group ``entry/cdi_stream``."""
        if not (path.is_file() and h5py.is_hdf5(path)):
            return False
        with h5py.File(path, "r", locking=False) as file:  # another program may be writing it
            return "entry/cdi_stream" in file

    def read(self, path: Path, scan: int | str | None) -> RecordedScan:
        """Return the only scan of a file, or the series ``scan`` of a recording of several series."""
        return read_scan(path, scan)
