"""What was under way, on disk, so that a service that is killed leaves nothing unsaid.

One small JSON file, replaced atomically: the curves being measured, the runs whose documents are open, and how
often a run of ours was begun for each raw run.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cdi_stream.errors import ConfigError
from cdi_stream.messages import BrokenCurve, CurveProgress, FrameAccount, RunContext

logger = logging.getLogger(__name__)

MAX_RUNS = 1000
"""Raw runs whose number of attempts is remembered."""


class Journal:
    """Open curves and open runs of this service, and those that the last one left behind.

    Safe to use from several threads; a second service on the same folder is refused.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._claim = _claimed(path.with_suffix(".lock"))
        left = _read(path)
        self.left_curves: list[dict[str, Any]] = list(left.get("curves", {}).values())
        self.left_runs: dict[str, dict[str, Any]] = left.get("runs", {})
        self._curves: dict[str, dict[str, Any]] = dict(left.get("curves", {}))
        self._runs: dict[str, dict[str, Any]] = dict(self.left_runs)
        self._attempts: dict[str, int] = left.get("attempts", {})

    def broken_curves(self) -> list[BrokenCurve]:
        """Curves that the last service was killed over."""
        return [
            BrokenCurve(
                series=entry["series"],
                run=RunContext(uid=entry["run_uid"], scan_id=entry["scan_id"]),
                curve_index=entry["curve_index"],
                account=FrameAccount(**(entry["account"] | {"missing": tuple(entry["account"]["missing"])})),
                reason="interrupted: the service was stopped before the curve was complete",
            )
            for entry in self.left_curves
        ]

    def curve_began(self, progress: CurveProgress) -> None:
        """Note an open curve; a later note of the same curve replaces it."""
        entry = {
            "series": progress.series,
            "run_uid": progress.run.uid,
            "scan_id": progress.run.scan_id,
            "curve_index": progress.curve_index,
            "account": asdict(progress.account),
        }
        with self._mutex:
            self._curves[str(progress.series)] = entry
            self._save()

    def curve_ended(self, series: object) -> None:
        """The curve's result is out."""
        with self._mutex:
            if self._curves.pop(str(series), None) is not None:
                self._save()

    def next_attempt(self, raw_uid: str) -> int:
        """How many runs of ours were begun for a raw run before: part of the next one's uid."""
        return self._attempts.get(raw_uid, 0)

    def run_began(self, uid: str, raw_uid: str) -> None:
        """Note, before it goes out, that a start document of ours is about to."""
        with self._mutex:
            self._runs[uid] = {"raw_uid": raw_uid}
            self._attempts[raw_uid] = self._attempts.pop(raw_uid, 0) + 1
            for old in list(self._attempts)[: max(0, len(self._attempts) - MAX_RUNS)]:
                del self._attempts[old]
            self._save()

    def run_ended(self, uid: str) -> None:
        """Our stop document is out."""
        with self._mutex:
            if self._runs.pop(uid, None) is not None:
                self._save()

    def close(self) -> None:
        """Let another service have the folder."""
        os.close(self._claim)

    def _save(self) -> None:
        """Write it all; on a full disk the live path goes on, only a later kill would be told less well."""
        try:
            self._write()
        except OSError:
            logger.exception("the journal cannot be written")

    def _write(self) -> None:
        part = self._path.with_suffix(".part")
        with part.open("w") as handle:
            json.dump({"curves": self._curves, "runs": self._runs, "attempts": self._attempts}, handle)
            handle.flush()
            os.fsync(handle.fileno())
        part.rename(self._path)


def _claimed(lock: Path) -> int:
    """Hold a lock file; the system frees it with the process."""
    handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise ConfigError(
            f"{lock.parent} is in use by another service: stop that one, or set publish.directory to another folder"
        ) from error
    return handle


def _read(path: Path) -> dict[str, Any]:
    """Read a journal; one that cannot be read is put aside, not obeyed."""
    if not path.exists():
        return {}
    try:
        left = json.loads(path.read_text())
        return left if isinstance(left, dict) else {}
    except ValueError:
        aside = path.with_suffix(".broken")
        path.rename(aside)
        logger.exception("the journal cannot be read; it is kept as %s", aside)
        return {}
