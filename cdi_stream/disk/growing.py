"""An HDF5 file that grows for hours, and stays readable when the disk fills up or the process is killed.

HDF5 cannot recover from a write that fails: what it holds in memory no longer fits what lies on disk, and closing the
file ends in a segmentation fault.  So the space is taken from the disk before HDF5 writes into it.  And HDF5 may write
its index of the file piece by piece whenever its cache is full: here it is written by `flush` only, as a whole.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py

AHEAD_BYTES = 64 << 20
"""How much space is taken at once [bytes], where there is so much."""

MARGIN_BYTES = 4 << 20
"""Space kept for the index and the descriptions [bytes]; the index takes 200 bytes a frame."""

_NOT_OFFERED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class GrowingFile:
    """A new HDF5 file at ``path``: ask `reserve` before writing into `root`, then `flush` now and then."""

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
        """Take space for ``n_bytes`` more, and the margin.

        Raises
        ------
        OSError
            If the disk, a quota or a limit on the size of files leaves no room; the file is as it was.
        """
        needed = self.root.id.get_filesize() + n_bytes + MARGIN_BYTES
        if needed <= self._reserved:
            return
        try:
            self._take(needed + AHEAD_BYTES)
        except OSError:
            self._take(needed)

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
        """Let all that is written reach the disk, so that a kill loses nothing older.

        Raises
        ------
        OSError
            If the disk is full; the file is whole.
        """
        self.root.flush()
        self._reserved = 0  # HDF5 has cut the file to its contents
        self.reserve(0)

    def close(self) -> None:
        """Close the file and give back the space that was not needed."""
        self.root.close()
        h5py.File(self._path, "r+").close()  # HDF5 cuts a file to its contents when it finds it longer
