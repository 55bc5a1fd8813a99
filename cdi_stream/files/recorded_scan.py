"""Read a recorded scan of whatever facility: the one way that all commands go."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from cdi_stream import registry
from cdi_stream.errors import PluginError, RecordingError
from cdi_stream.files.recording import sum_doubts
from cdi_stream.messages import RecordedScan
from cdi_stream.protocols import Reader

_GROUP = "cdi_stream.reader"


def readers_of(path: Path) -> dict[str, Reader]:
    """Installed readers that understand a file or folder, by name; readers that cannot be imported are left out.

    Raises
    ------
    RecordingError
        If ``path`` does not exist.
    """
    if not path.exists():
        raise RecordingError(f"{path} does not exist")
    readers: dict[str, Reader] = {}
    for name in registry.names(_GROUP):
        with contextlib.suppress(PluginError):  # the command 'plugins' tells why it cannot be imported
            readers[name] = registry.load(_GROUP, name)()
    return {name: reader for name, reader in readers.items() if reader.can_read(path)}


def read_recorded(path: Path, number: int | None) -> RecordedScan:
    """Read one scan, and hold its frames against the sums that it has on record.

    Parameters
    ----------
    path
        File or folder of the scan.
    number
        Which scan of several; None: the only one.

    Raises
    ------
    RecordingError
        If no reader understands it, or the scan cannot be read.
    """
    readers = readers_of(path)
    if not readers:
        known = ", ".join(registry.names(_GROUP))
        raise RecordingError(f"{path}: no reader understands it; installed are {known}")
    name, *others = readers
    scan = readers[name].read(path, number)
    notes = (f"read by {name}; {', '.join(others)} could read it too",) if others else ()
    return replace(scan, notes=(*scan.notes, *notes), doubts=(*scan.doubts, *sum_doubts(scan)))
