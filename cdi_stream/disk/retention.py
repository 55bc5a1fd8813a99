"""Retention: result files that are older than their stage is kept are deleted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cdi_stream.disk.result_folder import result_files

logger = logging.getLogger(__name__)

EVERY_S = 3600.0
"""Time [s] between two looks for old files."""

_DAY_S = 86_400.0


class Retention:
    """Deletes the result files of a folder and its subfolders whose time is over.

    Parameters
    ----------
    folder
        Folder of the results.
    days
        Days for which the files of a stage are kept, by stage; a stage that is not named is kept for ever.
    clock, wall_clock
        Monotonic time [s], and time [s since the epoch].
    """

    def __init__(
        self,
        folder: Path,
        days: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._days, self._clock, self._wall_clock = folder, days, clock, wall_clock
        self._looked_s: float | None = None

    def run(self) -> int:
        """Delete the files whose time is over, at most every `EVERY_S`; return their number."""
        now_s = self._clock()
        if not self._days or (self._looked_s is not None and now_s - self._looked_s < EVERY_S):
            return 0
        self._looked_s = now_s
        n_deleted = sum(_is_deleted(path) for path in self._old_files())
        if n_deleted:
            logger.info("retention: %d result files deleted, whose time was over", n_deleted)
        return n_deleted

    def _old_files(self) -> Iterator[Path]:
        for path, stage in result_files(self._folder, self._days):
            if self._wall_clock() - _changed_s(path, self._wall_clock()) > self._days[stage] * _DAY_S:
                yield path


def _changed_s(path: Path, otherwise_s: float) -> float:
    """Return the time of a file's last change [s since the epoch]; ``otherwise_s`` if the file is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return otherwise_s


def _is_deleted(path: Path) -> bool:
    """Delete a file; return whether that was possible."""
    try:
        path.unlink()
    except OSError as error:
        logger.warning("retention: %s cannot be deleted: %s", path, error)
        return False
    return True
