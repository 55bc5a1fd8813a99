"""Compute a task of the refinement queue: in the worker process, or in a process of an engine's cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cdi_stream.errors import CdiStreamError
from cdi_stream.logs import about
from cdi_stream.refine.claim import Claim, HeldClaim
from cdi_stream.refine.engine import Outcome, Task
from cdi_stream.refine.inputs import read_input
from cdi_stream.refine.jobs import JobSpec, documents_of, run_job
from cdi_stream.refine.progress import ProgressFile
from cdi_stream.refine.turn import Turn, WorkerStopped

logger = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def compute(task: Task, wait_turn: Callable[[], None]) -> Outcome:
    """Compute a task, write its result file, and return its documents; an error becomes the fate of the outcome.

    ``wait_turn`` is called before each step; it raises `WorkerStopped` if the task must end.
    """
    with about(task.spec["raw_uid"], task.spec["curve_index"]):
        return _outcome(task, wait_turn)


def _outcome(task: Task, wait_turn: Callable[[], None]) -> Outcome:
    try:
        spec = JobSpec.model_validate(task.spec)
        with contextlib.closing(ProgressFile(task.progress)) as progress:
            result = run_job(spec, task.method, read_input(task.input), wait_turn, progress)
        wait_turn()
        documents = documents_of(spec, task.method, result, task.results)
    except WorkerStopped:
        return Outcome(job_id=task.job_id, fate="returned", text="the worker had to stop, or has lost the job")
    except OSError as error:
        logger.exception("refinement %d: no result can be written", task.job_id)
        return Outcome(job_id=task.job_id, fate="unwritten", text=f"{error}; is the disk full?")
    except CdiStreamError as error:
        return Outcome(job_id=task.job_id, fate="failed", text=str(error))
    except Exception as error:  # border of the computation: a job that fails is marked so
        logger.exception("refinement %d failed", task.job_id)
        text = f"error of the program: {error!r}; please report it with worker.log"
        return Outcome(job_id=task.job_id, fate="failed", text=text)
    text = (
        f"chi2 {spec.start_chi2:.4f} -> {result.metrics.chi2:.4f}, {result.verdict.grade}, "
        f"{result.metrics.known()['seconds']:.0f} s"
    )
    return Outcome(job_id=task.job_id, fate="computed", documents=tuple(documents), text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTask:
    """A task for another process, with its claim.

    Parameters
    ----------
    task, claim
        Task, and the claim that says whether it is still wanted.
    directory
        Folder of the locks.
    machine
        Name of the machine of the service, see `machine_name`: a process there pauses for the live path.
    threads
        Number of threads.
    version
        Version of cdi-stream that the worker process has.
    """

    task: Task
    claim: Claim
    directory: Path
    machine: str
    threads: int
    version: str


def compute_remote(remote: RemoteTask, version: str) -> Outcome:
    """Compute a task in a process of a cluster, as long as its claim stands; ``version`` is that of this process.

    On the machine of the service the process has the lowest priority and pauses for the live path.
    """
    task, host = remote.task, socket.gethostname()
    if version != remote.version:
        text = f"expected cdi-stream {remote.version} on {host} as in the service, got {version}: install the same"
        return Outcome(job_id=task.job_id, fate="failed", text=text)
    if not remote.directory.is_dir():
        text = f"expected the results folder {remote.directory} on {host} too, got none: mount it under this path"
        return Outcome(job_id=task.job_id, fate="failed", text=text)
    try:
        claim = HeldClaim(remote.claim)
    except WorkerStopped:
        return Outcome(job_id=task.job_id, fate="returned", text="the job was given to another process")
    torch.set_num_threads(remote.threads)
    if machine_name() != remote.machine:
        return compute(task, claim.check)
    lower_priority(remote.threads)
    with contextlib.closing(Turn(remote.directory, lambda: False)) as turn:
        return compute(task, lambda: turn.wait(claim.check))


def machine_name() -> str:
    """Return a name of this machine: the same in all its containers, another one on each machine and after a boot."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return socket.gethostname()


def lower_priority(threads: int) -> None:
    """Limit this process to ``threads`` threads, and to idle CPU time where the system supports that."""
    torch.set_num_threads(threads)
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
