"""Claims: files by which a worker process and a process of its cluster agree that a job is still wanted.

The worker process writes a token into the claim of a job and sends job and token to the cluster.  The process that
computes adds its own name, and looks at the claim before its steps: it stops where the claim is gone, has another
token, or has another name, because the job was cancelled, or given to another process.  Each look touches the file:
this is the heartbeat of the job.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from cdi_stream.disk.atomic import atomic_write
from cdi_stream.refine.pulse import Beat
from cdi_stream.refine.turn import WorkerStopped

CLAIMS = "claims"
"""Folder of the claims, in the results folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim: its file and the token of the attempt."""

    path: Path
    token: str

    def text(self) -> str | None:
        """Return the content of the file if it has the token; None if it has not, or if there is no file."""
        try:
            text = self.path.read_text()
        except OSError:
            return None
        return text if text.partition("\n")[0] == self.token else None

    def is_taken(self) -> bool:
        """Return whether a process computes the job."""
        return "\n" in (self.text() or "")

    def end(self) -> None:
        """Delete the file: who computes the job stops."""
        self.path.unlink(missing_ok=True)


def claim_of(directory: Path, job_id: int) -> Path:
    """Return the file of the claim of a job."""
    return directory / CLAIMS / f"{job_id}.claim"


def new_claim(directory: Path, job_id: int) -> Claim:
    """Write a claim with a new token, which ends all former ones of the job."""
    claim = Claim(path=claim_of(directory, job_id), token=uuid.uuid4().hex)
    with atomic_write(claim.path, is_flushed=False) as part:
        part.write_text(claim.token)
    return claim


class HeldClaim:
    """A claim that this process has taken.

    Raises
    ------
    WorkerStopped
        If the job is not wanted any more.
    """

    def __init__(self, claim: Claim) -> None:
        if claim.text() is None:
            raise WorkerStopped
        self._claim = claim
        self._text = f"{claim.token}\n{uuid.uuid4().hex}"
        self._beat = Beat(claim.path, makes_file=False)
        with atomic_write(claim.path, is_flushed=False) as part:
            part.write_text(self._text)

    def check(self) -> None:
        """Show a sign of life; raise `WorkerStopped` if the job is not wanted any more."""
        if self._beat.is_due() and self._claim.text() != self._text:
            raise WorkerStopped
        self._beat.touch()
