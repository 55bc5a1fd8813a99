"""Backup and return of a results folder that is in use: the same jobs and the same documents."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cdi_stream.disk.atomic import atomic_write
from cdi_stream.documents.spool import BUS, SPOOL, Spool
from cdi_stream.errors import ConfigError, InputError
from cdi_stream.live.backup import back_up, backups, restore
from cdi_stream.refine.inputs import INPUTS
from cdi_stream.refine.queue import QUEUE, Queue
from cdi_stream.refine.turn import slot
from tests.system.browser import wait_until
from tests.unit.test_config import MINIMAL

SPEC = {"raw_uid": "5d0c", "curve_index": 0}


@pytest.fixture
def results(tmp_path) -> Path:
    """A folder with a job in each state, their inputs, and documents on their way."""
    directory = tmp_path / "results"
    (directory / INPUTS).mkdir(parents=True)
    with contextlib.closing(Queue(directory / QUEUE)) as queue:
        for n in range(5):
            add(directory, queue, f"job {n}")
        computed, failed, _ = (queue.lease("worker_0", 100.0) for _ in range(3))
        assert queue.complete(computed, "worker_0", [("start", {"uid": "a"}), ("stop", {"uid": "b"})])
        queue.fail(failed, "worker_0", "no room")
        assert queue.cancel(4)
    spool = Spool(directory)
    spool.put("run", [("start", {"uid": "run", "original_run_uid": "5d0c"}), ("event", {"uid": "e"})], curve_key="c")
    spool.close()
    (directory / "tiled.json").write_text('{"uri": "u"}')
    return directory


def add(directory, queue, key):
    with atomic_write(directory / INPUTS / f"{key}.h5") as part:
        part.write_text(key)
    assert queue.enqueue(key, "auto", SPEC, f"{key}.h5")


def jobs(directory):
    with contextlib.closing(Queue(directory / QUEUE)) as queue:
        return queue.jobs(), [queue.documents_to_send(job) for job in queue.jobs()]


def waiting(directory):
    spool = Spool(directory)
    try:
        return spool.waiting(BUS), spool.is_published("c")
    finally:
        spool.close()


def test_a_backup_that_is_put_back_gives_the_same_jobs_and_documents(results, tmp_path):
    before = jobs(results), waiting(results)
    folder = back_up(results, tmp_path / "backups", keep=3)
    shutil.rmtree(results)
    assert set(restore(folder, results)) >= {QUEUE, SPOOL, INPUTS, "tiled.json"}
    assert (jobs(results), waiting(results)) == before
    assert {file.name: file.read_text() for file in (results / INPUTS).iterdir()} == {
        f"job {n}.h5": f"job {n}" for n in range(5)
    }


def test_what_is_there_is_kept_under_another_name(results, tmp_path):
    folder = back_up(results, tmp_path / "backups", keep=3)
    with contextlib.closing(Queue(results / QUEUE)) as queue:
        add(results, queue, "later")
        restore(folder, results)
    assert len(jobs(results)[0]) == 5
    (aside,) = (path for path in results.glob(f"{QUEUE}.*.broken"))
    with contextlib.closing(Queue(aside)) as queue:
        assert len(queue.jobs()) == 6


def test_every_waiting_job_of_a_backup_of_a_busy_queue_has_its_input(results, tmp_path):
    is_over, done, folders = threading.Event(), [], []

    def work():
        """Queue jobs and do others, as service and worker do."""
        with contextlib.closing(Queue(results / QUEUE)) as queue:
            for n in range(100_000):
                if is_over.is_set():
                    return
                add(results, queue, f"new {n}")
                job = queue.lease("worker_1", 100.0)
                queue.complete(job, "worker_1", [("start", {"uid": f"uid {n}"})])
                queue.finish(job)
                (results / INPUTS / job.input).unlink()
                done.append(n)

    busy = threading.Thread(target=work)
    busy.start()
    try:
        for _ in range(20):
            n_before = len(done)
            wait_until(lambda n=n_before: len(done) > n, 60, "another job")
            folders.append(back_up(results, tmp_path / "backups", keep=20))
    finally:
        is_over.set()
        busy.join()
    n_jobs = set()
    for folder in folders:
        with contextlib.closing(Queue(folder / QUEUE)) as queue:
            n_jobs.add(len(queue.jobs()))
            for job in (*queue.jobs("ready"), *queue.jobs("leased")):
                assert (folder / INPUTS / job.input).exists(), job
    assert len(n_jobs) > 2, "the queue was not busy"


def test_a_folder_in_use_is_not_overwritten(results, tmp_path):
    folder = back_up(results, tmp_path / "backups", keep=3)
    with slot(results), pytest.raises(ConfigError, match="in use by a worker"):
        restore(folder, results)
    with contextlib.closing(Spool(results)), pytest.raises(ConfigError, match="in use by another service"):
        restore(folder, results)
    assert len(jobs(results)[0]) == 5


def test_old_backups_go_and_a_failed_one_leaves_nothing(results, tmp_path):
    target, begin = tmp_path / "backups", datetime(2026, 11, 29, tzinfo=UTC)
    made = [back_up(results, target, keep=2, now=begin + timedelta(days=k)) for k in range(4)]
    assert backups(target) == made[-2:]
    (results / SPOOL).write_bytes(b"SQLite format 3\0 and then nothing of it" * 200)
    with pytest.raises(InputError, match=SPOOL):
        back_up(results, target, keep=2)
    assert sorted(target.iterdir()) == made[-2:], "the good ones are kept"


def test_what_is_no_results_folder_and_no_backup_is_refused(results, tmp_path):
    with pytest.raises(InputError, match="expected the results folder"):
        back_up(tmp_path, tmp_path / "backups", keep=3)
    with pytest.raises(InputError, match="expected a folder from 'cdi-stream backup'"):
        restore(tmp_path, results)
    folder = back_up(results, tmp_path / "backups", keep=3)
    with sqlite3.connect(folder / QUEUE) as db:
        db.execute("PRAGMA writable_schema = 1")
        db.execute("UPDATE sqlite_master SET rootpage = 9999 WHERE name = 'jobs'")
    with pytest.raises(InputError, match="without damage"):
        restore(folder, results)
    assert len(jobs(results)[0]) == 5


def test_the_commands(results, tmp_path):
    (tmp_path / "beamline.toml").write_text(MINIMAL + f'[publish]\ndirectory = "{results}"\n')

    def run(*arguments):
        call = [sys.executable, "-m", "cdi_stream", *arguments, "--config", "beamline.toml", "--json"]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    folder = run("backup", "--out", "backups")["backup"]
    shutil.rmtree(results)
    assert QUEUE in run("restore", folder)["restored"]
    assert len(jobs(results)[0]) == 5
