"""An HDF5 file that grows for hours, and stays readable when the disk fills up or the process is killed.

HDF5 cannot recover from a failed write: its memory no longer matches the file, and closing the file ends in a
segmentation fault.  Space is therefore reserved on the disk before HDF5 writes into it.  By default HDF5 writes parts
of the file's index whenever its cache is full; here only `flush` writes the index, as a whole.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py

AHEAD_BYTES = 64 << 20
"""Space that is reserved in advance [bytes], if the disk has as much."""

MARGIN_BYTES = 4 << 20
"""Space reserved for index and metadata [bytes]; the index takes 200 bytes for each frame."""

_NOT_OFFERED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class GrowingFile:
    """A new HDF5 file at ``path``; call `reserve` before each write into `root`, and `flush` at intervals."""

    def __init__(self, path: Path) -> None:
        self.root = h5py.File(path, "w")
        self._path = path
        self._reserved = 0
        cache = self.root.id.get_mdc_config()
        cache.evictions_enabled = False
        cache.incr_mode = cache.flash_incr_mode = cache.decr_mode = 0
        self.root.id.set_mdc_config(cache)
        self.reserve(0)

    def reserve(self, n_bytes: int) -> None:
        """Reserve disk space for ``n_bytes`` more and for the margin.

        Raises
        ------
        OSError
            If the disk, a quota or a limit on the size of files leaves no room; the file is unchanged.
        """
        size_bytes = self.root.id.get_filesize() + n_bytes + MARGIN_BYTES
        if size_bytes <= self._reserved:
            return
        try:
            self._take(size_bytes + AHEAD_BYTES)
        except OSError:
            self._take(size_bytes)

    def _take(self, n_bytes: int) -> None:
        handle = self.root.id.get_vfd_handle()
        try:
            os.posix_fallocate(handle, 0, n_bytes)
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise
            space = os.fstatvfs(handle)
            if space.f_bavail * space.f_frsize < n_bytes - self._reserved:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path)) from error
        self._reserved = n_bytes

    def flush(self) -> None:
        """Write all data to the disk, so that a kill loses nothing that was written before.

        Raises
        ------
        OSError
            If the disk is full; the file stays readable.
        """
        self.root.flush()
        self._reserved = 0  # HDF5 has truncated the file to its contents
        self.reserve(0)

    def close(self) -> None:
        """Close the file and release unused space."""
        self.root.close()
        h5py.File(self._path, "r+").close()  # HDF5 truncates a longer file to its contents when it opens it
