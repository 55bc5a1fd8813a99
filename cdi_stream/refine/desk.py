"""The refinement queue as the operators' page shows and changes it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from cdi_stream.errors import InputError
from cdi_stream.refine.control import cancel_job, open_queue, raise_job, retry_job
from cdi_stream.refine.progress import progress_file, read_progress
from cdi_stream.refine.queue import Job

_ORDER = ("leased", "ready", "computed", "failed", "cancelled", "done")
_CHANGES = {"raise": raise_job, "cancel": cancel_job, "retry": retry_job}


class QueueDesk:
    """Jobs of the queue in a results folder; a folder without a queue has none."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def jobs(self, limit: int) -> list[dict[str, object]]:
        """Return jobs as plain values: those at work, then those that wait in their order, then the newest others."""
        found = sorted(self._jobs(), key=_place)
        return [_plain(job) | {"progress": self._progress(job)} for job in found[:limit]]

    def change(self, job_id: int, action: Literal["raise", "cancel", "retry"]) -> bool | None:
        """Change a job; return whether its state allowed the change, None if there is no such job."""
        if all(job.id != job_id for job in self._jobs()):
            return None
        try:
            _CHANGES[action](self._directory, job_id)
        except InputError:
            return False
        return True

    def _progress(self, job: Job) -> dict[str, object] | None:
        """Return how far a job at work is; None for other jobs, and where its process tells nothing."""
        found = read_progress(progress_file(self._directory, job.id)) if job.state == "leased" else None
        return None if found is None else asdict(found)

    def _jobs(self) -> list[Job]:
        try:
            with open_queue(self._directory) as queue:
                return queue.jobs()
        except InputError:
            return []


def _place(job: Job) -> tuple[int, int, int]:
    """Return the place of a job in the list: waiting jobs as they are taken, all others with the newest first."""
    is_waiting = job.state == "ready"
    return _ORDER.index(job.state), -job.priority if is_waiting else 0, job.id if is_waiting else -job.id


def _plain(job: Job) -> dict[str, object]:
    return {
        "id": job.id,
        "state": job.state,
        "method": job.method,
        "priority": job.priority,
        "created_s": job.created_s,
        "attempts": job.attempts,
        "error": job.error,
        "raw_uid": job.spec["raw_uid"],
        "scan_id": job.spec["scan_id"],
        "curve_index": job.spec["curve_index"],
    }
