"""Worker: what becomes of a job in the queue when an engine computes it, loses it, or must let it go."""

from __future__ import annotations

import contextlib
import threading
import time
from types import SimpleNamespace

import pytest
import zmq

from cdi_stream.disk.result_folder import ResultFolder
from cdi_stream.documents import bus
from cdi_stream.refine import worker as worker_module
from cdi_stream.refine.control import cancel_job, retry_job
from cdi_stream.refine.engine import EngineSettings, Outcome
from cdi_stream.refine.inputs import INPUTS
from cdi_stream.refine.outbox import DeliveryMonitor, Outbox
from cdi_stream.refine.queue import QUEUE, Queue
from cdi_stream.refine.worker import MAX_ATTEMPTS, Worker, WorkerSettings
from cdi_stream_plugins.engines.local import LocalEngine
from tests.refinements import enqueue_jobs

NOWHERE = "tcp://127.0.0.1:1"
LONG = "1000000*ER"


class ClusterEngine:
    """Engine of a cluster with two processes, whose outcomes a test sets."""

    is_elsewhere = True

    def __init__(self):
        self.tasks = []
        self.fates = []
        self.is_closed = False

    def n_free(self):
        return 2 - len(self.tasks)

    def submit(self, task):
        self.tasks.append(task)

    def outcomes(self, is_wanted, wait_s):
        while self.fates:
            task = self.tasks.pop(0)
            yield Outcome(job_id=task.job_id, fate=self.fates.pop(0), text="why")

    def close(self):
        self.is_closed = True


class Workplace:
    """A results folder with a queue, and workers on it."""

    def __init__(self, folder, stack):
        self.folder = folder
        self.stack = stack
        self.is_stopped = threading.Event()
        self.queue = stack.enter_context(contextlib.closing(Queue(folder / QUEUE)))

    def worker(self, engine, least_free_bytes=0):
        context = self.stack.enter_context(zmq.Context())
        socket = self.stack.enter_context(contextlib.closing(bus.listen(context, NOWHERE)))
        socket.linger = 0
        monitor = DeliveryMonitor(socket, self.queue, "", bus.reader("msgpack"))
        outbox = Outbox(self.queue, lambda name, doc: None, monitor, lambda job: None)
        settings = WorkerSettings(
            directory=self.folder,
            results=ResultFolder(base=self.folder),
            subscribe=NOWHERE,
            prefix="",
            serializer="msgpack",
            least_free_bytes=least_free_bytes,
        )
        return Worker(settings, "worker_0", self.queue, outbox, engine, self.is_stopped.is_set)

    def local_engine(self):
        settings = EngineSettings(directory=self.folder, is_stopped=self.is_stopped.is_set)
        return self.stack.enter_context(contextlib.closing(LocalEngine(settings)))

    def states(self):
        return [(job.state, job.attempts) for job in self.queue.jobs()]


@pytest.fixture
def place(tmp_path):
    with contextlib.ExitStack() as stack:
        yield Workplace(tmp_path, stack)


def at_work(place, act):
    """Run one step of a local worker, and ``act`` in another thread when the worker has the job."""

    def when_leased():
        with contextlib.closing(Queue(place.folder / QUEUE)) as queue:
            while not queue.jobs("leased"):
                time.sleep(0.02)
        act()

    thread = threading.Thread(target=when_leased)
    thread.start()
    worker = place.worker(place.local_engine())
    assert worker.step()
    thread.join()
    return worker


def test_a_job_that_an_operator_cancels_stops(place, monkeypatch):
    monkeypatch.setattr(worker_module, "RENEW_S", 0.1)
    enqueue_jobs(place.folder, range(1), LONG)
    at_work(place, lambda: cancel_job(place.folder, 1))
    assert place.states() == [("cancelled", 1)]
    retry_job(place.folder, 1)
    assert place.states() == [("ready", 0)]


def test_a_worker_that_must_end_leaves_its_job_as_it_was(place):
    enqueue_jobs(place.folder, range(1), LONG)
    worker = at_work(place, place.is_stopped.set)
    assert place.states() == [("ready", 0)]
    assert not worker.step()


def test_refinement_stops_while_the_disk_is_nearly_full_and_goes_on_by_itself(place, monkeypatch):
    free = [10e9]
    monkeypatch.setattr(worker_module, "SPACE_EVERY_S", 0.0)
    monkeypatch.setattr("cdi_stream.disk.space.shutil.disk_usage", lambda _: SimpleNamespace(free=int(free[0])))
    enqueue_jobs(place.folder, range(1), "50*ER")
    engine = ClusterEngine()
    worker = place.worker(engine, least_free_bytes=2_000_000_000)
    free[0] = 1e9
    assert not worker.step()
    assert place.states() == [("ready", 0)]
    free[0] = 3e9
    assert worker.step()
    assert place.states() == [("leased", 0)]
    free[0] = 1e9
    assert not worker._is_wanted(1), "a job at work stops"
    free[0] = 3e9
    assert worker._is_wanted(1)
    worker.close()


def test_a_job_that_cannot_be_computed_fails_with_the_reason(place):
    enqueue_jobs(place.folder, range(1), "1*ER")
    for path in (place.folder / INPUTS).iterdir():
        path.unlink()
    assert place.worker(place.local_engine()).step()
    (job,) = place.queue.jobs()
    assert job.state == "failed"
    assert "expected the input of a refinement" in job.error


def test_a_cluster_gets_as_many_jobs_as_it_takes_and_none_counts_as_an_attempt(place):
    enqueue_jobs(place.folder, range(3), "1*ER")
    engine = ClusterEngine()
    worker = place.worker(engine)
    assert worker.step()
    assert place.states() == [("leased", 0), ("leased", 0), ("ready", 0)]
    assert [task.input.exists() for task in engine.tasks] == [True, True]
    engine.fates = ["failed"]
    worker.step()
    worker.step()
    assert place.states() == [("failed", 0), ("leased", 0), ("leased", 0)]
    worker.close()
    assert engine.is_closed
    assert place.states() == [("failed", 0), ("ready", 0), ("ready", 0)]


def test_a_job_whose_processes_die_again_and_again_fails(place):
    enqueue_jobs(place.folder, range(1), "1*ER")
    engine = ClusterEngine()
    worker = place.worker(engine)
    for n in range(MAX_ATTEMPTS):
        assert place.states() == [("ready", n)]
        engine.fates = ["died"]
        worker.step()
    assert not worker.step()
    (job,) = place.queue.jobs()
    assert job.state == "failed"
    assert "workers died or hung over this job" in job.error


def test_a_lost_scheduler_only_puts_jobs_back(place):
    enqueue_jobs(place.folder, range(1), "1*ER")
    engine = ClusterEngine()
    worker = place.worker(engine)
    for _ in range(2 * MAX_ATTEMPTS):
        engine.fates = ["returned"]
        worker.step()
        assert place.states() == [("ready", 0)]


def test_after_an_error_of_the_disk_no_job_is_taken_for_a_while(place):
    enqueue_jobs(place.folder, range(1), "1*ER")
    engine = ClusterEngine()
    engine.fates = ["unwritten"]
    worker = place.worker(engine)
    worker.step()
    assert not worker.step()
    assert place.states() == [("ready", 0)]


def test_jobs_of_a_dead_worker_are_taken_over(place):
    enqueue_jobs(place.folder, range(2), "1*ER")
    assert place.queue.lease("worker_7", 1e6) is not None
    worker = place.worker(ClusterEngine())
    worker.step()
    assert [job.owner for job in place.queue.jobs("leased")] == ["worker_0", "worker_0"]
