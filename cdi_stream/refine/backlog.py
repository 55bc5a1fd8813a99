"""The service's side of refinement: enqueue, hold the workers up, keep one worker running, hear and hand on results."""

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
from cdi_stream.refine.queue import PATIENCE_S, QUEUE, Document, Job, Queue, open_queue
from cdi_stream.refine.turn import Urgency, sign_of_life

logger = logging.getLogger(__name__)

RESTART_S, MAX_RESTART_S, HEALTHY_S = 1.0, 120.0, 20.0
STOP_S = 10.0
TROUBLE_S = 10.0
LOOK_EVERY_S = 1.0
HANGS_S = 120.0
"""A worker that has given no sign of life for so long, while nothing held it up, is killed and started again."""

REQUESTS = "requests"
"""Folder of the refinements that are asked for and not in the queue yet, beside the results."""

STATE_PATIENCE_S = 0.2
MAX_UNWRITTEN = 5

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogSettings:
    """Which methods every reconstruction is queued for, with what; and the bus that the results appear on."""

    methods: tuple[str, ...]
    method_settings: MethodSettings
    provenance: Provenance
    lab_shape: Shape
    directory: Path
    config_file: Path
    subscribe: str
    prefix: str
    serializer: str
    threads: int = 1


class Backlog:
    """One object for the service's threads: `ask` and `hold` from any, `run` is the body of a thread of its own.

    Each published job is handed on with its documents until `archived` is told of it.
    """

    def __init__(self, settings: BacklogSettings) -> None:
        self._settings = settings
        self._urgency = Urgency(settings.directory)
        self._looked_s = 0.0
        self._held_s = 0.0
        self._is_held = False
        self._unwritten: deque[tuple[JobSpec, PhasedVolume]] = deque(maxlen=MAX_UNWRITTEN)
        open_queue(settings.directory / QUEUE).close()

    def hold(self, is_urgent: bool) -> None:
        """Hold the workers up, or let them go on."""
        self._is_held, self._held_s = is_urgent, time.monotonic()
        (self._urgency.begin if is_urgent else self._urgency.end)()

    def ask(self, result: Result, run: RunContext, reconstruction_uid: str) -> None:
        """Ask for the refinements of a reconstruction that is published; the request is on disk when this returns.

        Neither a full disk nor a locked queue holds the caller up: `run` puts the request into the queue later.
        """
        if result.phased is None:
            return
        s = self._settings
        spec = spec_of(result, run, reconstruction_uid, s.provenance, s.method_settings, s.lab_shape)
        try:
            self._write(spec, result.phased)
        except OSError as error:
            logger.warning("refinement of run %s: asked for again when the disk takes it: %s", run.uid[:8], error)
            self._unwritten.append((spec, result.phased))

    def _write(self, spec: JobSpec, phased: PhasedVolume) -> None:
        write_input(self._settings.directory / INPUTS / spec.input, phased)
        with atomic_write(self._settings.directory / REQUESTS / f"{spec.input}.json") as part:
            part.write_text(spec.model_dump_json())

    def enqueue_requests(self, queue: Queue) -> None:
        """Put what was asked for into the queue; the file of a request goes when its jobs are there."""
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
                logger.exception("%s is no request for a refinement; it is kept as %s", path, set_aside(path))
                continue
            for method in self._settings.methods:
                queue.enqueue(spec.key(method), method, spec.model_dump(mode="json"), spec.input)
            path.unlink()

    def state(self) -> dict[str, Any]:
        """Jobs by state, and what is being refined now."""
        try:
            with self._queue(STATE_PATIENCE_S) as queue:
                leased, counts = queue.jobs("leased"), queue.counts()
        except (sqlite3.Error, OSError) as error:
            return {"queue": {}, "refinement": f"the queue is in trouble: {error}"}
        current = None
        if leased:
            spec = leased[0].spec
            current = f"{leased[0].method}, run {spec['raw_uid'][:8]} curve {spec['curve_index']}"
        return {"queue": counts, "refinement": current}

    def run(self, is_stopped: Callable[[], bool], hand_on: Callable[[Job, list[Document]], None]) -> None:
        """Keep a worker while there is work, note what is heard on the bus, hand on what is published.

        Trouble here, a full disk say, is logged and tried again: it must not end the live path.
        """
        worker = _WorkerProcess(self._settings)
        with zmq.Context() as context, bus.listen(context, self._settings.subscribe) as socket:
            while not is_stopped():
                try:
                    with self._queue() as queue:
                        self._attend(queue, socket, worker, is_stopped, hand_on)
                except Exception:  # border of the thread: it ends only when it is stopped
                    logger.exception("the refinement queue is in trouble; trying again in %.0f s", TROUBLE_S)
                    _sleep(TROUBLE_S, is_stopped)
        worker.stop()

    def _attend(
        self,
        queue: Queue,
        socket: zmq.Socket[bytes],
        worker: _WorkerProcess,
        is_stopped: Callable[[], bool],
        hand_on: Callable[[Job, list[Document]], None],
    ) -> None:
        witness = DeliveryMonitor(socket, queue, self._settings.prefix, bus.reader(self._settings.serializer))
        while not is_stopped():
            witness.listen(200)
            self.enqueue_requests(queue)
            worker.keep(queue.has_work(), is_held=self._is_held or time.monotonic() - self._held_s < HANGS_S)
            now = time.monotonic()
            if now - self._looked_s > LOOK_EVERY_S:
                self._looked_s = now
                for job, documents in queue.unarchived():
                    hand_on(job, documents)

    def archived(self, job: Job) -> None:
        """The slower sinks have a job's documents."""
        with self._queue() as queue:
            queue.archived(job)

    def close(self) -> None:
        """Let go of the locks."""
        self._urgency.close()

    def _queue(self, patience_s: float = PATIENCE_S) -> contextlib.closing[Queue]:
        """Open a connection for one use: the service's threads share none."""
        return contextlib.closing(Queue(self._settings.directory / QUEUE, patience_s=patience_s))


