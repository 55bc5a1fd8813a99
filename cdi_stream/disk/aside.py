"""Rename files that cannot be read, so that they are neither used nor lost."""

from __future__ import annotations

import time
from pathlib import Path

_SQLITE = ("", "-wal", "-shm")


def set_aside(path: Path) -> Path:
    """Rename a file or folder with SQLite's files next to it, and return the new name, which ends in ``.broken``."""
    aside = path.with_name(f"{path.name}.{time.time_ns()}.broken")
    for suffix in _SQLITE:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
