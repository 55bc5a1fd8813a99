"""Child processes that never outlive their parent."""

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
_LIBC = ctypes.CDLL(None)  # loaded at import: a process with threads may do little between fork and exec


def start_child(command: list[str], log: BinaryIO, **environment: str) -> subprocess.Popen[bytes]:
    """Start a process that ignores the terminal's Ctrl-C and ends when its parent ends or is killed (Linux)."""
    return subprocess.Popen(
        command,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=_die_with_parent,
        env={**os.environ, **environment},
    )


def _die_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent ends; other systems have no such signal."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Processes:
    """Python modules that run as child processes; each writes ``NAME.log`` in ``directory``."""

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
        """Raise `ServiceError`, with the end of the child's log, if a child has ended with an error."""
        for name, process in self._running.items():
            if process.poll() not in (None, 0):
                raise ServiceError(f"the {name} process ended with code {process.returncode}:\n{self.log_tail(name)}")

    def kill(self, name: str) -> None:
        """Kill a child without giving it time to finish (SIGKILL)."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def log_tail(self, name: str, n_lines: int = 12) -> str:
        """Return the last ``n_lines`` of a child's log."""
        text = (self._directory / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-n_lines:])

    def wait_for_file(self, path: Path, timeout_s: float) -> None:
        """Wait until a child has written a file.

        Raises
        ------
        ServiceError
            If a child has ended with an error, or the file does not exist after ``timeout_s`` [s].
        """
        end = time.monotonic() + timeout_s
        while not path.exists():
            self.check()
            if time.monotonic() > end:
                raise ServiceError(
                    f"{path.name} did not appear within {timeout_s:.0f} s; see the logs in {path.parent}"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """End all children, the newest first: SIGTERM, after 15 s SIGKILL."""
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
    """Yield child processes that end with this context."""
    children = Processes(directory)
    try:
        yield children
    finally:
        children.stop()


def run_module(*arguments: str) -> dict[str, Any]:
    """Run ``python -m arguments`` to its end; return the JSON object of its last line, or an empty one.

    Raises
    ------
    InputError
        If the module refused its arguments (exit status 2).
    ServiceError
        If the module ended with any other exit status than 0.
    """
    result = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
    if result.returncode == 2:
        raise InputError(result.stderr.strip().splitlines()[-1])
    if result.returncode:
        raise ServiceError(f"python -m {' '.join(arguments[:2])} failed:\n{result.stderr[-2000:]}")
    lines = result.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else {}
