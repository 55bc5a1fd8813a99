"""Worker: a process of low priority that gives refinement jobs to an engine and publishes their results."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import zmq

from cdi_stream.addresses import CurveKeys
from cdi_stream.disk.result_folder import ResultFolder
from cdi_stream.disk.space import SpaceGuard
from cdi_stream.documents import bus
from cdi_stream.logs import about
from cdi_stream.protocols import Sink
from cdi_stream.refine.claim import claim_of
from cdi_stream.refine.compute import lower_priority
from cdi_stream.refine.engine import Engine, EngineFactory, EngineSettings, Outcome, Task
from cdi_stream.refine.inputs import INPUTS
from cdi_stream.refine.outbox import DeliveryMonitor, Outbox
from cdi_stream.refine.progress import progress_file
from cdi_stream.refine.pulse import Beat
from cdi_stream.refine.queue import QUEUE, Job, Queue
from cdi_stream.refine.turn import SecondMonitor, heartbeat_file, orphan_lock, slot

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Number of workers that may die or hang over a job; after that the job fails."""

REST_S = 60.0
"""Time [s] that a worker takes no job after an error of the disk."""

SPACE_EVERY_S = 1.0
"""Time [s] between two looks at the free space of the disk; a job asks before each of its steps."""

WAIT_S = 0.5
"""Longest time [s] that a worker waits for the end of a job before it looks after the rest."""

RENEW_S = 5.0
"""Time [s] between two renewals of a lease; a cancelled job stops after this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Settings of a worker process.

    Parameters
    ----------
    directory, results
        Folder of queue, inputs and locks, and folder of the result files.
    subscribe, prefix, serializer, curve
        Document bus on which the results appear, and keys for it.
    threads
        Number of threads of a job.
    workers
        Number of jobs at work at the same time, for an engine with several processes.
    scheduler, resources
        Address of the engine's scheduler, and what each job needs there.
    lease_s
        Time [s] without a heartbeat after which a job goes to another worker.
    least_free_bytes
        Free space on the disk below which the worker gives its jobs back and takes none [bytes].
    """

    directory: Path
    results: ResultFolder
    subscribe: str
    prefix: str
    serializer: str
    curve: CurveKeys | None = None
    threads: int = 1
    workers: int = 1
    scheduler: str | None = None
    resources: tuple[tuple[str, float], ...] = ()
    lease_s: float = 120.0
    least_free_bytes: int = 0


class Worker:
    """Takes jobs from the queue, gives them to an engine, and stores and sends their documents.

    Parameters
    ----------
    settings
        Folders and times.
    owner
        Name of the worker's slot.
    queue, outbox, engine
        Jobs, way to the bus, and what computes.
    is_stopped
        Tells whether to end.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        owner: str,
        queue: Queue,
        outbox: Outbox,
        engine: Engine,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._owner = owner
        self._queue = queue
        self._outbox = outbox
        self._engine = engine
        self._is_stopped = is_stopped
        self._jobs: dict[int, Job] = {}
        self._renewed_s: dict[int, float] = {}
        self._rest_until_s = 0.0
        self._guard = SpaceGuard(settings.directory, settings.least_free_bytes, every_s=SPACE_EVERY_S)
        self._beat = Beat(heartbeat_file(settings.directory, os.getpid()))

    def step(self) -> bool:
        """Send the documents of computed jobs, and keep the engine at work; false if no job is at work."""
        self._beat.touch()
        self._reclaim_orphaned_jobs()
        self._serve_cluster()
        self._outbox.send(self._owner, self._is_stopped, self._serve_cluster)
        self._fill()
        if not self._jobs:
            return False
        self._settle_all(WAIT_S)
        return True

    def close(self) -> None:
        """End the engine, return its jobs to the queue, and delete the heartbeat."""
        self._engine.close()
        for job in self._jobs.values():
            self._give_back(job)
        self._beat.end()

    def _serve_cluster(self) -> None:
        """Keep the engine's own processes at work: they do not wait until documents have arrived on the bus."""
        if self._engine.is_elsewhere:
            self._beat.touch()
            if self._jobs:
                self._settle_all(0.0)
            self._fill()

    def _settle_all(self, wait_s: float) -> None:
        for outcome in self._engine.outcomes(self._is_wanted, wait_s):
            self._settle(outcome)

    def _fill(self) -> None:
        """Lease jobs and give them to the engine, as many as it takes."""
        is_resting = self._is_stopped() or time.monotonic() < self._rest_until_s or bool(self._guard.problem())
        for _ in range(0 if is_resting else self._engine.n_free()):
            job = self._queue.lease(self._owner, self._settings.lease_s, is_attempt=not self._engine.is_elsewhere)
            if job is None:
                return
            claim_of(self._settings.directory, job.id).unlink(missing_ok=True)  # ends a former attempt elsewhere
            if self._is_hopeless(job):
                continue
            self._jobs[job.id], self._renewed_s[job.id] = job, time.monotonic()
            self._engine.submit(Task.of(job, self._settings.directory, self._settings.results))

    def _is_hopeless(self, job: Job) -> bool:
        """Return whether too many workers died over a job, which then fails."""
        if job.attempts <= MAX_ATTEMPTS - (1 if self._engine.is_elsewhere else 0):
            return False
        reason = (
            f"{MAX_ATTEMPTS} workers died or hung over this job; is there enough memory? see worker.log, then use "
            "'cdi-stream queue retry'"
        )
        self._queue.fail(job, self._owner, reason)
        return True

    def _settle(self, outcome: Outcome) -> None:
        """Store the outcome of a job in the queue."""
        job = self._jobs.pop(outcome.job_id)
        del self._renewed_s[job.id]
        with about(job.spec["raw_uid"], job.spec["curve_index"]):
            logger.info("refinement %d (%s): %s, %s", job.id, job.method, outcome.fate, outcome.text)
        if outcome.fate == "computed":
            self._queue.complete(job, self._owner, outcome.documents)
        elif outcome.fate == "failed":
            self._queue.fail(job, self._owner, outcome.text)
        elif outcome.fate == "died":
            self._queue.give_back(job, self._owner, attempts=1)
        else:
            self._give_back(job)
        if outcome.fate == "unwritten":
            self._rest_until_s = time.monotonic() + REST_S

    def _give_back(self, job: Job) -> None:
        """Make a job ready again; the attempt does not count."""
        self._queue.give_back(job, self._owner, attempts=0 if self._engine.is_elsewhere else -1)

    def _is_wanted(self, job_id: int) -> bool:
        """Note a sign of life of a job: extend its lease; return whether the job must go on."""
        self._beat.touch()
        if self._is_stopped() or self._guard.problem():
            return False
        if time.monotonic() - self._renewed_s[job_id] <= RENEW_S:
            return True
        self._renewed_s[job_id] = time.monotonic()
        return self._queue.renew(self._jobs[job_id], self._owner, self._settings.lease_s)

    def _reclaim_orphaned_jobs(self) -> None:
        """Take over the jobs and documents of workers that have died."""
        for owner in self._queue.owners() - {self._owner}:
            with orphan_lock(self._settings.directory, owner) as is_orphaned:
                if is_orphaned:
                    self._queue.take_over(owner, self._owner)


