"""Child processes of a replay, started together and ended together."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cdi_stream.errors import InputError, ServiceError

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # found now: between fork and exec of a process with threads little is allowed


def start_child(command: list[str], log: BinaryIO, **environment: str) -> subprocess.Popen[bytes]:
    """Start a process that the terminal's Ctrl-C does not reach and that dies with its parent, even a killed one."""
    return subprocess.Popen(
        command,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=_die_with_parent,
        env={**os.environ, **environment},
    )


def _die_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent dies; elsewhere do without."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Processes:
    """Python modules run as children; each writes its log beside the results."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start ``python -m arguments`` in the background."""
        with (self._directory / f"{name}.log").open("wb") as log:
            command = [sys.executable, "-m", *arguments]
            self._running[name] = start_child(command, log)
        return self._running[name]

    def check(self) -> None:
        """Raise `ServiceError` if a child has died of an error, with the end of its log."""
        for name, process in self._running.items():
            if process.poll() not in (None, 0):
                raise ServiceError(f"the {name} process ended with code {process.returncode}:\n{self.log_tail(name)}")

    def kill(self, name: str) -> None:
        """End a child at once, as a power cut would, and forget it."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def log_tail(self, name: str, n_lines: int = 12) -> str:
        """Last lines of a child's log."""
        text = (self._directory / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-n_lines:])

    def wait_for_file(self, path: Path, timeout_s: float) -> None:
        """Wait until a child has written a file."""
        end = time.monotonic() + timeout_s
        while not path.exists():
            self.check()
            if time.monotonic() > end:
                raise ServiceError(
                    f"{path.name} did not appear within {timeout_s:.0f} s; see the logs in {path.parent}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """End all children, the newest first: politely, then not."""
        for process in reversed(self._running.values()):
            if process.poll() is None:
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            if process.poll() is None:
                process.kill()
                process.wait()


@contextlib.contextmanager
def processes(directory: Path) -> Iterator[Processes]:
    """Children that do not outlive this context."""
    children = Processes(directory)
    try:
        yield children
    finally:
        children.stop()


def run_module(*arguments: str) -> dict[str, Any]:
    """Run ``python -m arguments`` to its end; returns the JSON object of its last line, if there is one.

    Raises
    ------
    InputError
        If it refused its arguments.
    ServiceError
        If it failed otherwise.
    """
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 2:
        raise InputError(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise ServiceError(f"python -m {' '.join(arguments[:2])} failed:\n{done.stderr[-2000:]}")
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else {}
