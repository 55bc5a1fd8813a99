"""Worker process of the service: started while there is work, killed when it hangs, started again when it fails."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from subprocess import Popen, TimeoutExpired

from cdi_stream.processes import start_child
from cdi_stream.refine.pulse import Pulse
from cdi_stream.refine.turn import heartbeat_file

logger = logging.getLogger(__name__)

RESTART_S = 1.0
"""Time [s] before a worker is started again after it failed; doubles with each further failure."""

MAX_RESTART_S = 120.0
"""Longest time [s] between two starts of a worker that fails."""

STEADY_S = 20.0
"""Time [s] that a worker must run so that its next failure counts as the first one."""

STOP_S = 10.0
"""Time [s] that a worker has to end after SIGTERM, before SIGKILL."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables that limit the threads of a worker."""

START_FACTOR = 4
"""How many times longer a worker may take for its first heartbeat than for a later one: it loads torch first."""


class WorkerProcess:
    """A worker process of a service; if it fails repeatedly, the pause before the next start doubles.

    Parameters
    ----------
    directory
        Folder of the queue, the heartbeats and the log.
    config_file
        File of the configuration.
    threads
        Number of threads of the worker.
    hang_s
        Time [s] without a heartbeat after which the worker is killed and started again.
    """

    def __init__(self, directory: Path, config_file: Path, threads: int, hang_s: float) -> None:
        self._directory = directory
        self._config_file = config_file
        self._threads = threads
        self._hang_s = hang_s
        self._process: Popen[bytes] | None = None
        self._pulse: Pulse | None = None
        self._started_s = -MAX_RESTART_S
        self._pause_s = RESTART_S

    def keep(self, has_work: bool, *, is_held: bool) -> None:
        """Start the worker if there is work and it does not run; kill a worker that hangs.

        ``is_held``: the live path pauses the workers, or did a moment ago, so that a heartbeat may be missing.
        """
        if self._process is not None and self._process.poll() is None:
            if self._hangs() and not is_held:
                logger.warning("the worker has had no heartbeat for %.0f s: it is killed", self._hang_s)
                self._process.kill()
                self._process.wait()
            return
        now = time.monotonic()
        has_failed = self._process is not None and (self._process.poll() or 0) > 0
        if has_failed and now - self._started_s < STEADY_S:
            self._pause_s = min(2 * self._pause_s, MAX_RESTART_S)
            logger.warning("the worker failed, see worker.log; it is started again in %.0f s", self._pause_s)
            self._process, self._started_s = None, now
        elif has_failed or self._process is not None:
            self._process, self._pause_s = None, RESTART_S
        if self._process is None and has_work and now - self._started_s >= self._pause_s:
            self._process, self._started_s = self._start(), now
            self._pulse = Pulse(heartbeat_file(self._directory, self._process.pid))

    def _hangs(self) -> bool:
        """Return whether the last heartbeat is longer ago than the limit; the start may take twice as long."""
        assert self._pulse is not None
        age_s = self._pulse.age_s()
        return age_s > self._hang_s * (1 if self._pulse.has_beaten else START_FACTOR)

    def stop(self) -> None:
        """End the worker: SIGTERM, after `STOP_S` SIGKILL."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except TimeoutExpired:
            logger.warning("the worker does not end: it is killed; its job stays in the queue")
            self._process.kill()
            self._process.wait()

    def _start(self) -> Popen[bytes]:
        command = [sys.executable, "-m", "cdi_stream", "worker", "--config", str(self._config_file)]
        environment = {name: str(self._threads) for name in THREAD_VARIABLES}
        with (self._directory / "worker.log").open("ab") as log:
            return start_child(command, log, **environment)
