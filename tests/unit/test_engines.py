"""Engines: the same job in this process and on a Dask cluster, its pauses, its end, and the loss of its process."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
from distributed import LocalCluster

from cdi_stream.disk.result_folder import ResultFolder
from cdi_stream.logs import JsonFormatter
from cdi_stream.refine.claim import claim_of, new_claim
from cdi_stream.refine.compute import RemoteTask, compute_remote, machine_name
from cdi_stream.refine.engine import EngineSettings, Task
from cdi_stream.refine.progress import read_progress
from cdi_stream.refine.queue import QUEUE, Queue
from cdi_stream.refine.turn import UrgentLock
from cdi_stream_plugins.engines import dask as dask_module
from cdi_stream_plugins.engines.dask import DaskEngine
from cdi_stream_plugins.engines.local import LocalEngine
from tests.refinements import enqueue_jobs
from tests.system.browser import wait_until

LIMIT_S = 120.0
LONG = "1000000*ER"


def always(job_id):
    return True


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def task(directory):
    enqueue_jobs(directory, range(1), "3*ER")
    with contextlib.closing(Queue(directory / QUEUE)) as queue:
        (job,) = queue.jobs()
    return Task.of(job, directory, ResultFolder(base=directory))


def long(task):
    """The same job with a recipe that does not end."""
    return replace(task, spec=task.spec | {"settings": task.spec["settings"] | {"recipe": LONG}})


def settings_in(directory, **changes):
    return EngineSettings(directory=directory, is_stopped=lambda: False, **changes)


@pytest.fixture(scope="module")
def dask_engine(directory):
    with contextlib.closing(DaskEngine(settings_in(directory))) as engine:
        yield engine


@pytest.fixture
def local_engine(directory):
    with contextlib.closing(LocalEngine(settings_in(directory))) as engine:
        yield engine


@pytest.fixture(params=["local", "dask"])
def engine(request):
    return request.getfixturevalue(f"{request.param}_engine")


def outcome_of(engine, task, is_wanted=always):
    assert engine.n_free() == 1
    engine.submit(task)
    assert engine.n_free() == 0
    return end_of(engine, is_wanted)


def end_of(engine, is_wanted=always):
    end_s = time.monotonic() + LIMIT_S
    while time.monotonic() < end_s:
        for outcome in engine.outcomes(is_wanted, 0.2):
            return outcome
    raise AssertionError("no outcome")


def wait_for(condition, engine):
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s
        assert list(engine.outcomes(always, 0.2)) == []


def test_a_job_is_computed_and_only_its_documents_travel(engine, task, directory):
    outcome = outcome_of(engine, task)
    assert (outcome.job_id, outcome.fate) == (task.job_id, "computed"), outcome.text
    names = [name for name, _ in outcome.documents]
    assert (names[0], names.count("event"), names[-1]) == ("start", 1, "stop")
    data = dict(outcome.documents)["event"]["data"]
    assert data["refinement_chi2"] < data["refinement_start_chi2"] == 0.1
    with h5py.File(data["refinement_file"]) as file:
        assert np.abs(file["entry/data/crystal"][()]).max() > 0
    assert engine.n_free() == 1
    assert not claim_of(directory, task.job_id).exists()


def test_a_job_at_work_tells_how_far_it_is(engine, task):
    seen = []

    def look(job_id):
        seen.append(read_progress(task.progress))
        return not any(seen)

    assert outcome_of(engine, long(task), look).fate == "returned"
    (progress,) = filter(None, seen)
    assert 0 <= progress.share < 1
    wait_until(lambda: not task.progress.exists(), LIMIT_S)


def test_the_log_of_a_job_names_its_run_and_curve(local_engine, task, monkeypatch):
    def break_down(*_):
        raise ZeroDivisionError("no reason")

    monkeypatch.setattr("cdi_stream.refine.compute.run_job", break_down)
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonFormatter())
    logging.getLogger("cdi_stream").addHandler(handler)
    try:
        assert outcome_of(local_engine, task).fate == "failed"
    finally:
        logging.getLogger("cdi_stream").removeHandler(handler)
    (line,) = handler.stream.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["run"], entry["curve_index"]) == ("error", task.spec["raw_uid"], 0)
    assert "ZeroDivisionError" in entry["exception"]


def test_a_job_that_cannot_be_computed_says_why(engine, task):
    outcome = outcome_of(engine, replace(task, input=task.input.with_name("none.h5")))
    assert outcome.fate == "failed"
    assert "none.h5: expected the input of a refinement" in outcome.text


def test_a_job_goes_back_where_the_disk_takes_no_result(engine, task):
    outcome = outcome_of(engine, replace(task, results=ResultFolder(base=task.input)))  # a file, no folder
    assert outcome.fate == "unwritten", outcome.text


def test_a_job_that_is_not_wanted_any_more_stops(engine, task):
    looks = iter([True, True])
    outcome = outcome_of(engine, long(task), lambda job_id: next(looks, False))
    assert outcome.fate == "returned"
    assert outcome_of(engine, task).fate == "computed", "its process is free again"


def test_a_job_of_the_cluster_pauses_while_a_curve_is_urgent(dask_engine, task, directory):
    with contextlib.closing(UrgentLock(directory)) as urgency:
        urgency.begin()
        dask_engine.submit(task)
        for _ in range(8):
            assert list(dask_engine.outcomes(always, 0.2)) == []
        urgency.end()
        assert end_of(dask_engine).fate == "computed"


def test_a_job_whose_process_is_frozen_counts_as_dead(dask_engine, task, monkeypatch):
    (pid,) = dask_engine._client.run(os.getpid).values()
    dask_engine.submit(long(task))
    wait_for(dask_engine._sent[task.job_id].claim.is_taken, dask_engine)
    os.kill(pid, signal.SIGSTOP)
    try:
        with monkeypatch.context() as patch:  # shorter than a process of idle priority may starve on a busy machine
            patch.setattr(dask_engine, "_settings", replace(dask_engine._settings, lease_s=3.0))
            assert end_of(dask_engine).fate == "died"
        dask_engine.submit(task)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert end_of(dask_engine).fate == "computed", "the frozen process stops the former job and goes on"


def test_without_a_scheduler_no_job_is_taken(directory, caplog, monkeypatch):
    monkeypatch.setattr(dask_module, "CONNECT_S", 0.5)
    with contextlib.closing(DaskEngine(settings_in(directory, scheduler="tcp://127.0.0.1:1"))) as engine:
        assert engine.n_free() == 0
        assert engine.n_free() == 0
    assert caplog.text.count("expected a Dask scheduler at tcp://127.0.0.1:1") == 1


@pytest.mark.slow
def test_the_jobs_of_a_lost_scheduler_go_back_and_the_next_one_is_found(directory, task):
    kinds = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    with LocalCluster(**kinds) as cluster:
        address = cluster.scheduler_address
        engine = DaskEngine(settings_in(directory, scheduler=address))
        assert engine.n_free() == 1
        engine.submit(long(task))
        wait_for(engine._sent[task.job_id].claim.is_taken, engine)
    assert end_of(engine).fate == "returned"
    assert engine.n_free() == 0
    with LocalCluster(**kinds, scheduler_port=int(address.rsplit(":", 1)[1])):
        end_s = time.monotonic() + LIMIT_S
        while engine.n_free() == 0:
            assert time.monotonic() < end_s
            time.sleep(0.1)
        assert outcome_of(engine, task).fate == "computed"
        engine.close()


# --- in the process of a cluster ------------------------------------------------------------------------------


@pytest.fixture
def remote(task, directory):
    claim = new_claim(directory, task.job_id)
    return RemoteTask(
        task=task, claim=claim, directory=directory, machine="another", threads=1, version="1"
    )  # fmt: skip


def test_another_version_is_refused(remote):
    outcome = compute_remote(remote, "2")
    assert outcome.fate == "failed"
    assert "expected cdi-stream 1 on" in outcome.text


def test_a_folder_that_the_machine_does_not_see_is_named(remote, tmp_path):
    outcome = compute_remote(replace(remote, directory=tmp_path / "none"), "1")
    assert outcome.fate == "failed"
    assert f"expected the results folder {tmp_path / 'none'} on" in outcome.text


def test_a_job_with_a_newer_claim_is_left_alone(remote, directory):
    new_claim(directory, remote.task.job_id)
    assert compute_remote(remote, "1").fate == "returned"


def test_another_machine_does_not_pause_for_the_live_path(remote, directory):
    with contextlib.closing(UrgentLock(directory)) as urgency:
        urgency.begin()
        assert compute_remote(remote, "1").fate == "computed"


def test_a_machine_has_a_name():
    assert machine_name() == machine_name() != ""
