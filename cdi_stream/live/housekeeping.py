"""Housekeeping of the results' disk: old result files go, and an alarm tells that the disk is nearly full."""

from __future__ import annotations

from dataclasses import dataclass

from cdi_stream.alarms import Alarms
from cdi_stream.disk.retention import Retention
from cdi_stream.disk.space import SpaceGuard


@dataclass(frozen=True, slots=True, kw_only=True)
class Housekeeping:
    """Retention and guard of the results' disk; call `run` about once a second."""

    retention: Retention
    guard: SpaceGuard
    alarms: Alarms

    def run(self) -> None:
        """Delete old result files, and set or clear the alarm ``space``."""
        self.retention.run()
        if problem := self.guard.problem():
            self.alarms.set("space", problem)
        else:
            self.alarms.clear("space")
