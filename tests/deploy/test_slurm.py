"""Refinement workers as jobs of a real Slurm of one node."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from cdi_stream.refine.queue import QUEUE, Queue
from sim_beamline.scan import recorded_scan
from tests.deploy.conftest import DEPLOY
from tests.deploy.slurm import slurm
from tests.refinements import enqueue_jobs
from tests.system.beamline import beamline

N_JOBS = 3
SCRIPT = DEPLOY / "examples" / "slurm" / "worker.sbatch"


def refinement_runs(line):
    """How often each kind of document of each refinement was heard by a foreign listener."""
    found = line.documents()
    runs = {
        doc["uid"]: Counter() for kind, doc in found if kind == "start" and doc.get("analysis_stage") == "refinement"
    }
    run_of = {doc["uid"]: doc["run_start"] for kind, doc in found if kind == "descriptor"}
    for kind, doc in found:
        uid = doc["uid"] if kind == "start" else doc.get("run_start") or run_of.get(doc.get("descriptor", ""))
        if uid in runs:
            runs[uid][kind] += 1
    return runs


@pytest.mark.slow
def test_jobs_of_slurm_do_the_refinements_and_put_them_back_when_they_are_cancelled(tmp_path, program, note):
    for name in ("slurmctld", "sbatch", "munged"):
        program(name)
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons are started here as root only")
    scan = recorded_scan("plain")
    folder = tmp_path / "slurm"
    folder.mkdir(mode=0o700)
    with beamline(tmp_path, scan, has_tiled=False) as line, slurm(folder) as cluster:
        results = line.config.publish.directory.resolve()
        enqueue_jobs(results, range(N_JOBS), "6000*ER", n=32)
        queue = Queue(results / QUEUE)
        command = ("sbatch", "--parsable", f"--output={folder}/job-%j.log", SCRIPT, line.config_file)

        def submit():
            return cluster.run(*command, CDI_STREAM=str(Path(sys.executable).with_name("cdi-stream")))

        number = submit()
        line.wait_until(lambda: queue.counts()["leased"] == 1, 120)
        cluster.run("scancel", number)
        line.wait_until(lambda: not cluster.states(), 60)
        left = queue.counts()
        assert left["leased"] == 0, "the worker has put its job back"
        assert left["ready"] + left["done"] + left["computed"] == N_JOBS
        submit()
        line.wait_until(lambda: queue.counts()["done"] == N_JOBS, 300)
        line.wait_until(lambda: not cluster.states(), 60)
        assert {job.attempts for job in queue.jobs()} == {1}, "a job that was put back has not been tried"
        queue.close()
        runs = refinement_runs(line)
    assert len(runs) == N_JOBS
    assert {tuple(runs[uid][kind] for kind in ("start", "event", "stop")) for uid in runs} == {(1, 1, 1)}
    note("examples/slurm/worker.sbatch", "sbatch on a real Slurm of one node", is_own=True)