class _WorkerProcess:
    """The one worker that a service keeps; one that fails by itself is started again ever more rarely."""

    def __init__(self, settings: BacklogSettings) -> None:
        self._settings = settings
        self._process: Popen[bytes] | None = None
        self._started_s = -MAX_RESTART_S
        self._pause_s = RESTART_S

    def keep(self, has_work: bool, *, is_held: bool) -> None:
        """Start the worker if there is work for it and it does not run; kill one that hangs.

        ``is_held``: the live path holds the workers up, or did until a moment ago, so that silence means nothing.
        """
        if self._process is not None and self._process.poll() is None:
            if not is_held and self._hangs(self._process):
                logger.warning("the worker has given no sign of life for %.0f s: it is killed", HANGS_S)
                self._process.kill()
                self._process.wait()
            return
        now = time.monotonic()
        has_failed = self._process is not None and (self._process.poll() or 0) > 0
        if has_failed and now - self._started_s < HEALTHY_S:
            self._pause_s = min(2 * self._pause_s, MAX_RESTART_S)
            logger.warning("the worker failed, see worker.log; it is started again in %.0f s", self._pause_s)
            self._process, self._started_s = None, now
        elif has_failed or self._process is not None:
            self._process, self._pause_s = None, RESTART_S
        if self._process is None and has_work and now - self._started_s >= self._pause_s:
            self._process, self._started_s = self._start(), now

    def _hangs(self, process: Popen[bytes]) -> bool:
        """Whether the worker's sign of life, or its start, is long ago."""
        sign = sign_of_life(self._settings.directory, process.pid)
        try:
            age_s = time.time() - sign.stat().st_mtime
        except OSError:
            return time.monotonic() - self._started_s > 2 * HANGS_S  # not even begun
        return min(age_s, time.monotonic() - self._started_s) > HANGS_S

    def stop(self) -> None:
        """End the worker, politely at first."""
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
