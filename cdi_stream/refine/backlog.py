"""Backlog: the part of the service that queues refinements, pauses the workers, and passes on their results."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen, TimeoutExpired
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
from cdi_stream.processes import start_child
from cdi_stream.refine.inputs import INPUTS, write_input
from cdi_stream.refine.jobs import JobSpec, spec_of
from cdi_stream.refine.outbox import DeliveryMonitor
from cdi_stream.refine.queue import PATIENCE_S, QUEUE, Job, NamedDocument, Queue, open_queue
from cdi_stream.refine.turn import UrgentLock, heartbeat_file

logger = logging.getLogger(__name__)

RESTART_S = 1.0
"""Time [s] before a worker is started again after it failed; doubles with each further failure."""

MAX_RESTART_S = 120.0
"""Longest time [s] between two starts of a worker that fails."""

STEADY_S = 20.0
"""Time [s] that a worker must run so that its next failure counts as the first one."""

STOP_S = 10.0
"""Time [s] that a worker has to end after SIGTERM, before SIGKILL."""

RETRY_S = 10.0
"""Time [s] before the queue is tried again after an error, for example on a full disk."""

ARCHIVE_CHECK_S = 1.0
"""Time [s] between two searches for published refinements that the archives do not have yet."""

HANG_TIMEOUT_S = 120.0
"""Age [s] of the heartbeat at which a worker is killed and started again, unless the live path pauses it."""

REQUESTS = "requests"
"""Folder, in the results folder, of requested refinements that are not in the queue yet."""

STATE_PATIENCE_S = 0.2
"""Time [s] to wait for a lock on the queue when its state is read for the operators' pages."""

MAX_UNWRITTEN = 5
"""Number of requests that are kept in memory while the disk is full; older requests are lost."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables that limit the threads of a worker."""


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


class Backlog:
    """Refinements of the service.  `ask` and `hold` may be called from any thread; `run` is the body of a thread.

    A published job is passed on with its documents, again and again, until `mark_archived` is called with the job.
    """

    def __init__(self, settings: BacklogSettings) -> None:
        self._settings = settings
        self._urgency = UrgentLock(settings.directory)
        self._archive_check_s = 0.0
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
        worker = _WorkerProcess(self._settings)
        with zmq.Context() as context, bus.listen(context, self._settings.subscribe, self._settings.curve) as socket:
            while not is_stopped():
                try:
                    with self._queue() as queue:
                        self._attend(queue, socket, worker, is_stopped, hand_on)
                except Exception:
                    logger.exception("the refinement queue cannot be used; next attempt in %.0f s", RETRY_S)
                    _sleep(RETRY_S, is_stopped)
        worker.stop()

    def _attend(
        self,
        queue: Queue,
        socket: zmq.Socket[bytes],
        worker: _WorkerProcess,
        is_stopped: Callable[[], bool],
        hand_on: Callable[[Job, list[NamedDocument]], None],
    ) -> None:
        """Do the work of `run` with one connection to the queue, until stopped or until an error."""
        monitor = DeliveryMonitor(socket, queue, self._settings.prefix, bus.reader(self._settings.serializer))
        while not is_stopped():
            monitor.listen(200)
            self.enqueue_requests(queue)
            worker.keep(queue.has_work(), is_held=self._is_held or time.monotonic() - self._held_s < HANG_TIMEOUT_S)
            now = time.monotonic()
            if now - self._archive_check_s > ARCHIVE_CHECK_S:
                self._archive_check_s = now
                for job, documents in queue.jobs_to_archive():
                    hand_on(job, documents)

    def mark_archived(self, job: Job) -> None:
        """Note that the archives have the documents of a job."""
        with self._queue() as queue:
            queue.mark_archived(job)

    def close(self) -> None:
        """Release the locks."""
        self._urgency.close()

    def _queue(self, patience_s: float = PATIENCE_S) -> contextlib.closing[Queue]:
        """Return a connection for one use: the threads of the service share no connection."""
        return contextlib.closing(Queue(self._settings.directory / QUEUE, patience_s=patience_s))


class _WorkerProcess:
    """The worker process of a service; if it fails repeatedly, the pause before the next start doubles."""

    def __init__(self, settings: BacklogSettings) -> None:
        self._settings = settings
        self._process: Popen[bytes] | None = None
        self._started_s = -MAX_RESTART_S
        self._pause_s = RESTART_S

    def keep(self, has_work: bool, *, is_held: bool) -> None:
        """Start the worker if there is work and it does not run; kill a worker that hangs.

        ``is_held``: the live path pauses the workers, or did a moment ago, so that a heartbeat may be missing.
        """
        if self._process is not None and self._process.poll() is None:
            if not is_held and self._hangs(self._process):
                logger.warning("the worker has had no heartbeat for %.0f s: it is killed", HANG_TIMEOUT_S)
                self._process.kill()
                self._process.wait()
            return
        now = time.monotonic()
        has_failed = self._process is not None and (self._process.poll() or 0) > 0
        if has_failed and now - self._started_s < STEADY_S:
            self._pause_s = min(2 * self._pause_s, MAX_RESTART_S)
            logger.warning("the worker failed, see worker.log; it is started again in %.0f s", self._pause_s)
            self._process, self._started_s = None, now
        elif has_failed or self._process is not None:
            self._process, self._pause_s = None, RESTART_S
        if self._process is None and has_work and now - self._started_s >= self._pause_s:
            self._process, self._started_s = self._start(), now

    def _hangs(self, process: Popen[bytes]) -> bool:
        """Return whether the last heartbeat of the worker, or its start, is longer ago than `HANG_TIMEOUT_S`."""
        heartbeat = heartbeat_file(self._settings.directory, process.pid)
        try:
            age_s = time.time() - heartbeat.stat().st_mtime
        except OSError:
            return time.monotonic() - self._started_s > 2 * HANG_TIMEOUT_S  # no heartbeat yet
        return min(age_s, time.monotonic() - self._started_s) > HANG_TIMEOUT_S

    def stop(self) -> None:
        """End the worker: SIGTERM, after `STOP_S` SIGKILL."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except TimeoutExpired:
            logger.warning("the worker does not end: it is killed; its job stays in the queue")
            self._process.kill()
            self._process.wait()

    def _start(self) -> Popen[bytes]:
        command = [sys.executable, "-m", "cdi_stream", "worker", "--config", str(self._settings.config_file)]
        environment = {name: str(self._settings.threads) for name in THREAD_VARIABLES}
        with (self._settings.directory / "worker.log").open("ab") as log:
            return start_child(command, log, **environment)


def _sleep(seconds: float, is_stopped: Callable[[], bool]) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s and not is_stopped():
        time.sleep(0.1)
