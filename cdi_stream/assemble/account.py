"""Frame account of a curve, and the doubts that lost frames and lost documents raise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdi_stream.documents.run_record import RunRecord
from cdi_stream.messages import FrameAccount
from cdi_stream.stream.series import Series


def doubt_of_second_puller(series: Series) -> tuple[str, ...]:
    """Return a doubt if only every n-th frame came, which a second PULL socket on the detector causes; else none."""
    steps = np.diff(series.image_ids)
    step = int(np.median(steps)) if len(steps) > 3 else 1
    if step < 2 or np.mean(steps == step) < 0.8:
        return ()
    return (
        f"only one frame in {step} came: another PULL socket on the detector takes the others; put 'cdi-stream tee' "
        'between, or use socket = "sub"',
    )


def doubt_of_contradiction(series: Series) -> tuple[str, ...]:
    """Return a doubt if images came twice with different counts: damaged on their way, or of two series of one id."""
    n = series.contradictory
    return (f"{n} images came twice with different counts: the first of each is used",) if n else ()


def doubts_of_losses(run: RunRecord | None, n_orphans: int, n_unreadable: int) -> tuple[str, ...]:
    """Return the doubts about documents and messages that were lost or could not be used.

    Parameters
    ----------
    run
        Run of the curve, None if it is unknown.
    n_orphans
        Number of documents since the series began whose run has no start document.
    n_unreadable
        Number of messages of the detector since the series began that could not be decoded; 0 if no frame is missing.
    """
    doubts: tuple[str, ...] = ()
    if run is not None and not run.is_uid_known:
        doubts += ("only events of the run were received, no start document, descriptor or stop document",)
    elif run is not None and not run.is_start_received:
        doubts += (
            "the start document of the run was not received: was it sent before the service was connected to the bus?",
        )
    if run is not None and run.n_descriptors_lost:
        doubts += (
            f"{run.n_descriptors_lost} descriptors of the run were not received: their streams are known by the number "
            "of their events only",
        )
    if run is not None and (n_lost := run.missing_events()):
        doubts += (f"{n_lost} documents of the run were lost on the bus",)
    if run is None and n_orphans:
        doubts += (
            f"{n_orphans} documents came of runs whose start document was not received: start the service before the "
            "run begins; the start document may also have been lost on the bus",
        )
    if n_unreadable:
        doubts += (f"{n_unreadable} messages of the detector could not be decoded during the series",)
    return doubts


def account_of(series: Series, slots: NDArray[np.intp]) -> FrameAccount:
    """Return the frame account of a curve; ``slots`` holds the slot of the frame of each point, -1 for none.

    A frame that belongs to no point counts as a duplicate: its point was measured again.
    """
    has = np.isin(slots, series.image_ids)
    extra = series.n_received - int(np.isin(series.image_ids, slots).sum())
    return FrameAccount(
        expected=len(slots),
        received=int(has.sum()),
        missing=tuple(int(i) for i in np.flatnonzero(~has)),
        duplicate=series.duplicate + extra,
        late=series.late,
        bad=series.bad,
    )
