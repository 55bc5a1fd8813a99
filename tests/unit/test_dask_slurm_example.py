"""The example of a Dask cluster on Slurm: the script of a job, and the configuration of the service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cdi_stream.config import read_config

EXAMPLE = Path(__file__).parents[2] / "deploy" / "examples" / "dask_slurm"


def script(*options):
    command = [sys.executable, str(EXAMPLE / "cluster.py"), "--show", "--port", "0", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_a_job_of_slurm_starts_a_worker_of_one_thread():
    text = script("--partition", "gpu", "--gpus", "1")
    assert "#SBATCH -p gpu" in text
    assert "#SBATCH --gres=gpu:1" in text
    assert "--nthreads 1" in text
    assert "--resources GPU=1" in text
    assert "tcp://127.0.0.1:" in text, "without certificates nobody else reaches the scheduler"


def test_the_configuration_names_the_cluster():
    refine = read_config(EXAMPLE / "beamline.toml").refine
    assert (refine.engine, refine.workers) == ("dask", 4)
