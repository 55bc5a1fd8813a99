"""Free space on the disk of the results, so that refinement stops before results find no room."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

MARGIN = 1.25
"""Free space at which refinement goes on, relative to that at which it stops: no going to and fro at the limit."""


def free_bytes(folder: Path) -> int:
    """Return the free space on the disk of a folder [bytes]."""
    return shutil.disk_usage(folder).free


class SpaceGuard:
    """Tells whether the disk of a folder is nearly full.

    Parameters
    ----------
    folder
        Folder of the results.
    least_bytes
        Free space below which the disk is nearly full [bytes].
    free
        Returns the free space on the disk of a folder [bytes].
    every_s
        Shortest time between two looks at the disk [s].
    clock
        Monotonic time [s].
    """

    def __init__(
        self,
        folder: Path,
        least_bytes: int,
        free: Callable[[Path], int] = free_bytes,
        every_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._least_bytes, self._free = folder, least_bytes, free
        self._every_s, self._clock = every_s, clock
        self._is_short = False
        self._looked_s, self._problem = -math.inf, ""

    def problem(self) -> str:
        """Return a sentence while the disk is nearly full; else an empty text.  An unknown space counts as enough."""
        if self._clock() - self._looked_s >= self._every_s:
            self._looked_s, self._problem = self._clock(), self._look()
        return self._problem

    def _look(self) -> str:
        """Look at the disk; return what `problem` says from now on."""
        try:
            n = self._free(self._folder)
        except OSError:
            return ""
        self._is_short = n < self._least_bytes * (MARGIN if self._is_short else 1.0)
        if not self._is_short:
            return ""
        needed = self._least_bytes * MARGIN
        return (
            f"the disk of {self._folder} is nearly full, {n / 1e9:.1f} GB are free: refinement waits until "
            f"{needed / 1e9:.1f} GB are free; delete or move old results, or set [retention]"
        )
