"""Answers of the HTTP interface, version 1: their fields are published in ``/openapi.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cdi_stream.operators.archive import ArchivedResult, ArchivedScan


class Problem(BaseModel):
    """Reason why a request was refused."""

    detail: str


class SessionAnswer(BaseModel):
    """What this browser may do, and what this dashboard has."""

    can_write: bool = Field(description="Whether this dashboard has a token, so that it may change the queue.")
    csrf: str | None = Field(description="Value of the header X-CSRF-Token of each write; None without a cookie.")
    has_archive: bool = Field(description="Whether the results folder is at hand: past scans, slices and surfaces.")
    has_queue: bool = Field(description="Whether the refinement queue is at hand.")
    can_reconstruct: bool = Field(description="Whether a past scan can be reconstructed again.")


class ResultAnswer(BaseModel):
    """A result of a scan."""

    stage: str
    run_uid: str
    curve_index: int
    time_s: float = Field(description="Time of the result file [s since the epoch].")
    verdict: str
    reasons: list[str]
    method: str = Field(description="Method of a refinement; empty for other stages.")
    scalars: dict[str, float] = Field(description="Numbers of the result; units are in their names.")
    file: str

    @classmethod
    def of(cls, result: ArchivedResult) -> ResultAnswer:
        """Return the answer about a result."""
        return cls(
            stage=result.stage,
            run_uid=result.run_uid,
            curve_index=result.curve_index,
            time_s=result.time_s,
            verdict=result.verdict,
            reasons=list(result.reasons),
            method=result.method,
            scalars=dict(result.scalars),
            file=str(result.path),
        )


class ScanAnswer(BaseModel):
    """A raw run; verdict and numbers are those of its newest final result."""

    uid: str = Field(description="Uid of the raw run.")
    scan_id: int | None
    sample: str
    plan_name: str
    motors: str
    time_s: float = Field(description="Time of the first result [s since the epoch].")
    verdict: str
    stage: str
    reasons: list[str]
    scalars: dict[str, float]
    n_results: int
    n_curves: int = Field(description="Number of rocking curves of the run that have a result.")

    @classmethod
    def of(cls, scan: ArchivedScan) -> ScanAnswer:
        """Return the answer about a scan."""
        newest = scan.newest
        return cls(
            uid=scan.uid,
            scan_id=newest.scan_id,
            sample=newest.sample,
            plan_name=newest.plan_name,
            motors=newest.motors,
            time_s=scan.time_s,
            verdict=newest.verdict,
            stage=newest.stage,
            reasons=list(newest.reasons),
            scalars=dict(newest.scalars),
            n_results=len(scan.results),
            n_curves=len(scan.curves),
        )


class ScansAnswer(BaseModel):
    """Scans, the newest first."""

    total: int = Field(description="Number of scans that fit, of which ``scans`` holds a part.")
    scans: list[ScanAnswer]


class ScanDetail(ScanAnswer):
    """A raw run with all its results, the oldest first."""

    results: list[ResultAnswer]


class RockingAnswer(BaseModel):
    """Rocking curve of a result."""

    frame_sums: list[int] = Field(description="Counts of each frame in scan order; empty if the result holds none.")


class ReadingsAnswer(BaseModel):
    """Readings of the runs that differ between scans."""

    units: dict[str, str] = Field(description="Unit of each reading by its data key; empty where the run states none.")


class TrendPointAnswer(BaseModel):
    """A curve in a trend."""

    model_config = ConfigDict(from_attributes=True)

    uid: str = Field(description="Uid of the raw run.")
    scan_id: int | None
    curve_index: int
    time_s: float = Field(description="Time of the first result of the curve [s since the epoch].")
    value: float


class TrendAnswer(BaseModel):
    """Values of a quantity over the curves, the oldest first."""

    points: list[TrendPointAnswer]


class StateAnswer(BaseModel):
    """Newest messages of the feed, without their pictures."""

    feed_age_s: float | None = Field(description="Time since the last message of the service [s].")
    seq: int = Field(description="Number of the newest message of this dashboard.")
    messages: list[dict[str, object]]


class JobProgressAnswer(BaseModel):
    """How far a refinement is."""

    share: float = Field(description="Share of the time limit that is used, 0 to 1.")
    stage: str = Field(description="Stage in words.")


class JobAnswer(BaseModel):
    """A refinement in the queue."""

    id: int
    state: str
    method: str
    priority: int
    created_s: float = Field(description="Time at which the job was added [s since the epoch].")
    attempts: int
    error: str | None
    raw_uid: str
    scan_id: int | None
    curve_index: int
    progress: JobProgressAnswer | None = Field(description="How far a job at work is; None for other jobs.")


class QueueAnswer(BaseModel):
    """Refinements, those that wait first, in the order in which they are taken; then the newest of the others."""

    jobs: list[JobAnswer]


class ChangeAnswer(BaseModel):
    """Whether a job was changed; a job in another state than the change needs stays as it is."""

    is_changed: bool


JobAction = Literal["raise", "cancel", "retry"]
"""Changes of a job: take it first, never take it, take it again."""


class ReconstructRequest(BaseModel):
    """Settings with which a past scan is reconstructed again."""

    settings: dict[str, str] = Field(
        default_factory=dict,
        max_length=20,
        description="Keys of the configuration with their values as in TOML, for example phase.budget_s: 60.",
    )


class ReconstructAnswer(BaseModel):
    """Reconstruction that runs now, or ran last."""

    uid: str | None
    is_running: bool
    text: str = Field(description="Last line of its output, or the reason why it ended.")
