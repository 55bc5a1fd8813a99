"""Worker: a process of low priority and few threads that computes refinement jobs and publishes their results."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import zmq

from cdi_stream.addresses import CurveKeys
from cdi_stream.disk.result_folder import ResultFolder
from cdi_stream.documents import bus
from cdi_stream.errors import CdiStreamError
from cdi_stream.logs import about
from cdi_stream.protocols import Sink
from cdi_stream.refine.inputs import INPUTS, read_input
from cdi_stream.refine.jobs import JobSpec, documents_of, run_job
from cdi_stream.refine.outbox import DeliveryMonitor, Outbox
from cdi_stream.refine.queue import QUEUE, Job, Queue
from cdi_stream.refine.turn import Turn, WorkerStopped, heartbeat_file, orphan_lock, slot

logger = logging.getLogger(__name__)

LEASE_S = 120.0
"""Time [s] for which a worker leases a job; the worker extends the lease while it works."""

MAX_ATTEMPTS = 3
"""Number of workers that may die or hang over a job; after that the job fails."""

REST_S = 60.0
"""Time [s] that a worker takes no job after an error of the disk."""

_RENEW_S = LEASE_S / 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Folders of queue and results, document bus, and number of threads."""

    directory: Path
    results: ResultFolder
    subscribe: str
    prefix: str
    serializer: str
    curve: CurveKeys | None = None
    threads: int = 1


class Worker:
    """Computes jobs one after another.

    Parameters
    ----------
    directory
        Folder of the queue and the input files.
    results
        Folder of the result files.
    owner
        Name of the worker's slot.
    queue, outbox, turn
        Jobs, way to the bus, and pauses for the live path.
    is_stopped
        Tells whether to end.
    """

    def __init__(
        self,
        directory: Path,
        results: ResultFolder,
        owner: str,
        queue: Queue,
        outbox: Outbox,
        turn: Turn,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._directory = directory
        self._results = results
        self._owner = owner
        self._queue = queue
        self._outbox = outbox
        self._turn = turn
        self._is_stopped = is_stopped
        self._renewed_s = 0.0
        self._rest_until_s = 0.0
        self._heartbeat_s = 0.0
        self._heartbeat = heartbeat_file(directory, os.getpid())

    def step(self) -> bool:
        """Send the documents of computed jobs, then compute one job; false if no job was ready."""
        self._beat()
        self._reclaim_orphaned_jobs()
        self._outbox.send(self._owner, self._is_stopped)
        is_resting = self._is_stopped() or time.monotonic() < self._rest_until_s
        job = None if is_resting else self._queue.lease(self._owner, LEASE_S)
        if job is None:
            return False
        with about(job.spec["raw_uid"], job.spec["curve_index"]):
            self._attempt(job)
        return True

    def _attempt(self, job: Job) -> None:
        """Compute a leased job; an error of the disk puts it back into the queue, another error makes it failed."""
        try:
            self._do(job)
        except WorkerStopped:
            self._queue.give_back(job, self._owner)
        except OSError:
            logger.exception("refinement %d: put back into the queue; is the disk full?", job.id)
            self._queue.give_back(job, self._owner)
            self._rest_until_s = time.monotonic() + REST_S
        except CdiStreamError as error:
            self._queue.fail(job, self._owner, str(error))
        except Exception as error:  # border of the worker process: a job that fails is marked so
            logger.exception("refinement %d failed", job.id)
            self._queue.fail(job, self._owner, f"error of the program: {error!r}; please report it with worker.log")

    def _do(self, job: Job) -> None:
        """Compute a leased job, store its documents in the queue, and send them."""
        if job.attempts > MAX_ATTEMPTS:
            raise CdiStreamError(
                f"{MAX_ATTEMPTS} workers died or hung over this job; is there enough memory? see worker.log, then use "
                "'cdi-stream queue retry'"
            )
        self._renewed_s = time.monotonic()
        spec = JobSpec.model_validate(job.spec)
        phased = read_input(self._directory / INPUTS / job.input)
        result = run_job(spec, job.method, phased, lambda: self._wait(job))
        self._queue.complete(job, self._owner, documents_of(spec, job.method, result, self._results))
        logger.info(
            "refinement %d (%s): chi2 %.4f -> %.4f, %s, %.0f s",
            job.id,
            job.method,
            spec.start_chi2,
            result.metrics.chi2,
            result.verdict.grade,
            result.metrics.known()["seconds"],
        )
        self._outbox.send(self._owner, self._is_stopped)

    def _wait(self, job: Job) -> None:
        """Wait for the live path before each step, and extend the lease; a lost lease raises `WorkerStopped`."""
        self._turn.wait(lambda: self._renew(job))

    def _beat(self) -> None:
        """Touch the heartbeat, at most once a second."""
        if time.monotonic() - self._heartbeat_s > 1.0:
            self._heartbeat_s = time.monotonic()
            with contextlib.suppress(OSError):
                self._heartbeat.touch()

    def close(self) -> None:
        """Delete the heartbeat."""
        self._heartbeat.unlink(missing_ok=True)

    def _renew(self, job: Job) -> None:
        self._beat()
        if time.monotonic() - self._renewed_s > _RENEW_S:
            self._renewed_s = time.monotonic()
            if not self._queue.renew(job, self._owner, LEASE_S):
                raise WorkerStopped

    def _reclaim_orphaned_jobs(self) -> None:
        """Take over the jobs and documents of workers that have died."""
        for owner in self._queue.owners() - {self._owner}:
            with orphan_lock(self._directory, owner) as is_orphaned:
                if is_orphaned:
                    self._queue.take_over(owner, self._owner)


def run_worker(settings: WorkerSettings, sink: Sink, is_stopped: Callable[[], bool], *, ends_when_idle: bool) -> None:
    """Compute jobs until stopped; with ``ends_when_idle`` until no job is left."""
    lower_priority(settings.threads)
    with _open(settings, sink, is_stopped) as (worker, monitor):
        while not is_stopped():
            if worker.step():
                continue
            if ends_when_idle:
                return
            monitor.listen(200)


def lower_priority(threads: int) -> None:
    """Limit this process to ``threads`` threads, and to idle CPU time where the system supports that."""
    torch.set_num_threads(threads)
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


@contextlib.contextmanager
def _open(
    settings: WorkerSettings, sink: Sink, is_stopped: Callable[[], bool]
) -> Iterator[tuple[Worker, DeliveryMonitor]]:
    """Yield a worker with its sockets, slot and connection to the queue, and its delivery monitor."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        socket = bus.listen(context, settings.subscribe, settings.curve)
        stack.callback(socket.close, 0)
        stack.callback(sink.close)
        queue = stack.enter_context(contextlib.closing(Queue(settings.directory / QUEUE)))
        turn = stack.enter_context(contextlib.closing(Turn(settings.directory, is_stopped)))
        owner = stack.enter_context(slot(settings.directory))
        queue.take_over(owner, owner)  # jobs of the last worker in this slot
        monitor = DeliveryMonitor(socket, queue, settings.prefix, bus.reader(settings.serializer))
        outbox = Outbox(queue, sink, monitor, lambda job: clean_up(queue, job, settings.directory))
        worker = Worker(settings.directory, settings.results, owner, queue, outbox, turn, is_stopped)
        stack.callback(worker.close)
        yield worker, monitor


def clean_up(queue: Queue, job: Job, directory: Path) -> None:
    """Delete the input file of a published job, unless another job needs it."""
    if not queue.needs_input(job.input):
        (directory / INPUTS / job.input).unlink(missing_ok=True)
