"""A real Slurm of one node: its controller, its node daemon and munge, in a folder and on free loopback ports."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cdi_stream.documents.tiled_server import free_port
from cdi_stream.processes import start_child
from tests.system.browser import wait_until

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=beamline Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """Commands of Slurm, for the cluster of one node."""

    def __init__(self, folder: Path) -> None:
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *call: str | Path, **environment: str) -> str:
        done = subprocess.run(
            call, capture_output=True, text=True, check=False, timeout=60, env=self.environment | environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def states(self) -> list[str]:
        """States of the jobs that wait or run."""
        return self.run("squeue", "--noheader", "--format=%T").split()

    def is_idle(self) -> bool:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False, env=self.environment
        )
        return done.stdout.strip() == "idle"


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Yield a cluster that takes jobs; its daemons end with the context."""
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(mode=0o700)
    host = socket.gethostname().partition(".")[0]
    values = {"folder": folder, "host": host, "controller_port": free_port(), "node_port": free_port()}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**values, cpus=os.cpu_count()))
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    files = {"socket": "munge.socket", "pid-file": "munge/pid", "log-file": "munge/log", "seed-file": "munge/seed"}
    munge = [f"--{option}={folder / name}" for option, name in files.items()]
    one = Slurm(folder)
    variables = {"SLURM_CONF": str(folder / "slurm.conf")}
    with contextlib.ExitStack() as stack:
        stack.callback(_end_jobs, folder)
        _start(stack, folder, "munged", "--foreground", "--force", f"--key-file={key}", *munge)
        wait_until((folder / "munge.socket").exists, 30, "munge")
        _start(stack, folder, "slurmctld", "-D", "-i", **variables)
        _start(stack, folder, "slurmd", "-D", "-N", host, **variables)
        wait_until(one.is_idle, 60, f"the node of Slurm, see {folder}")
        yield one


def _start(stack: contextlib.ExitStack, folder: Path, name: str, *options: str, **environment: str) -> None:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    assert path is not None, name
    with (folder / f"{name}.out").open("wb") as log:
        process = start_child([path, *options], log, **environment)
    stack.callback(process.wait, 20)
    stack.callback(process.terminate)


def _end_jobs(folder: Path) -> None:
    """Nothing of a job may outlive the cluster: the daemons of its steps are named after its folder."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"SLURM_CONF={folder / 'slurm.conf'}".encode() in path.read_bytes():
                os.kill(int(path.parent.name), 9)
