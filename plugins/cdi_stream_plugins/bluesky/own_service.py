"""The service in a process of its own, started by a profile where none runs."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import time
from pathlib import Path

import zmq

from cdi_stream.addresses import is_ipv6

logger = logging.getLogger(__name__)

RESTART_S = 5.0
"""Time [s] between two looks whether a service listens; it doubles after each service that ended with an error."""

MAX_RESTART_S = 60.0
"""Longest time [s] between two starts: a service that cannot start takes seconds of a core each time."""

_LOG_END = 300

_STARTED: list[subprocess.Popen[bytes]] = []
"""Services that this process has started; they outlive it."""


class OwnService:
    """Service that is started if none listens at the address.

    Parameters
    ----------
    config_file
        Configuration of the service; without one no service is started.
    address
        Address at which the service takes documents.
    python
        Python interpreter of the environment in which the service is installed.
    """

    def __init__(self, config_file: Path | None, address: str, python: str) -> None:
        self._file = config_file
        self._address = address
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        self._pause_s = RESTART_S
        self._checked_s = -RESTART_S
        self._last_words = ""

    def keep(self) -> None:
        """Start the service if none runs; checked every few seconds."""
        if self._file is None or time.monotonic() - self._checked_s < self._pause_s:
            return
        self._checked_s = time.monotonic()
        if (self._process is not None and self._process.poll() is None) or self._listens():
            self._pause_s = RESTART_S
            return
        log = self._file.resolve().parent / "cdi-stream-service.log"
        if self._process is not None and self._process.returncode:
            self._pause_s = min(2 * self._pause_s, MAX_RESTART_S)
            self._report_end(self._process.returncode, log)
        command = [self._python, "-m", "cdi_stream", "serve", "--config", str(self._file.resolve())]
        try:
            with log.open("ab") as file:
                self._process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
                _STARTED.append(self._process)
            logger.info("cdi-stream: service started, its log is %s", log)
        except OSError as error:
            logger.warning("cdi-stream: the service cannot be started: %s", error)

    def _report_end(self, exit_code: int, log: Path) -> None:
        """Log the end of the last service with the last lines of its log; the same end is logged once."""
        with contextlib.suppress(OSError):
            words = " ".join(log.read_text(encoding="utf-8", errors="replace")[-_LOG_END:].split())
            if words != self._last_words:
                logger.warning("cdi-stream: the service ended with exit code %d: ... %s (%s)", exit_code, words, log)
            self._last_words = words

    def _listens(self) -> bool:
        """Whether a service has bound the address: a second socket cannot bind it then."""
        with zmq.Context() as context, context.socket(zmq.ROUTER) as probe:
            probe.setsockopt(zmq.IPV6, is_ipv6(self._address))
            try:
                probe.bind(self._address)
            except zmq.ZMQError:
                return True
            return False
