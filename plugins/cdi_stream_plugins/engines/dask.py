"""Engine that sends jobs to the workers of a Dask cluster (extra ``dask``).

Paths and plain values travel, not arrays.  The workers of the cluster must see the results folder under the same path.
A scheduler that is lost only returns its jobs to the queue.  Dask sends tasks by pickle: whoever reaches a scheduler
can run programs as its user.  The engine's own cluster is therefore bound to this machine and guarded by TLS.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

import dask
from distributed import CancelledError, Client, Future, KilledWorker, LocalCluster, wait

from cdi_stream.refine.claim import Claim, new_claim
from cdi_stream.refine.compute import RemoteTask, compute_remote, machine_name
from cdi_stream.refine.engine import EngineSettings, Outcome, Task
from cdi_stream.refine.pulse import Pulse

logger = logging.getLogger(__name__)

CONNECT_S = 5.0
"""Time [s] to wait for a scheduler, and between two attempts to reach it."""

LOOK_S = 1.0
"""Time [s] between two looks at the heartbeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """A task on the cluster, with its claim and its heartbeat."""

    future: Future[Outcome]
    claim: Claim
    pulse: Pulse


class DaskEngine:
    """Computes on a Dask cluster: at ``scheduler``, or on one of its own with ``workers`` processes on this machine."""

    is_elsewhere = True

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._version = version("cdi-stream")
        self._cluster = _own_cluster(settings) if settings.scheduler is None else None
        self._client: Client | None = None
        self._sent: dict[int, _Sent] = {}
        self._next_try_s = 0.0
        self._next_look_s = 0.0

    def n_free(self) -> int:
        """Return how many more tasks are sent; 0 without a scheduler."""
        self._connect()
        return 0 if self._client is None else self._settings.workers - len(self._sent)

    def submit(self, task: Task) -> None:
        """Send a task to the scheduler."""
        assert self._client is not None
        claim = new_claim(self._settings.directory, task.job_id)
        remote = RemoteTask(
            task=task,
            claim=claim,
            directory=self._settings.directory,
            machine=machine_name(),
            threads=self._settings.threads,
            version=self._version,
        )
        future = self._client.submit(
            _compute,
            remote,
            key=f"refinement-{task.job_id}-{claim.token}",
            pure=False,
            resources=dict(self._settings.resources) or None,
        )
        self._sent[task.job_id] = _Sent(future=future, claim=claim, pulse=Pulse(claim.path))

    def outcomes(self, is_wanted: Callable[[int], bool], wait_s: float) -> Iterator[Outcome]:
        """Yield the tasks that have ended, those that have died, and all of them where the scheduler is lost."""
        if self._client is None or self._client.status != "running":
            yield from self._lost()
            return
        if wait_s > 0:
            with contextlib.suppress(TimeoutError, CancelledError), self._client.as_current():
                wait([sent.future for sent in self._sent.values()], timeout=wait_s, return_when="FIRST_COMPLETED")
        for job_id, sent in list(self._sent.items()):
            if sent.future.status != "pending":
                outcome = _outcome(job_id, sent.future)
                self._drop(job_id)
                yield outcome
        if time.monotonic() >= self._next_look_s:
            self._next_look_s = time.monotonic() + LOOK_S
            yield from self._dead_or_unwanted(is_wanted)

    def close(self) -> None:
        """Cancel all tasks and leave the scheduler; end the own cluster."""
        for job_id in list(self._sent):
            self._drop(job_id)
        self._leave()
        if self._cluster is not None:
            self._cluster.close(timeout=CONNECT_S)

    def _connect(self) -> None:
        """Connect to the scheduler, if there is no connection and it is time for an attempt."""
        if self._client is not None or time.monotonic() < self._next_try_s:
            return
        where = self._cluster or self._settings.scheduler
        try:
            self._client = Client(where, timeout=CONNECT_S, set_as_default=False)
        except OSError as error:  # a TimeoutError too
            logger.warning(
                "expected a Dask scheduler at %s, got: %s; the jobs wait in the queue until one runs there, started by "
                "'dask scheduler'",
                self._settings.scheduler,
                error,
            )
            self._next_try_s = time.monotonic() + CONNECT_S

    def _leave(self) -> None:
        """Close the connection to the scheduler, also where the scheduler does not answer."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError):  # a TimeoutError too
                client.close(timeout=CONNECT_S)

    def _lost(self) -> Iterator[Outcome]:
        """Return all tasks to the queue, and forget the connection."""
        if self._client is not None:
            logger.warning("the Dask scheduler is lost; %d jobs go back into the queue", len(self._sent))
            self._leave()
        for job_id in list(self._sent):
            self._drop(job_id)
            yield Outcome(job_id=job_id, fate="returned", text="the Dask scheduler was lost")

    def _dead_or_unwanted(self, is_wanted: Callable[[int], bool]) -> Iterator[Outcome]:
        """End the tasks whose heartbeat has stopped, and those that are not wanted any more.

        A task that waits for a worker has no heartbeat yet; the connection to the scheduler stands for it.
        """
        for job_id, sent in list(self._sent.items()):
            age_s = sent.pulse.age_s()
            if age_s > self._settings.lease_s and sent.claim.is_taken():
                self._drop(job_id)
                yield Outcome(job_id=job_id, fate="died", text=f"no heartbeat from the Dask worker for {age_s:.0f} s")
            elif not is_wanted(job_id):
                self._drop(job_id)
                yield Outcome(job_id=job_id, fate="returned", text="the worker had to stop, or has lost the job")

    def _drop(self, job_id: int) -> None:
        """Forget a task: its claim goes, so that a process that computes it stops."""
        sent = self._sent.pop(job_id)
        sent.claim.end()
        if sent.future.status == "pending" and self._client is not None and self._client.status == "running":
            sent.future.cancel()


def _compute(remote: RemoteTask) -> Outcome:
    """Compute a task; this runs in a process of the cluster."""
    return compute_remote(remote, version("cdi-stream"))


def _own_cluster(settings: EngineSettings) -> LocalCluster:
    """Start a cluster on this machine that only this process can use; it replaces workers that are frozen."""
    options = {
        "distributed.scheduler.worker-ttl": f"{settings.lease_s}s",
        # what Dask watches of itself a hundred times a second; it costs some percent of a core
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "1s",
        "distributed.admin.system-monitor.interval": "5s",
    }
    with dask.config.set(options):
        return LocalCluster(
            n_workers=settings.workers,
            threads_per_worker=1,
            resources=dict(settings.resources),
            memory_limit=None,
            host="127.0.0.1",
            security=True,
            dashboard_address="127.0.0.1:0",  # a free port; without an address Dask takes port 8787
        )


def _outcome(job_id: int, future: Future[Outcome]) -> Outcome:
    """Return the outcome of a future that is not pending."""
    if future.status == "finished":
        try:
            result: Outcome = future.result(timeout=CONNECT_S)
        except (OSError, CancelledError) as error:  # the worker died with the result, or the scheduler
            return Outcome(job_id=job_id, fate="returned", text=f"the Dask result is lost: {error!r}")
        return result
    if future.status != "error":  # cancelled or lost with its scheduler
        return Outcome(job_id=job_id, fate="returned", text=f"the Dask task is {future.status}")
    reason = future.exception(timeout=CONNECT_S)
    if isinstance(reason, KilledWorker):
        text = "several Dask workers died over this job; is there enough memory? see their logs, then use "
        return Outcome(job_id=job_id, fate="failed", text=text + "'cdi-stream queue retry'")
    text = f"the Dask worker cannot compute: {reason!r}; install the same cdi-stream as the service's there"
    return Outcome(job_id=job_id, fate="failed", text=text)
