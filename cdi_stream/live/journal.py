"""What was under way, on disk, so that a service that is killed leaves nothing unsaid.

One small JSON file, replaced atomically: the curves being measured and the runs whose documents are open.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cdi_stream.messages import BrokenCurve, CurveProgress, FrameAccount, RunContext


class Journal:
    """Open curves and open runs of this service, and those that the last one left behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        left = json.loads(path.read_text()) if path.exists() else {}
        self.left_curves: list[dict[str, Any]] = list(left.get("curves", {}).values())
        self.left_runs: dict[str, dict[str, Any]] = left.get("runs", {})
        self._curves: dict[str, dict[str, Any]] = dict(left.get("curves", {}))
        self._runs: dict[str, dict[str, Any]] = dict(self.left_runs)
        path.parent.mkdir(parents=True, exist_ok=True)

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
        self._curves[str(progress.series)] = entry
        self._save()

    def curve_ended(self, series: object) -> None:
        """The curve's result is out."""
        if self._curves.pop(str(series), None) is not None:
            self._save()

    def run_began(self, uid: str, raw_uid: str, attempt: int) -> None:
        """Note that a start document of ours is out."""
        self._runs[uid] = {"raw_uid": raw_uid, "attempt": attempt}
        self._save()

    def run_ended(self, uid: str) -> None:
        """Our stop document is out."""
        if self._runs.pop(uid, None) is not None:
            self._save()

    def _save(self) -> None:
        part = self._path.with_suffix(".part")
        with part.open("w") as handle:
            json.dump({"curves": self._curves, "runs": self._runs}, handle)
            handle.flush()
            os.fsync(handle.fileno())
        part.rename(self._path)
