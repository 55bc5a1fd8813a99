"""Engines: programs that compute refinement jobs, in the worker process itself or on a cluster.

The queue stays with the worker process: an engine gets paths and plain values, and returns documents.  It never opens
the queue, so that it may run on another machine that sees the results folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from cdi_stream.disk.result_folder import ResultFolder
from cdi_stream.refine.inputs import INPUTS
from cdi_stream.refine.progress import progress_file
from cdi_stream.refine.queue import Job, NamedDocument

ENGINE_GROUP = "cdi_stream.engine"
"""Group of entry points of the engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One job as an engine gets it.

    Parameters
    ----------
    job_id
        Number of the job in the queue.
    method
        Method of the refinement.
    spec
        Description of the job as plain values, see `cdi_stream.refine.jobs.JobSpec`.
    input
        Input file.
    results
        Folder of the result files.
    progress
        File in which the process at work tells how far it is.
    """

    job_id: int
    method: str
    spec: Mapping[str, Any]
    input: Path
    results: ResultFolder
    progress: Path

    @classmethod
    def of(cls, job: Job, directory: Path, results: ResultFolder) -> Task:
        """Return the task of a job of the queue in a folder."""
        return cls(
            job_id=job.id,
            method=job.method,
            spec=job.spec,
            input=directory / INPUTS / job.input,
            results=results,
            progress=progress_file(directory, job.id),
        )


Fate = Literal["computed", "failed", "returned", "unwritten", "died"]
"""What became of a task.

``computed``: there are documents.  ``failed``: the job cannot be computed.  ``returned``: the job goes back into the
queue.  ``unwritten``: it goes back because the disk takes no result.  ``died``: it goes back because its process died.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """End of a task: its fate, the documents of its run, and a text that says why or how."""

    job_id: int
    fate: Fate
    documents: tuple[NamedDocument, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Settings of an engine.

    Parameters
    ----------
    directory
        Folder of the locks and claims: the results folder.
    is_stopped
        Tells whether the worker process must end.
    workers
        Number of jobs at work at the same time, for an engine with several processes.
    threads
        Number of threads of each job.
    scheduler
        Address of a scheduler that runs already; None: the engine starts its own on this machine.
    resources
        Resources that each job needs on the cluster, for example ``{"GPU": 1}``.
    lease_s
        Time [s] without a heartbeat after which a job counts as dead.
    """

    directory: Path
    is_stopped: Callable[[], bool]
    workers: int = 1
    threads: int = 1
    scheduler: str | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    lease_s: float = 120.0


class Engine(Protocol):
    """Computes tasks."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether other processes compute, so that a job survives the death of the worker process."""
        ...

    def n_free(self) -> int:
        """Return the number of tasks that the engine takes now; 0 while its cluster cannot be reached."""
        ...

    def submit(self, task: Task) -> None:
        """Take a task."""
        ...

    def outcomes(self, is_wanted: Callable[[int], bool], wait_s: float) -> Iterator[Outcome]:
        """Yield the tasks that have ended; where none has, wait for one, at most ``wait_s`` [s].

        An engine that computes in this process computes its task here.

        ``is_wanted`` takes the number of a job that shows a sign of life, extends its lease, and returns whether the
        job must go on.
        """
        ...

    def close(self) -> None:
        """End all tasks without an outcome, and the processes that the engine has started."""
        ...


class EngineFactory(Protocol):
    """Builds an engine; entry points of group ``cdi_stream.engine`` are of this type."""

    def __call__(self, settings: EngineSettings) -> Engine:
        """Build an engine."""
        ...
