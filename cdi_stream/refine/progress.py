"""Progress of refinements: files that the process at work writes, and the operators' page reads.

A job may be computed by a process on another machine, which sees the results folder and never the queue.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from cdi_stream.disk.atomic import atomic_write

PROGRESS = "progress"
"""Folder of the progress files, in the results folder."""

WRITE_EVERY_S = 1.0
"""Shortest time [s] between two changes of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """Share of the time limit that a refinement has used, 0 to 1, and its stage in words."""

    share: float
    stage: str


class ProgressFile:
    """Progress file of a job that this process computes; a disk that takes no file is ignored.

    Parameters
    ----------
    path
        The file, see `progress_file`.
    clock
        Monotonic time [s].
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._stage = "first starts"
        self._written_s = -WRITE_EVERY_S

    def enter(self, stage: str) -> None:
        """Note the stage that begins."""
        self._stage = stage

    def pass_share(self, share: float) -> None:
        """Note the share of the time limit that is used; call this at each step."""
        if self._clock() - self._written_s < WRITE_EVERY_S:
            return
        self._written_s = self._clock()
        with contextlib.suppress(OSError), atomic_write(self._path, is_flushed=False) as part:
            part.write_text(json.dumps(asdict(JobProgress(share=share, stage=self._stage))))

    def close(self) -> None:
        """Delete the file."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def progress_file(directory: Path, job_id: int) -> Path:
    """Return the progress file of a job in a results folder."""
    return directory / PROGRESS / f"{job_id}.json"


def read_progress(path: Path) -> JobProgress | None:
    """Return the progress of a job; None if no process has written any."""
    try:
        content = json.loads(path.read_text())
        return JobProgress(share=float(content["share"]), stage=str(content["stage"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
