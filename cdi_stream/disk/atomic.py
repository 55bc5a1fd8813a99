"""Write a file so that it gets its name only when it is complete and on disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: Path, *, is_flushed: bool = True) -> Iterator[Path]:
    """Yield the path of a temporary file in the same folder; at the end flush it to disk and give it its name.

    A missing folder is made.  If the block raises an exception, the temporary file is deleted, and an existing file of
    the final name is unchanged.

    Parameters
    ----------
    path
        Final name of the file.
    is_flushed
        Whether the file must survive a power cut; False is faster, and survives only the end of the process.

    Raises
    ------
    OSError
        If the disk is full, or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        if is_flushed:
            with part.open("rb") as handle:
                os.fsync(handle.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if is_flushed:
        flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Write the names in a folder to disk, so that they survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
