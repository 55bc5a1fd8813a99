"""Dask cluster on Slurm for the refinement queue; it runs until Ctrl-C.

    python cluster.py --partition gpu --max-jobs 4 --gpus 1 --certificates /shared/cdi-stream/tls

Run it on a machine that the service and the cluster's nodes reach, in the environment in which cdi-stream is installed.
Slurm jobs are started while refinements wait, and ended when there are none.  ``--show`` prints the Slurm script of a
job and ends.  Without ``--certificates`` the scheduler is bound to this machine alone.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from dask_jobqueue import SLURMCluster
from distributed.security import Security

LOOPBACK = "127.0.0.1"


def security_of(folder: Path) -> Security:
    """TLS with the files ca.pem, cert.pem and key.pem of a folder that every node sees."""
    files = {"cert": str(folder / "cert.pem"), "key": str(folder / "key.pem")}
    parties = {
        f"tls_{party}_{kind}": path for party in ("scheduler", "worker", "client") for kind, path in files.items()
    }
    return Security(tls_ca_file=str(folder / "ca.pem"), require_encryption=True, **parties)


def cluster_of(options: argparse.Namespace) -> SLURMCluster:
    """The cluster: a scheduler here, and one worker process with one thread a Slurm job."""
    is_guarded = options.certificates is not None
    gpus = options.gpus
    return SLURMCluster(
        queue=options.partition,
        cores=1,
        processes=1,
        memory=options.memory,
        walltime=options.walltime,
        job_extra_directives=[f"--gres=gpu:{gpus}"] if gpus else [],
        worker_extra_args=["--resources", f"GPU={gpus}"] if gpus else [],
        job_script_prologue=["export OMP_NUM_THREADS=1"],
        protocol="tls://" if is_guarded else "tcp://",
        security=security_of(options.certificates) if is_guarded else None,
        scheduler_options={
            "host": options.host if is_guarded else LOOPBACK,
            "port": options.port,
            "dashboard_address": f"{LOOPBACK}:0",
        },
    )


def main() -> None:
    """Read the options, start the cluster, wait."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partition", help="partition of Slurm; by default Slurm's own default")
    parser.add_argument("--max-jobs", type=int, default=4, help="largest number of Slurm jobs")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of each job")
    parser.add_argument("--memory", default="8GB", help="memory of each job")
    parser.add_argument("--walltime", default="04:00:00", help="longest time of a job; Dask starts the next one")
    parser.add_argument("--host", default="0.0.0.0", help="address of the scheduler, with --certificates")
    parser.add_argument("--port", type=int, default=8786, help="port of the scheduler")
    parser.add_argument("--certificates", type=Path, help="folder with ca.pem, cert.pem and key.pem")
    parser.add_argument("--show", action="store_true", help="print the Slurm script of a job and end")
    options = parser.parse_args()
    with cluster_of(options) as cluster:
        if options.show:
            print(cluster.job_script())
            return
        cluster.adapt(minimum_jobs=0, maximum_jobs=options.max_jobs)
        print(f"scheduler at {cluster.scheduler_address}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    main()
