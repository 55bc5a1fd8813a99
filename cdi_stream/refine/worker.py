"""The worker: one process behind the live path, niced and with few threads, that takes jobs and publishes results."""

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

from cdi_stream.documents import bus
from cdi_stream.errors import CdiStreamError
from cdi_stream.protocols import Sink
from cdi_stream.refine.inputs import INPUTS, read_input
from cdi_stream.refine.jobs import JobSpec, documents_of, refined
from cdi_stream.refine.outbox import DeliveryMonitor, Outbox
from cdi_stream.refine.queue import QUEUE, Job, Queue
from cdi_stream.refine.turn import Stopped, Turn, grave, sign_of_life, slot

logger = logging.getLogger(__name__)

LEASE_S = 120.0
MAX_ATTEMPTS = 3
"""A job that took so many workers with it is not given to another."""

REST_S = 60.0
"""After trouble with the disk."""

_RENEW_S = LEASE_S / 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Where the queue and the bus are, and how much of the machine may be used."""

    directory: Path
    subscribe: str
    prefix: str
    serializer: str
    threads: int = 1


class Worker:
    """Takes jobs one after another until stopped."""

    def __init__(
        self, directory: Path, owner: str, queue: Queue, outbox: Outbox, turn: Turn, is_stopped: Callable[[], bool]
    ) -> None:
        self._directory = directory
        self._owner = owner
        self._queue = queue
        self._outbox = outbox
        self._turn = turn
        self._is_stopped = is_stopped
        self._renewed_s = 0.0
        self._rest_until_s = 0.0
        self._signed_s = 0.0
        self._sign = sign_of_life(directory, os.getpid())

    def step(self) -> bool:
        """Send what is computed, then do one job; False if there was none."""
        self._live()
        self._bury_the_dead()
        self._outbox.send(self._owner, self._is_stopped)
        is_resting = self._is_stopped() or time.monotonic() < self._rest_until_s
        job = None if is_resting else self._queue.lease(self._owner, LEASE_S)
        if job is None:
            return False
        try:
            self._do(job)
        except Stopped:
            self._queue.give_back(job, self._owner)
        except OSError:
            logger.exception("refinement %d: given back; is the disk full?", job.id)
            self._queue.give_back(job, self._owner)
            self._rest_until_s = time.monotonic() + REST_S
        except CdiStreamError as error:
            self._queue.fail(job, self._owner, str(error))
        except Exception as error:  # border of the worker process: a job that fails is marked so
            logger.exception("refinement %d failed", job.id)
            self._queue.fail(job, self._owner, f"our fault: {error!r}; please report it with the worker's log")
        return True

    def _do(self, job: Job) -> None:
        if job.attempts > MAX_ATTEMPTS:
            raise CdiStreamError(
                f"set aside: {MAX_ATTEMPTS} workers died or hung over this job; is there enough memory? see "
                "worker.log, then 'cdi-stream queue retry'"
            )
        self._renewed_s = time.monotonic()
        spec = JobSpec.model_validate(job.spec)
        phased = read_input(self._directory / INPUTS / job.input)
        result = refined(spec, job.method, phased, lambda: self._wait(job))
        self._queue.complete(job, self._owner, documents_of(spec, job.method, result, self._directory))
        logger.info(
            "refinement %d (%s): chi2 %.4f -> %.4f, %s, %.0f s",
            job.id,
            job.method,
            spec.start_chi2,
            result.scalars["chi2"],
            result.verdict.grade,
            result.scalars["seconds"],
        )
        self._outbox.send(self._owner, self._is_stopped)

    def _wait(self, job: Job) -> None:
        """Wait for one's turn before each step, keeping the lease alive; a lost lease ends the work."""
        self._turn.wait(lambda: self._renew(job))

    def _live(self) -> None:
        """Give a sign of life, once a second."""
        if time.monotonic() - self._signed_s > 1.0:
            self._signed_s = time.monotonic()
            with contextlib.suppress(OSError):
                self._sign.touch()

    def close(self) -> None:
        """Take the sign of life away."""
        self._sign.unlink(missing_ok=True)

    def _renew(self, job: Job) -> None:
        self._live()
        if time.monotonic() - self._renewed_s > _RENEW_S:
            self._renewed_s = time.monotonic()
            if not self._queue.renew(job, self._owner, LEASE_S):
                raise Stopped

    def _bury_the_dead(self) -> None:
        for owner in self._queue.owners() - {self._owner}:
            with grave(self._directory, owner) as is_dead:
                if is_dead:
                    self._queue.take_over(owner, self._owner)


def run_worker(settings: WorkerSettings, sink: Sink, is_stopped: Callable[[], bool], *, ends_when_idle: bool) -> None:
    """Work until stopped, or until there is nothing left if ``ends_when_idle``."""
    step_back(settings.threads)
    with _open(settings, sink, is_stopped) as (worker, witness):
        while not is_stopped():
            if worker.step():
                continue
            if ends_when_idle:
                return
            witness.listen(200)


def step_back(threads: int) -> None:
    """Leave the machine to others: few threads, and idle scheduling where the system has it."""
    torch.set_num_threads(threads)
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


@contextlib.contextmanager
def _open(
    settings: WorkerSettings, sink: Sink, is_stopped: Callable[[], bool]
) -> Iterator[tuple[Worker, DeliveryMonitor]]:
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        socket = bus.listen(context, settings.subscribe)
        stack.callback(socket.close, 0)
        stack.callback(sink.close)
        queue = stack.enter_context(contextlib.closing(Queue(settings.directory / QUEUE)))
        turn = stack.enter_context(contextlib.closing(Turn(settings.directory, is_stopped)))
        owner = stack.enter_context(slot(settings.directory))
        queue.take_over(owner, owner)  # what the last worker of this slot left
        witness = DeliveryMonitor(socket, queue, settings.prefix, bus.reader(settings.serializer))
        outbox = Outbox(queue, sink, witness, lambda job: clean_up(queue, job, settings.directory))
        worker = Worker(settings.directory, owner, queue, outbox, turn, is_stopped)
        stack.callback(worker.close)
        yield worker, witness


def clean_up(queue: Queue, job: Job, directory: Path) -> None:
    """Remove the input of a published job, unless another job needs it still."""
    if not queue.needs_input(job.input):
        (directory / INPUTS / job.input).unlink(missing_ok=True)
