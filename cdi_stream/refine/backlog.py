"""Backlog: the part of the service that queues refinements, pauses the workers, and passes on their results."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from cdi_stream.addresses import CurveKeys
from cdi_stream.disk.aside import set_aside
from cdi_stream.disk.atomic import atomic_write
from cdi_stream.documents import bus
from cdi_stream.documents.publish import Provenance
from cdi_stream.geometry.affine import Shape
from cdi_stream.inversion.methods import MethodSettings
from cdi_stream.messages import PhasedVolume, Result, RunContext
from cdi_stream.refine.inputs import INPUTS, write_input
from cdi_stream.refine.jobs import JobSpec, spec_of
from cdi_stream.refine.outbox import DeliveryMonitor
from cdi_stream.refine.queue import PATIENCE_S, QUEUE, Job, NamedDocument, Queue, open_queue
from cdi_stream.refine.turn import MonitorLock, UrgentLock
from cdi_stream.refine.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

SETTLE_MS = 1000
"""Time [ms] that a subscription takes to reach the proxy; before that the service notes no documents."""

RETRY_S = 10.0
"""Time [s] before the queue is tried again after an error, for example on a full disk."""

ARCHIVE_CHECK_S = 1.0
"""Time [s] between two searches for published refinements that the archives do not have yet."""

PRUNE_EVERY_S = 600.0
"""Time [s] between two deletions of old jobs."""

REQUESTS = "requests"
"""Folder, in the results folder, of requested refinements that are not in the queue yet."""

STATE_PATIENCE_S = 0.2
"""Time [s] to wait for a lock on the queue when its state is read for the operators' pages."""

