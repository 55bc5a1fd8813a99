"""Where every frame of a curve went."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdi_stream.documents.runs import RunRecord
from cdi_stream.messages import FrameAccount
from cdi_stream.stream.series import Series


def doubt_of_theft(series: Series) -> tuple[str, ...]:
    """Return the doubt about a series of which only every n-th frame came: a second PULL takes the others."""
    steps = np.diff(series.image_ids)
    step = int(np.median(steps)) if len(steps) > 3 else 1
    if step < 2 or np.mean(steps == step) < 0.8:
        return ()
    return (
        f"only every {step}. frame came: another PULL socket on the detector takes the others; put 'cdi-stream tee' "
        'between, or use socket = "sub"',
    )


def doubts_of_losses(run: RunRecord | None, n_orphans: int, n_unreadable: int) -> tuple[str, ...]:
    """Return the doubts about documents and messages that did not come, or came and could not be used.

    Parameters
    ----------
    run
        Run of the curve, None if it was not found.
    n_orphans
        Documents of runs whose start was not heard that came since the series began.
    n_unreadable
        Messages of the detector that could not be read meanwhile, 0 where no frame is missing.
    """
    doubts: tuple[str, ...] = ()
    if run is not None and not run.is_start_heard:
        doubts += ("the start document of the run was not heard: was it sent before its listeners were connected?",)
    if run is not None and (lost := run.missing_events()):
        doubts += (f"{lost} documents of the run were lost on the bus",)
    if run is None and n_orphans:
        doubts += (
            f"{n_orphans} documents came of runs whose start was not heard: the service must listen before the run "
            "begins, and the start document may have been lost on the bus",
        )
    if n_unreadable:
        doubts += (f"{n_unreadable} messages that could not be read came during the series",)
    return doubts


def account_of(series: Series, slots: NDArray[np.intp]) -> FrameAccount:
    """Return the account by place in the scan; a frame that a later event superseded counts as a duplicate."""
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
