"""Past scans again: the program ``cdi-stream reconstruct`` on request of the page, one scan at a time."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

FOLDER = "again"
"""Folder inside that of the results, for scans that were reconstructed again."""

SECTIONS = ("geometry", "phase", "prepare")
"""Sections of the configuration that a request may change: none that names files, programs or addresses."""

_KEY = re.compile(rf"({'|'.join(SECTIONS)})(\.[a-z0-9_]+)+")
_MAX_VALUE, _MAX_TEXT = 200, 400


class ReconstructProgram:
    """Runs ``cdi-stream reconstruct`` with a configuration; the result appears among those of the service.

    Parameters
    ----------
    config
        Configuration file of the service.
    results
        Folder of the results.
    """

    def __init__(self, config: Path, results: Path) -> None:
        self._config, self._results = config.resolve(), results.resolve()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._uid: str | None = None
        self._text = ""

    def start(self, uid: str, settings: Mapping[str, str]) -> str:
        """Begin; return the reason why that is not possible, empty if it is."""
        for key, value in settings.items():
            if not _KEY.fullmatch(key):
                return f"expected a key of the sections {', '.join(SECTIONS)}, as phase.budget_s, got {key!r:.60}"
            if len(value) > _MAX_VALUE or not value.isprintable():
                return f"{key}: expected a value of at most {_MAX_VALUE} printable letters"
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return f"run {str(self._uid)[:8]} is being reconstructed: wait until it is ready"
            self._uid, self._text = uid, "begins"
            self._process = subprocess.Popen(
                self._command(uid, settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            threading.Thread(target=self._follow, args=(self._process,), daemon=True, name="reconstruct again").start()
        return ""

    def state(self) -> dict[str, object]:
        """Return the run, whether it is being reconstructed, and the last line of the program."""
        is_running = self._process is not None and self._process.poll() is None
        return {"uid": self._uid, "is_running": is_running, "text": self._text}

    def close(self) -> None:
        """End the program, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def _command(self, uid: str, settings: Mapping[str, str]) -> list[str]:
        changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        places = ["--config", str(self._config), "--out", str(self._results / FOLDER)]
        return [sys.executable, "-m", "cdi_stream", "reconstruct", *places, *changes, "--", uid]

    def _follow(self, process: subprocess.Popen[str]) -> None:
        """Keep the last line that the program prints; body of a thread."""
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if line.strip():
                    self._text = line.strip()[:_MAX_TEXT]
        if process.wait():
            self._text = f"ended with exit code {process.returncode}: {self._text}"