MAX_UNWRITTEN = 5
"""Number of requests that are kept in memory while the disk is full; older requests are lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogSettings:
    """Settings of the refinements.

    Parameters
    ----------
    methods, method_settings
        Methods that refine every reconstruction, and their settings.
    provenance
        Origin of the results.
    lab_shape
        Shape of the published arrays.
    directory
        Folder of the results, the queue and the locks.
    config_file
        File of the configuration, for the worker.
    subscribe, prefix, serializer, curve
        Document bus on which the results appear, and keys for it.
    threads
        Number of threads of a worker.
    processes
        Number of worker processes.
    lease_s
        Time [s] without a heartbeat after which a worker is killed and started again, unless the live path pauses it.
    keep_done_s, keep_done_jobs
        Age [s] and number of ended jobs that the queue keeps.
    """

    methods: tuple[str, ...]
    method_settings: MethodSettings
    provenance: Provenance
    lab_shape: Shape
    directory: Path
    config_file: Path
    subscribe: str
    prefix: str
    serializer: str
    curve: CurveKeys | None = None
    threads: int = 1
    processes: int = 1
    lease_s: float = 120.0
    keep_done_s: float = 30 * 86_400.0
    keep_done_jobs: int = 1000


class Backlog:
    """Refinements of the service.  `ask` and `hold` may be called from any thread; `run` is the body of a thread.

    A published job is passed on with its documents, again and again, until `mark_archived` is called with the job.
    """

    def __init__(self, settings: BacklogSettings) -> None:
        self._settings = settings
        self._urgency = UrgentLock(settings.directory)
        self._monitor_lock = MonitorLock(settings.directory)
        self._archive_check_s = 0.0
        self._next_prune_s = 0.0
        self._held_s = 0.0
        self._is_held = False
        self._unwritten: deque[tuple[JobSpec, PhasedVolume]] = deque(maxlen=MAX_UNWRITTEN)
        open_queue(settings.directory / QUEUE).close()

    def hold(self, is_urgent: bool) -> None:
        """Pause the workers while a curve is urgent, or let them continue."""
        self._is_held, self._held_s = is_urgent, time.monotonic()
        (self._urgency.begin if is_urgent else self._urgency.end)()

    def ask(self, result: Result, run: RunContext, reconstruction_uid: str) -> None:
        """Request the refinements of a published reconstruction; the request is on disk when this returns.

        The caller waits neither for a full disk nor for a locked queue: `run` puts the request into the queue later.
        """
        if result.phased is None:
            return
        s = self._settings
        spec = spec_of(result, run, reconstruction_uid, s.provenance, s.method_settings, s.lab_shape)
        try:
            self._write(spec, result.phased)
        except OSError as error:
            logger.warning(
                "refinement of run %s: the request is kept in memory until the disk takes it: %s", run.uid[:8], error
            )
            self._unwritten.append((spec, result.phased))

    def _write(self, spec: JobSpec, phased: PhasedVolume) -> None:
        write_input(self._settings.directory / INPUTS / spec.input, phased)
        with atomic_write(self._settings.directory / REQUESTS / f"{spec.input}.json") as part:
            part.write_text(spec.model_dump_json())

    def enqueue_requests(self, queue: Queue) -> None:
        """Put all requests into the queue; the file of a request is deleted when its jobs are in the queue."""
        for _ in range(len(self._unwritten)):
            spec, phased = self._unwritten.popleft()
            try:
                self._write(spec, phased)
            except OSError:
                self._unwritten.append((spec, phased))
                break
        for path in sorted((self._settings.directory / REQUESTS).glob("*.json")):
            try:
                spec = JobSpec.model_validate_json(path.read_text())
            except ValueError:
                logger.exception("%s: expected a request for a refinement; it is kept as %s", path, set_aside(path))
                continue
            for method in self._settings.methods:
                queue.enqueue(spec.key(method), method, spec.model_dump(mode="json"), spec.input)
            path.unlink()

    def state(self) -> dict[str, Any]:
        """Return the number of jobs in each state, and the refinement at work, for the operators' pages."""
        try:
            with self._queue(STATE_PATIENCE_S) as queue:
                jobs, counts = queue.jobs("leased"), queue.counts()
        except (sqlite3.Error, OSError) as error:
            return {"queue": {}, "refinement": f"the queue cannot be read: {error}"}
        description = None
        if jobs:
            spec = jobs[0].spec
            description = f"{jobs[0].method}, run {spec['raw_uid'][:8]} curve {spec['curve_index']}"
        return {"queue": counts, "refinement": description}

    def run(self, is_stopped: Callable[[], bool], hand_on: Callable[[Job, list[NamedDocument]], None]) -> None:
        """Run a worker while there is work, note received documents, and pass on published jobs, until stopped.

        An error, for example on a full disk, is logged and tried again; it must not end the live path.
        ``hand_on`` takes a published job and its documents.
        """
        workers = self._worker_processes()
        with zmq.Context() as context, bus.listen(context, self._settings.subscribe, self._settings.curve) as socket:
            while not is_stopped():
                try:
                    with self._queue() as queue:
                        self._attend(queue, socket, workers, is_stopped, hand_on)
                except Exception:
                    logger.exception("the refinement queue cannot be used; next attempt in %.0f s", RETRY_S)
                    _sleep(RETRY_S, is_stopped)
        for worker in workers:
            worker.stop()

    def _attend(
        self,
        queue: Queue,
        socket: zmq.Socket[bytes],
        workers: list[WorkerProcess],
        is_stopped: Callable[[], bool],
        hand_on: Callable[[Job, list[NamedDocument]], None],
    ) -> None:
        """Do the work of `run` with one connection to the queue, until stopped or until an error."""
        monitor = DeliveryMonitor(socket, queue, self._settings.prefix, bus.reader(self._settings.serializer))
        monitor.listen(SETTLE_MS)
        while not is_stopped():
            self._monitor_lock.hold()
            monitor.listen(200)
            self.enqueue_requests(queue)
            now = time.monotonic()
            is_held, has_work = self._is_held or now - self._held_s < self._settings.lease_s, queue.has_work()
            for worker in workers:
                worker.keep(has_work, is_held=is_held)
            if now - self._archive_check_s > ARCHIVE_CHECK_S:
                self._archive_check_s = now
                for job, documents in queue.jobs_to_archive():
                    hand_on(job, documents)
            if now >= self._next_prune_s:
                self._next_prune_s = now + PRUNE_EVERY_S
                self.prune(queue)

    def prune(self, queue: Queue) -> None:
        """Delete the ended jobs that are too old or too many, and the input files that no job needs any more."""
        s = self._settings
        for name in queue.prune(s.keep_done_s, s.keep_done_jobs):
            (s.directory / INPUTS / name).unlink(missing_ok=True)

    def mark_archived(self, job: Job) -> None:
        """Note that the archives have the documents of a job."""
        with self._queue() as queue:
            queue.mark_archived(job)

    def close(self) -> None:
        """Release the locks."""
        self._urgency.close()
        self._monitor_lock.close()

    def _worker_processes(self) -> list[WorkerProcess]:
        s = self._settings
        return [WorkerProcess(s.directory, s.config_file, s.threads, s.lease_s) for _ in range(s.processes)]

    def _queue(self, patience_s: float = PATIENCE_S) -> contextlib.closing[Queue]:
        """Return a connection for one use: the threads of the service share no connection."""
        return contextlib.closing(Queue(self._settings.directory / QUEUE, patience_s=patience_s))


def _sleep(seconds: float, is_stopped: Callable[[], bool]) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s and not is_stopped():
        time.sleep(0.1)
