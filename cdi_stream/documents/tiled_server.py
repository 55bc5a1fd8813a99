"""Local Tiled server, used with ``tiled = "local"``: a child process with an SQLite catalog on a loopback address."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import secrets
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from cdi_stream.alarms import Alarms
from cdi_stream.disk.atomic import atomic_write
from cdi_stream.errors import ServiceError
from cdi_stream.processes import start_child

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
"""Time [s] that the server has to give its first answer after a start."""

CHECK_EVERY_S = 2.0
"""Time [s] between two checks whether the server answers."""

ANSWER_TIMEOUT_S = 30.0
"""Time [s] without an answer after which the server is started again."""

STOP_S = 1.5
"""Time [s] that the server has to end after SIGTERM, before SIGKILL."""

_REACH_S = 2.0


@contextlib.contextmanager
def local_tiled(
    directory: Path, port: int | None = None, api_key: str | None = None, alarms: Alarms | None = None
) -> Iterator[TiledServer]:
    """Yield a running Tiled server for the files in ``directory``; it ends with the context.

    Address and key are written to ``directory/tiled.json``, readable only by the user.  If ``port`` or ``api_key`` is
    None, the value of the last start is used again.
    """
    server = TiledServer(directory, port, api_key, alarms or Alarms())
    server.start()
    try:
        yield server
    finally:
        server.stop()


class TiledServer:
    """Process of the server, and a thread that starts it again when it has ended or does not answer.

    ``uri`` and ``api_key`` are address and key.
    """

    def __init__(self, directory: Path, port: int | None, api_key: str | None, alarms: Alarms) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        kept = _read_address(directory / "tiled.json")
        self.api_key = api_key or kept.get("api_key") or secrets.token_hex(16)
        self.uri = f"http://127.0.0.1:{port or _port_of(kept) or free_port()}"
        self._directory = directory
        self._alarms = alarms
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, name="tiled server", daemon=True)

    def start(self) -> None:
        """Start the server; its first answer comes some seconds later."""
        with atomic_write(self._directory / "tiled.json") as part:
            part.touch(mode=0o600)
            part.write_text(json.dumps({"uri": self.uri, "api_key": self.api_key}))
        self._process = self._start_process()
        self._thread.start()

    def stop(self) -> None:
        """End the server: SIGTERM, after `STOP_S` SIGKILL."""
        self._stopping.set()
        with self._lock:
            self._end_process()

    def require_answer(self) -> None:
        """Raise `ServiceError` if the server does not answer now."""
        if not self._answers():
            raise ServiceError(f"the Tiled server at {self.uri} does not answer; see {self._directory / 'tiled.log'}")

    def _watch(self) -> None:
        """Start the server again when it has ended, or has not answered for `ANSWER_TIMEOUT_S`."""
        answered_s = time.monotonic() + START_TIMEOUT_S
        while not self._stopping.wait(CHECK_EVERY_S):
            process = self._process
            if self._answers():
                answered_s = max(answered_s, time.monotonic())
                self._alarms.clear("tiled server")
                continue
            is_dead = process is None or process.poll() is not None
            if is_dead or time.monotonic() - answered_s > ANSWER_TIMEOUT_S:
                text = "has ended" if is_dead else f"has not answered for {ANSWER_TIMEOUT_S:.0f} s"
                logger.warning("the Tiled server %s, see tiled.log: it is started again", text)
                self._alarms.set("tiled server", f"the Tiled server {text}: it is started again")
                with self._lock:
                    if self._stopping.is_set():
                        return
                    self._end_process()
                    answered_s = time.monotonic() + START_TIMEOUT_S
                    try:
                        self._process = self._start_process()
                    except OSError as error:
                        logger.warning("the Tiled server cannot be started: %s", error)

    def _start_process(self) -> subprocess.Popen[bytes]:
        d = self._directory
        _use_write_ahead_log(d / "catalog.db")
        command = [sys.executable, "-m", "tiled", "serve", "catalog", str(d / "catalog.db"), "--init"]
        command += ["--write", str(d / "tiled"), "--write", f"sqlite:///{d / 'tables.db'}", "--read", str(d)]
        command += ["--host", "127.0.0.1", "--port", self.uri.rpartition(":")[2]]
        handle = os.open(d / "tiled.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        os.fchmod(handle, 0o600)  # the server logs its key
        with os.fdopen(handle, "ab") as log:
            return start_child(command, log, TILED_SINGLE_USER_API_KEY=self.api_key)

    def _answers(self) -> bool:
        with contextlib.suppress(urllib.error.URLError, OSError, ValueError, http.client.HTTPException):
            urllib.request.urlopen(f"{self.uri}/healthz", timeout=_REACH_S).close()  # noqa: S310 - a loopback address
            return True
        return False

    def _end_process(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


PORTS = range(15_000, 32_000)
"""Ports to choose from: the system takes none of them for a connection of another program in the meantime."""


_GIVEN: set[int] = set()
"""Ports that this process has given out: each is free until its user binds it, and must not be given twice."""


def free_port() -> int:
    """Return a loopback port that is free now, each time another one."""
    for _ in range(100):
        port = secrets.choice(PORTS)
        if port in _GIVEN:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _GIVEN.add(port)
            return port
    raise ServiceError(f"expected a free port from {PORTS.start} to {PORTS.stop - 1} on this machine, found none")


def _use_write_ahead_log(catalog: Path) -> None:
    """Set the journal of an existing catalog as the server needs it.

    A server that is killed while it creates its catalog leaves another journal mode; the next servers then end at once,
    since they set the mode inside a transaction.
    """
    if not catalog.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(catalog, timeout=1.0)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error as error:
        logger.warning("%s: the journal mode cannot be set: %s", catalog, error)


def _read_address(path: Path) -> dict[str, str]:
    """Return address and key of the last start; empty if they cannot be read."""
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in kept.items() if isinstance(value, str)} if isinstance(kept, dict) else {}


def _port_of(kept: dict[str, str]) -> int | None:
    """Return the port of the last start if it is free now; else None."""
    text = kept.get("uri", "").rpartition(":")[2]
    if not text.isdecimal() or not 0 < int(text) < 65536:
        return None
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(text)))
        except OSError:
            return None
    return int(text)
