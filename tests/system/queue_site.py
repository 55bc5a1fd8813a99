"""Processes of the refinement queue for a campaign of faults: service, workers, Dask scheduler and Dask workers.

The service's own worker process sends its jobs to Dask; a second worker process computes in itself.  A process that has
ended is started again, as systemd or an operator would do it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cdi_stream.documents.tiled_server import free_port
from cdi_stream.processes import processes
from cdi_stream.refine.queue import QUEUE
from sim_beamline.scan import recorded_scan
from tests.system.beamline import TestBeamline

LEASE_S = 20.0
"""Time without a heartbeat after which a job goes to another worker: short, so that a campaign sees it happen."""

N_DASK_WORKERS = 2

REFINE = """[refine]
methods = ["recipe"]
engine = "dask"
scheduler = "tcp://127.0.0.1:{port}"
workers = {workers}
lease_s = {lease}
"""


class QueueSite:
    """A service with a Dask cluster and one more worker, in one folder."""

    def __init__(self, line: TestBeamline, port: int) -> None:
        self.line = line
        self.results = line.config.publish.directory.resolve()
        self._dask = f"tcp://127.0.0.1:{port}"
        self._port = port
        self._local_config = line.directory / "local.toml"
        text = line.config_file.read_text()
        for key in ("engine", "scheduler"):
            text = "\n".join(row for row in text.splitlines() if not row.startswith(f"{key} ="))
        self._local_config.write_text(text + "\n")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._n_starts: Counter[str] = Counter()

    @property
    def queue_file(self) -> Path:
        return self.results / QUEUE

    def keep(self, *, has_local: bool = True) -> None:
        """Start what does not run; ``has_local``: whether the second worker process runs, or ends."""
        local = self._processes.get("local_worker")
        if not has_local and local is not None and local.poll() is None:
            local.terminate()
        names = ("dask_scheduler", *(f"dask_worker_{k}" for k in range(N_DASK_WORKERS)), "service")
        for name in (*names, "local_worker") if has_local else names:
            process = self._processes.get(name)
            if process is None or process.poll() is not None:
                self._processes[name] = self._start(name)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        self._n_starts[name] += 1
        log = f"{name}.{self._n_starts[name]}"
        start = self.line.children.start
        if name == "service":
            (self.results / "ready").unlink(missing_ok=True)
            return start(log, "cdi_stream", "serve", "--config", str(self.line.config_file))
        if name == "local_worker":
            return start(log, "cdi_stream", "worker", "--config", str(self._local_config))
        if name == "dask_scheduler":
            options = ("--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard")
            return start(log, "distributed.cli.dask_scheduler", *options)
        scratch = self.line.directory / "dask" / log
        options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--name", log, "--local-directory", str(scratch))
        return start(log, "distributed.cli.dask_worker", self._dask, *options)

    def pid(self, name: str) -> int | None:
        """Process of a name; ``worker`` is the child of the service.  None if there is none now."""
        if name == "worker":
            return next(iter(children_of(self._processes["service"])), None)
        process = self._processes.get(name)
        return process.pid if process is not None and process.poll() is None else None

    def kill(self, name: str) -> bool:
        """Kill a process (SIGKILL); false if it does not run."""
        return self.signal(name, signal.SIGKILL) is not None

    def signal(self, name: str, number: int) -> int | None:
        """Send a signal; return the pid, None if the process does not run."""
        pid = self.pid(name)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pid


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Pids of a process's children."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    with contextlib.suppress(OSError):
        return [int(pid) for task in tasks for pid in task.read_text().split()]
    return []


@contextlib.contextmanager
def queue_site(directory: Path) -> Iterator[QueueSite]:
    """Yield the running processes in a folder; a folder that was used before keeps its queue."""
    port = free_port()
    refine = REFINE.format(port=port, workers=N_DASK_WORKERS, lease=LEASE_S)
    keep_documents(directory)
    with processes(directory) as children:
        line = TestBeamline(children, directory, recorded_scan("plain"), refine_toml=refine, has_tiled=False)
        line.start_bus()
        try:
            site = QueueSite(line, port)
            site.results.mkdir(parents=True, exist_ok=True)
            yield site
        finally:
            line.close()


def keep_documents(directory: Path) -> None:
    """Keep what the listener of a former run of the campaign has heard."""
    log = directory / "listener.log"
    if log.exists():
        log.rename(directory / f"listener.{time.time_ns()}.log")


def documents_heard(directory: Path) -> list[tuple[str, dict[str, object]]]:
    """All documents that a foreign listener has heard, in all runs of the campaign."""
    lines = [line for log in sorted(directory.glob("listener*.log")) for line in log.read_text().splitlines()]
    return [tuple(json.loads(line)) for line in lines if line.endswith("]")]


@contextlib.contextmanager
def movable_clock(directory: Path) -> Iterator[Path | None]:
    """Yield the file with the seconds by which the time of day of all processes started in this context is moved.

    None without a C compiler.
    """
    library, offset = directory / "set_clock.so", directory / "clock_offset"
    if shutil.which("cc") is None:
        yield None
        return
    source = Path(__file__).with_name("set_clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source)], check=True)
    offset.write_text("0")
    os.environ |= {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(offset)}
    try:
        yield offset
    finally:
        del os.environ["LD_PRELOAD"], os.environ["CLOCK_OFFSET_FILE"]
