"""The service's side of refinement: enqueue, hold the workers up, keep one worker running, hear and hand on results."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

import zmq

from cdi_stream import bus
from cdi_stream.affine import Shape
from cdi_stream.live.publish import Provenance, Result
from cdi_stream.messages import RunContext
from cdi_stream.processes import start_child
from cdi_stream.refine.inputs import INPUTS, write_input
from cdi_stream.refine.jobs import spec_of
from cdi_stream.refine.methods import MethodSettings
from cdi_stream.refine.outbox import Witness
from cdi_stream.refine.queue import QUEUE, Document, Job, Queue, open_queue
from cdi_stream.refine.turn import Urgency

logger = logging.getLogger(__name__)

RESTART_S, MAX_RESTART_S, HEALTHY_S = 1.0, 120.0, 20.0
STOP_S = 10.0
TROUBLE_S = 10.0
LOOK_EVERY_S = 1.0
RETRY_S = 60.0
"""An archive that refused a run is asked again after this."""

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
    """One object for the service's threads: `enqueue` and `hold` from any, `run` is the body of a thread of its own.

    Each published job is handed on with its documents, again after a while unless `archived` is told of it.
    """

    def __init__(self, settings: BacklogSettings) -> None:
        self._settings = settings
        self._urgency = Urgency(settings.directory)
        self._looked_s = 0.0
        self._handed_on_s: dict[int, float] = {}
        open_queue(settings.directory / QUEUE).close()

    def hold(self, is_urgent: bool) -> None:
        """Hold the workers up, or let them go on."""
        (self._urgency.begin if is_urgent else self._urgency.end)()

    def enqueue(self, result: Result, run: RunContext, reconstruction_uid: str) -> None:
        """Queue the refinements of a reconstruction, durably, before anybody is told of it."""
        if result.phased is None:
            return
        s = self._settings
        spec = spec_of(result, run, reconstruction_uid, s.provenance, s.method_settings, s.lab_shape)
        write_input(s.directory / INPUTS / spec.input, result.phased)
        with self._queue() as queue:
            for method in s.methods:
                queue.enqueue(spec.key(method), method, spec.model_dump(mode="json"), spec.input)

    def state(self) -> dict[str, Any]:
        """Jobs by state, and what is being refined now."""
        try:
            with self._queue() as queue:
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
                except Exception:
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
        witness = Witness(socket, queue, self._settings.prefix, bus.reader(self._settings.serializer))
        while not is_stopped():
            witness.listen(200)
            worker.keep(queue.has_work())
            now = time.monotonic()
            if now - self._looked_s > LOOK_EVERY_S:
                self._looked_s = now
                for job, documents in queue.unarchived():
                    if now - self._handed_on_s.get(job.id, -RETRY_S) >= RETRY_S:
                        self._handed_on_s[job.id] = now
                        hand_on(job, documents)

    def archived(self, job: Job) -> None:
        """The slower sinks have a job's documents."""
        self._handed_on_s.pop(job.id, None)
        with self._queue() as queue:
            queue.archived(job)

    def close(self) -> None:
        """Let go of the locks."""
        self._urgency.close()

    def _queue(self) -> contextlib.closing[Queue]:
        """Open a connection for one use: the service's threads share none."""
        return contextlib.closing(Queue(self._settings.directory / QUEUE))


class _WorkerProcess:
    """The one worker that a service keeps; one that fails by itself is started again ever more rarely."""

    def __init__(self, settings: BacklogSettings) -> None:
        self._settings = settings
        self._process: Popen[bytes] | None = None
        self._started_s = -MAX_RESTART_S
        self._pause_s = RESTART_S

    def keep(self, has_work: bool) -> None:
        """Start the worker if there is work for it and it does not run."""
        if self._process is not None and self._process.poll() is None:
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