def run_worker(
    settings: WorkerSettings,
    make_engine: EngineFactory,
    sink: Sink,
    is_stopped: Callable[[], bool],
    *,
    ends_when_idle: bool,
) -> None:
    """Compute jobs until stopped; with ``ends_when_idle`` until no job is left."""
    lower_priority(settings.threads)
    with _open(settings, make_engine, sink, is_stopped, waits_for_service=not ends_when_idle) as (worker, monitor):
        while not is_stopped():
            if worker.step():
                continue
            if ends_when_idle:
                return
            monitor.listen(200)


@contextlib.contextmanager
def _open(
    settings: WorkerSettings,
    make_engine: EngineFactory,
    sink: Sink,
    is_stopped: Callable[[], bool],
    *,
    waits_for_service: bool,
) -> Iterator[tuple[Worker, DeliveryMonitor]]:
    """Yield a worker with its sockets, slot, engine and connection to the queue, and its delivery monitor."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        socket = bus.listen(context, settings.subscribe, settings.curve)
        stack.callback(socket.close, 0)
        stack.callback(sink.close)
        queue = stack.enter_context(contextlib.closing(Queue(settings.directory / QUEUE)))
        owner = stack.enter_context(slot(settings.directory))
        queue.take_over(owner, owner)  # jobs of the last worker in this slot
        monitor = DeliveryMonitor(socket, queue, settings.prefix, bus.reader(settings.serializer))
        second = stack.enter_context(contextlib.closing(SecondMonitor(settings.directory)))
        may_send = second.may_send if waits_for_service else lambda: True
        outbox = Outbox(queue, sink, monitor, lambda job: clean_up(queue, job, settings.directory), may_send)
        engine = make_engine(_engine_settings(settings, is_stopped))
        worker = Worker(settings, owner, queue, outbox, engine, is_stopped)
        stack.callback(worker.close)
        yield worker, monitor


def _engine_settings(settings: WorkerSettings, is_stopped: Callable[[], bool]) -> EngineSettings:
    return EngineSettings(
        directory=settings.directory,
        is_stopped=is_stopped,
        workers=settings.workers,
        threads=settings.threads,
        scheduler=settings.scheduler,
        resources=dict(settings.resources),
        lease_s=settings.lease_s,
    )


def clean_up(queue: Queue, job: Job, directory: Path) -> None:
    """Delete the progress file of a published job, and its input file unless another job needs it."""
    progress_file(directory, job.id).unlink(missing_ok=True)
    if not queue.needs_input(job.input):
        (directory / INPUTS / job.input).unlink(missing_ok=True)
