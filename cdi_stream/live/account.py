"""Where every frame of a curve went."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdi_stream.live.series import Series
from cdi_stream.messages import FrameAccount


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
