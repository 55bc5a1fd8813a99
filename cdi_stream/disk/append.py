"""Append a record to a file, whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path


def append_whole(handle: int, pieces: Sequence[bytes | memoryview], n_bytes: int, path: Path) -> int:
    """Append the pieces of one record, and return the length of the file after it [bytes].

    Parameters
    ----------
    handle
        Open file, in append mode.
    pieces
        Parts of the record; they are not copied.
    n_bytes
        Length of the file before the record, to which it is cut if the record does not fit [bytes].
    path
        Name of the file, for the error.

    Raises
    ------
    OSError
        If the disk is full; the file is as it was.
    """
    length = sum(len(piece) for piece in pieces)
    if os.writev(handle, pieces) < length:
        os.ftruncate(handle, n_bytes)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return n_bytes + length
