"""The service's side of refinement: enqueue, hold the workers up, keep one worker running, hear and hand on results."""

from __future__ import annotations

import contextlib
import logging
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
from cdi_stream.refine.queue import QUEUE, Document, Job, Queue
from cdi_stream.refine.turn import Urgency

logger = logging.getLogger(__name__)

RESTART_S = 1.0
STOP_S = 10.0

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

    ``archive`` is given each published job with its documents and returns whether the slower sinks have them.
    """

    def __init__(self, settings: BacklogSettings) -> None:
        self._settings = settings
        self._urgency = Urgency(settings.directory)

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
        with self._queue() as queue:
            leased, counts = queue.jobs("leased"), queue.counts()
        current = (
            f"{leased[0].method}, run {leased[0].spec['raw_uid'][:8]} curve {leased[0].spec['curve_index']}"
            if leased
            else None
        )
        return {"queue": counts, "refinement": current}

    def run(self, is_stopped: Callable[[], bool], archive: Callable[[Job, list[Document]], None]) -> None:
        """Keep a worker while there is work, note what is heard on the bus, hand on what is published."""
        worker, started_s = None, 0.0
        context = zmq.Context()
        with context, self._queue() as queue, bus.listen(context, self._settings.subscribe) as socket:
            witness = Witness(socket, queue, self._settings.prefix, bus.reader(self._settings.serializer))
            handed_on: set[int] = set()
            while not is_stopped():
                witness.listen(200)
                for job, documents in queue.unarchived():
                    if job.id not in handed_on:
                        handed_on.add(job.id)
                        archive(job, documents)
                is_due = time.monotonic() - started_s > RESTART_S
                if (worker is None or worker.poll() is not None) and is_due and queue.has_work():
                    worker, started_s = self._start_worker(), time.monotonic()
            _stop(worker)
            witness.listen(0)

    def archived(self, job: Job) -> None:
        """The slower sinks have a job's documents."""
        with self._queue() as queue:
            queue.archived(job)

    def close(self) -> None:
        """Let go of the locks."""
        self._urgency.close()

    def _queue(self) -> contextlib.closing[Queue]:
        """Open a connection for one use: the service's threads share none."""
        return contextlib.closing(Queue(self._settings.directory / QUEUE))

    def _start_worker(self) -> Popen[bytes]:
        command = [sys.executable, "-m", "cdi_stream", "worker", "--config", str(self._settings.config_file)]
        environment = {name: str(self._settings.threads) for name in THREAD_VARIABLES}
        with (self._settings.directory / "worker.log").open("ab") as log:
            return start_child(command, log, **environment)


def _stop(worker: Popen[bytes] | None) -> None:
    if worker is None or worker.poll() is not None:
        return
    worker.terminate()
    try:
        worker.wait(STOP_S)
    except TimeoutExpired:
        logger.warning("the worker does not end: it is killed; its job stays in the queue")
        worker.kill()
        worker.wait()
