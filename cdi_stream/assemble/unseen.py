"""Series that the events of a run name and of which no frame came: nothing else would tell that a scan is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet

from cdi_stream.documents.run_record import RunRecord
from cdi_stream.stream.series import UNNAMED

SeriesNames = tuple[str, ...]
"""Texts of series ids: one name, or the names of all series of one image that form one curve."""


def unseen_series(run: RunRecord, seen: AbstractSet[str]) -> list[SeriesNames]:
    """Return the series of a run of which no frame came, one entry for each curve.

    An event may name the series of several detectors; if one of them came, the event has its frame.  Series that have
    one event each are the images of one curve.

    Parameters
    ----------
    run
        Run whose documents are complete.
    seen
        Texts of the ids of the run's series that came, from `cdi_stream.documents.readings.series_key`.
    """
    if any(name.startswith(UNNAMED) for name in seen):
        return []  # frames that name no series may be those of any series
    events = [event for _, stream in run.streams for _, event in sorted(stream.items())]
    counts = Counter(event.series[0] for event in events if event.series and not seen & set(event.series))
    is_single = len(counts) > 1 and set(counts.values()) == {1}
    if is_single and seen:
        return []  # images that are missing from a curve of single images
    return [tuple(counts)] if is_single else [(name,) for name in counts]
