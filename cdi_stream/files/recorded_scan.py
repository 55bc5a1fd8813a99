"""Read a recorded scan of any facility by an installed reader; all commands use this function."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from cdi_stream import registry
from cdi_stream.errors import PluginError, RecordingError
from cdi_stream.files.intensities.limits import UNREADABLE
from cdi_stream.files.recording import sum_doubts
from cdi_stream.messages import RecordedScan
from cdi_stream.protocols import Reader

_GROUP = "cdi_stream.reader"


def readers_of(path: Path) -> dict[str, Reader]:
    """Return the installed readers that can read a file or folder, by name; broken readers are left out.

    Raises
    ------
    RecordingError
        If ``path`` does not exist, or cannot be opened.
    """
    if not path.exists():
        raise RecordingError(f"{path} does not exist")
    readers: dict[str, Reader] = {}
    for name in registry.names(_GROUP):
        with contextlib.suppress(PluginError):  # the command 'plugins' reports the error
            readers[name] = registry.load(_GROUP, name)()
    try:
        return {name: reader for name, reader in readers.items() if reader.can_read(path)}
    except UNREADABLE as error:
        raise RecordingError(f"{path} cannot be opened: {error}; check the file and its permissions") from error


def read_recorded(path: Path, name: int | str | None) -> RecordedScan:
    """Return one scan, with a doubt if its frames differ from the sums of counts on record.

    Parameters
    ----------
    path
        File or folder of the scan.
    name
        Number of the scan where there are several, or the facility's name of the scan, such as ``20.1``; None: the only
        scan.

    Raises
    ------
    RecordingError
        If no reader can read the path, or the scan cannot be read.
    """
    readers = readers_of(path)
    if not readers:
        installed = ", ".join(registry.names(_GROUP))
        raise RecordingError(f"{path}: no reader understands it; installed are {installed}")
    reader, *other_names = readers
    number = int(name) if isinstance(name, str) and name.isdecimal() else name
    scan = readers[reader].read(path, number)
    notes = (f"read by {reader}; {', '.join(other_names)} could read it too",) if other_names else ()
    return replace(scan, notes=(*scan.notes, *notes), doubts=(*scan.doubts, *sum_doubts(scan)))
