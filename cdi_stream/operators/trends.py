"""Trends over the scans of the archive: numbers of the results, and readings of the runs such as a temperature."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cdi_stream.messages import Reading
from cdi_stream.operators.archive import ArchivedResult, ArchivedScan, newest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendPoint:
    """A curve in a trend: raw run, its number, place of the curve in the run, time [s since the epoch] and value."""

    uid: str
    scan_id: int | None
    curve_index: int
    time_s: float
    value: float


def changing_readings(scans: Iterable[ArchivedScan]) -> dict[str, str]:
    """Return the readings that differ between scans, with their units, in order of their names."""
    seen: dict[str, Reading] = {}
    changing: dict[str, str] = {}
    for results in _curves(scans):
        for name, reading in _readings(results).items():
            if seen.setdefault(name, reading).value != reading.value:
                changing[name] = reading.unit
    return dict(sorted(changing.items()))


def trend(scans: Iterable[ArchivedScan], name: str, *, is_reading: bool) -> list[TrendPoint]:
    """Return the points of a number of the results, or of a reading of the runs; curves without it have no point.

    A curve counts by its newest final result; a failed one has no numbers, and is left out.
    """
    points = []
    for results in _curves(scans):
        newest = newest_of(results)
        reading = _readings(results).get(name) if is_reading else None
        value = newest.scalars.get(name) if not is_reading else None if reading is None else reading.value
        if value is not None and newest.verdict != "failed":
            points.append(
                TrendPoint(
                    uid=newest.raw_uid,
                    scan_id=newest.scan_id,
                    curve_index=newest.curve_index,
                    time_s=results[0].time_s,
                    value=value,
                )
            )
    return points


def _curves(scans: Iterable[ArchivedScan]) -> list[tuple[ArchivedResult, ...]]:
    """Return the results of each curve, the oldest curve first."""
    return sorted((results for scan in scans for results in scan.curves.values()), key=lambda found: found[0].time_s)


def _readings(results: Sequence[ArchivedResult]) -> dict[str, Reading]:
    """Return the readings of a curve, from all its results."""
    return {name: reading for result in results for name, reading in result.readings.items()}
