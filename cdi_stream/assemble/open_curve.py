"""One curve that is being assembled: its series, and what is known of its run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cdi_stream.assemble.incoming import SavedSeries
from cdi_stream.documents.claim import Claim, read_claim
from cdi_stream.documents.run_record import RunRecord
from cdi_stream.stream.series import Series


@dataclass(slots=True, kw_only=True)
class OpenCurve:
    """Series that has not been released yet.

    Parameters
    ----------
    key
        Name of the series in the folder of open series; unique.
    series
        Frames received so far.
    claim
        Statement of the detector's ``user_data`` about the run.
    n_announced
        Number of images that the header or ``user_data`` announces, 0 if unknown.
    is_headless
        Whether the start message of the series was lost.
    run_uid
        Run that was open when the series began, for a stream whose frames name no series.
    is_superseded
        Whether a later series of such a stream has begun.
    curve_index
        Place of the curve in its run, from 0; None before it is assigned.
    doubts
        Doubts about the series that its messages raise.
    n_orphans
        Number of documents without a start document that had come when the series began.
    resumed_s
        Time at which this process went on with a series of an earlier one (monotonic) [s]; -inf for a new series.
    n_unreadable
        Number of messages of the detector since then that could not be decoded.
    preview_fraction, ahead_fraction
        Largest fractions of the frames at which a preview was asked for, and the work on the frames so far.
    """

    key: str
    series: Series
    claim: Claim
    n_announced: int
    is_headless: bool = False
    run_uid: str | None = None
    is_superseded: bool = False
    curve_index: int | None = None
    doubts: tuple[str, ...] = ()
    n_orphans: int = 0
    resumed_s: float = -math.inf
    n_unreadable: int = 0
    preview_fraction: float = 0.0
    ahead_fraction: float = 0.0

    @property
    def has_all_frames(self) -> bool:
        """Whether as many frames were received as announced."""
        return 0 < self.n_announced <= self.series.n_received

    def uid_of(self, run: RunRecord | None) -> str:
        """Return the uid of the run; without a run the claimed uid, else a name made of the series id."""
        if run is not None:
            return run.uid
        return self.claim.run_uid or f"series-{self.series.id}-{int(self.series.wall_s)}"

    def description(self) -> SavedSeries:
        """Return the description with which another process can go on with the series."""
        series = self.series
        return SavedSeries(
            key=self.key,
            start=series.start,
            wall_s=series.wall_s,
            first_id=series.first_id,
            n_announced=self.n_announced,
            is_headless=self.is_headless,
            run_uid=self.run_uid,
            curve_index=self.curve_index,
            is_ended=series.ended_s is not None,
            duplicate=series.duplicate,
            late=series.late,
            bad=series.bad,
            contradictory=series.contradictory,
            doubts=self.doubts,
            parts=tuple(series.parts),
        )


def restore_curve(saved: SavedSeries, series: Series, now_s: float) -> OpenCurve:
    """Return the open curve of a series that an earlier process described; ``now_s`` is monotonic time [s]."""
    return OpenCurve(
        key=saved.key,
        series=series,
        resumed_s=now_s,
        claim=_claim_of(saved),
        n_announced=saved.n_announced,
        is_headless=saved.is_headless,
        run_uid=saved.run_uid,
        curve_index=saved.curve_index,
        doubts=saved.doubts,
    )


def _claim_of(saved: SavedSeries) -> Claim:
    if saved.run_uid is not None:
        return Claim(run_uid=saved.run_uid, is_firm=True)
    return Claim(is_named=True) if saved.is_headless else read_claim(saved.start.user_data)
