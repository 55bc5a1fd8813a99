"""Control of the refinement queue for operators: list, raise, cancel and retry jobs.

The command line and the dashboard call the same functions.  Each opens the queue, makes one change, and closes it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cdi_stream.errors import InputError
from cdi_stream.refine.queue import PATIENCE_S, QUEUE, STATES, Job, Queue


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEntry:
    """One job as operators see it.

    Parameters
    ----------
    job
        Number of the job.
    state
        One of `cdi_stream.refine.queue.STATES`.
    method
        Method of the refinement.
    raw_uid, curve_index
        Run and curve that are refined.
    refinement_uid
        Uid of the run that the job publishes.
    priority
        Jobs of higher priority run first.
    attempts
        Number of workers that have taken the job.
    owner
        Worker that has the job.
    age_s
        Time [s] since the job was added.
    error
        Reason why the job failed.
    """

    job: int
    state: str
    method: str
    raw_uid: str
    curve_index: int
    refinement_uid: str
    priority: int
    attempts: int
    owner: str | None
    age_s: float
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueList:
    """Number of jobs in each state, and the jobs that were asked for, oldest first."""

    counts: dict[str, int]
    jobs: tuple[QueueEntry, ...]


def list_jobs(directory: Path, state: str | None = None, now: Callable[[], float] = time.time) -> QueueList:
    """Return the jobs of the queue in a results folder, or those in one state.

    Raises
    ------
    InputError
        If the folder has no queue, or no state has this name.
    """
    if state is not None and state not in STATES:
        raise InputError(f"state: expected one of {', '.join(STATES)}, got {state!r}")
    with open_queue(directory) as queue:
        return QueueList(counts=queue.counts(), jobs=tuple(_entry(job, now()) for job in queue.jobs(state)))


def raise_job(directory: Path, job: int) -> None:
    """Put a waiting job first.

    Raises
    ------
    InputError
        If the folder has no queue, or the job is not ready.
    """
    with open_queue(directory) as queue:
        _require(queue.put_first(job), job, "ready")


def prioritise_job(directory: Path, job: int, priority: int) -> None:
    """Set the priority of a waiting job; a job of higher priority runs first.

    Raises
    ------
    InputError
        If the folder has no queue, or the job is not ready.
    """
    with open_queue(directory) as queue:
        _require(queue.prioritise(job, priority), job, "ready")


def cancel_job(directory: Path, job: int) -> None:
    """Cancel a job that waits, is at work, or has failed; a worker stops within seconds.

    Raises
    ------
    InputError
        If the folder has no queue, or the job is done, publishes its result, or is cancelled.
    """
    with open_queue(directory) as queue:
        _require(queue.cancel(job), job, "ready, leased or failed")


def retry_job(directory: Path, job: int) -> None:
    """Return a failed or cancelled job to the queue.

    Raises
    ------
    InputError
        If the folder has no queue, or the job is neither failed nor cancelled.
    """
    with open_queue(directory) as queue:
        _require(queue.retry(job), job, "failed or cancelled")


@contextlib.contextmanager
def open_queue(directory: Path) -> Iterator[Queue]:
    """Open the queue in a results folder; raises `InputError` if the folder has none."""
    path = directory.resolve() / QUEUE
    if not path.exists():
        raise InputError(f"{path} does not exist: no service with this configuration has queued a refinement yet")
    with contextlib.closing(Queue(path, patience_s=PATIENCE_S)) as queue:
        yield queue


def _entry(job: Job, now_s: float) -> QueueEntry:
    return QueueEntry(
        job=job.id,
        state=job.state,
        method=job.method,
        raw_uid=job.spec["raw_uid"],
        curve_index=job.spec["curve_index"],
        refinement_uid=job.key,
        priority=job.priority,
        attempts=job.attempts,
        owner=job.owner,
        age_s=round(now_s - job.created_s, 1),
        error=job.error,
    )


def _require(is_changed: bool, job: int, expected: str) -> None:
    if not is_changed:
        raise InputError(f"job {job}: expected a job that is {expected}, got another; see 'cdi-stream queue list'")
