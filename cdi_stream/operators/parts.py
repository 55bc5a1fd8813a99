"""Parts of a dashboard that its HTTP interface shows and changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cdi_stream.operators.answers import JobAction
from cdi_stream.operators.archive import Archive
from cdi_stream.operators.hub import Hub
from cdi_stream.operators.session import Sessions


class Jobs(Protocol):
    """Refinement queue, as the page sees it."""

    def jobs(self, limit: int) -> Sequence[Mapping[str, object]]:
        """Return jobs with the fields of `JobAnswer`."""

    def change(self, job_id: int, action: JobAction) -> bool | None:
        """Change a job; return whether it was changed, None if there is no such job."""


class Reconstructor(Protocol):
    """Program that reconstructs a past scan again, one at a time."""

    def start(self, uid: str, settings: Mapping[str, str]) -> str:
        """Begin; return the reason why that is not possible, empty if it is."""

    def state(self) -> Mapping[str, object]:
        """Return the fields of `ReconstructAnswer`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Parts of a dashboard that the interface shows; None for what this dashboard has not."""

    hub: Hub
    sessions: Sessions | None = None
    archive: Archive | None = None
    jobs: Jobs | None = None
    reconstructor: Reconstructor | None = None
