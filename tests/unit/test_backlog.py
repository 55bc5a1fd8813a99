"""Requests for refinements: the live path waits for no lock and no disk, and a worker that hangs is replaced."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from cdi_stream.messages import RunContext
from cdi_stream.refine import backlog as module
from cdi_stream.refine.backlog import REQUESTS, Backlog
from cdi_stream.refine.queue import QUEUE, Queue
from cdi_stream.refine.turn import heartbeat_file
from cdi_stream.refine.worker_process import WorkerProcess
from tests.refinements import result_of, settings_of


@pytest.fixture
def backlog(tmp_path):
    settings = settings_of(tmp_path, methods=("recipe", "object"))
    with contextlib.closing(Backlog(settings)) as made:
        yield made


def jobs(directory):
    with contextlib.closing(Queue(directory / QUEUE)) as queue:
        return [(job.method, job.spec["raw_uid"]) for job in queue.jobs()]


def enqueue(backlog, directory):
    with contextlib.closing(Queue(directory / QUEUE, patience_s=0.1)) as queue:
        backlog.enqueue_requests(queue)


def test_a_locked_queue_holds_nobody_up_and_loses_nothing(backlog, tmp_path):
    holder = sqlite3.connect(tmp_path / QUEUE, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    began_s = time.monotonic()
    backlog.ask(result_of(), RunContext(uid="raw", sample="gold"), "reconstruction")
    assert time.monotonic() - began_s < 2.0
    assert len(list((tmp_path / REQUESTS).iterdir())) == 1
    with pytest.raises(sqlite3.OperationalError):
        enqueue(backlog, tmp_path)
    holder.execute("ROLLBACK")
    holder.close()
    enqueue(backlog, tmp_path)
    assert jobs(tmp_path) == [("recipe", "raw"), ("object", "raw")]
    assert list((tmp_path / REQUESTS).iterdir()) == []
    enqueue(backlog, tmp_path)
    assert len(jobs(tmp_path)) == 2


def test_a_full_disk_holds_nobody_up_and_the_request_is_written_later(backlog, tmp_path, monkeypatch):
    def full(path, phased):
        raise OSError(errno.ENOSPC, "no space left")

    whole = module.write_input
    monkeypatch.setattr(module, "write_input", full)
    backlog.ask(result_of(), RunContext(uid="raw"), "reconstruction")
    enqueue(backlog, tmp_path)
    assert jobs(tmp_path) == []
    monkeypatch.setattr(module, "write_input", whole)
    enqueue(backlog, tmp_path)
    assert len(jobs(tmp_path)) == 2


def test_a_request_that_is_none_is_put_aside(backlog, tmp_path):
    (tmp_path / REQUESTS).mkdir()
    (tmp_path / REQUESTS / "odd.json").write_text("{}")
    backlog.ask(result_of(), RunContext(uid="raw"), "reconstruction")
    enqueue(backlog, tmp_path)
    assert len(jobs(tmp_path)) == 2
    assert [path.suffix for path in (tmp_path / REQUESTS).iterdir()] == [".broken"]


def test_nothing_is_asked_of_a_curve_without_a_crystal(backlog, tmp_path):
    backlog.ask(replace(result_of(), phased=None), RunContext(uid="raw"), "reconstruction")
    enqueue(backlog, tmp_path)
    assert jobs(tmp_path) == []


# --- a worker that hangs ------------------------------------------------------------------------------------------


LIVES = """
import pathlib, sys, time
sign = pathlib.Path(sys.argv[1]) / f"worker-{__import__('os').getpid()}.alive"
while True:
    sign.touch()
    time.sleep(0.05)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Return a worker process with a heartbeat, and the object that keeps it."""
    kept = WorkerProcess(tmp_path, tmp_path / "none.toml", 1, 1.0)
    started = []

    def start():
        started.append(subprocess.Popen([sys.executable, "-c", LIVES, str(tmp_path)]))
        return started[-1]

    monkeypatch.setattr(kept, "_start", start)
    yield kept, started
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition, timeout_s=300.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def keep(kept, seconds, *, is_held=False):
    """Look after the worker for a time [s], as the service does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        kept.keep(True, is_held=is_held)
        time.sleep(0.05)


def test_a_worker_that_is_frozen_is_killed_and_replaced(worker, tmp_path):
    kept, started = worker
    kept.keep(True, is_held=False)
    wait_for(lambda: heartbeat_file(tmp_path, started[0].pid).exists())
    keep(kept, 1.5)
    assert started[0].poll() is None, "one that lives is left alone"
    os.kill(started[0].pid, signal.SIGSTOP)
    keep(kept, 1.5, is_held=True)
    assert started[0].poll() is None, "one that is held up may be silent"
    kept.keep(True, is_held=False)
    assert started[0].poll() == -signal.SIGKILL

    def is_replaced():
        kept.keep(True, is_held=False)
        return len(started) == 2

    wait_for(is_replaced)


def test_old_jobs_and_their_inputs_are_deleted(backlog, tmp_path):
    backlog.ask(result_of(), RunContext(uid="raw"), "reconstruction")
    enqueue(backlog, tmp_path)
    with contextlib.closing(Queue(tmp_path / QUEUE)) as queue:
        assert queue.cancel(1)
        backlog.prune(queue)
        assert len(queue.jobs()) == 2, "it is neither old nor one of many"
        backlog._settings = replace(backlog._settings, keep_done_jobs=0)
        backlog.prune(queue)
        assert [job.method for job in queue.jobs()] == ["object"]
        assert len(list((tmp_path / "jobs").glob("*.h5"))) == 1, "the other job needs it"
        assert queue.cancel(2)
        backlog.prune(queue)
    assert list((tmp_path / "jobs").glob("*.h5")) == []
