"""Join a series to its run and its frames to their readings: by id, with the doubts stated.

A run is found by the uid that the plan wrote into the detector's ``user_data``, else by the series id in the
run's events, else by time.  Frames are joined to events by the image id in the event, else by the order of
sequence numbers, never by the order of arrival.  Readings come from events of one stream, else from arrays
in a second one, else from the goniometer of the wire.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.live.runs import RunBook, RunRecord, finite, numbers_in, series_values
from cdi_stream.live.series import Series

Points = dict[int, tuple[int | None, Mapping[str, float]]]

MAX_UID = 200
_UID_KEYS = ("run_uid", "scan_uid", "bluesky_run_uid", "uid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What ``user_data`` says of the run, the curve's place in it and the number of its points.

    ``is_named``: only a run whose events name the series will do, not one that was open at the time.
    """

    run_uid: str | None = None
    curve_index: int | None = None
    n_points: int | None = None
    is_named: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Points of a curve in scan order: image id (-1 unknown) and readings of each.

    ``is_settled`` is true when no further document can change the answer.
    """

    run: RunRecord | None
    image_ids: NDArray[np.intp]
    scanned: Mapping[str, NDArray[np.float64]]
    is_settled: bool
    doubts: tuple[str, ...] = ()


def read_claim(user_data: Any) -> Claim:
    """Read ``user_data``: a run uid, or a map (plain or as JSON text) with ``run_uid`` and more."""
    if isinstance(user_data, str):
        try:
            user_data = json.loads(user_data)
        except (ValueError, RecursionError):
            return Claim(run_uid=_uid(user_data.strip()))
    if not isinstance(user_data, Mapping):
        return Claim()
    uid = next((_uid(str(user_data[key])) for key in _UID_KEYS if user_data.get(key)), None)
    place, n_points = _count(user_data.get("curve_index")), _count(user_data.get("n_points"))
    return Claim(run_uid=uid, curve_index=place, n_points=n_points)


def _uid(text: str) -> str | None:
    """A uid that can be one: it becomes part of names and of documents."""
    return text if 0 < len(text) <= MAX_UID and text.isprintable() else None


def find_run(series: Series, claim: Claim, book: RunBook) -> tuple[RunRecord | None, tuple[str, ...]]:
    """Find the run of a series; None while it has not been heard of."""
    if claim.run_uid is not None:
        return book.runs.get(claim.run_uid), ()
    named = book.runs.get(book.run_of_series.get(series.id, ""))
    if named is not None and _may_hold(named, series.wall_s):
        return named, ()
    if claim.is_named:
        return None, ()
    during = [run for run in book.runs.values() if _was_open(run, series.wall_s)]
    if len(during) == 1:
        return during[0], ("joined to the run by time: neither user_data nor the events name the series",)
    return None, ("several runs were open at the time of the series: none is taken",) if during else ()


def join(series: Series, claim: Claim, run: RunRecord | None, is_over: bool) -> Join:
    """Join frames and readings as far as the documents have come; ``is_over`` ends the waiting."""
    points, is_named = ({}, False) if run is None else _points(run, series, claim)
    n_expected = _within(series, _n_expected(series, claim, run, len(points), is_named))
    first = min(points) if points and is_named and claim.curve_index is None else _first_seq(points, claim, n_expected)
    has_stopped = run is not None and run.stop is not None
    if points and (len(points) >= n_expected or has_stopped or is_over):
        return _from_events(series, run, points, (first, n_expected), has_stopped or is_over)
    if run is not None and (found := _from_second_stream(series, run, n_expected)) is not None:
        return found
    is_settled = is_over or has_stopped or (run is None and claim.run_uid is None and bool(series.start.goniometer))
    ids = np.arange(n_expected)
    axes = {k: (start + step * ids).astype(np.float64) for k, (start, step) in series.start.goniometer.items()}
    doubts = ("readings from the detector's goniometer: no events",) if axes else ("no readings for any frame",)
    return Join(run=run, image_ids=ids, scanned=axes, is_settled=is_settled, doubts=doubts)


def _from_events(series: Series, run: RunRecord | None, points: Points, span: tuple[int, int], is_last: bool) -> Join:
    first, n = span
    ordered = [points[seq] for seq in sorted(points)]
    ids = np.array(
        [seq - first if image_id is None else image_id for seq, (image_id, _) in sorted(points.items())], dtype=np.intp
    )
    keys = set.intersection(*(set(reading) for _, reading in ordered))
    scanned = {key: np.array([reading[key] for _, reading in ordered], dtype=np.float64) for key in sorted(keys)}
    doubts: tuple[str, ...] = ()
    if len(ordered) < n:
        ids, scanned = _extrapolated(ids, scanned, np.array(sorted(points)) - first, n)
        doubts = (f"{n - len(ordered)} of {n} events are missing: readings of their frames are interpolated",)
    unclaimed = np.setdiff1d(series.image_ids, ids)
    is_settled = is_last or (len(unclaimed) == 0 and len(ordered) >= n)
    return Join(run=run, image_ids=ids, scanned=scanned, is_settled=is_settled, doubts=doubts)


def _extrapolated(
    ids: NDArray[np.intp], scanned: dict[str, NDArray[np.float64]], place: NDArray[np.intp], n: int
) -> tuple[NDArray[np.intp], dict[str, NDArray[np.float64]]]:
    """Fill points without an event: ids and readings by a straight line through the known ones."""
    slots = np.arange(max(n, int(place[-1]) + 1))
    degree = 1 if len(place) > 1 else 0
    full_ids: NDArray[np.intp] = np.rint(np.polyval(np.polyfit(place, ids, degree), slots)).astype(np.intp)
    full_ids[place] = ids
    filled: dict[str, NDArray[np.float64]] = {}
    for key, values in scanned.items():
        line: NDArray[np.float64] = np.asarray(np.polyval(np.polyfit(place, values, degree), slots), dtype=np.float64)
        line[place] = values
        filled[key] = line
    return full_ids, filled


def _from_second_stream(series: Series, run: RunRecord, n: int) -> Join | None:
    """Readings as one array per key in an event of any stream (position capture boxes)."""
    for event in _all_events(run):
        arrays = {
            key: np.asarray(value, dtype=float)
            for key, value in event["data"].items()
            if isinstance(value, list) and len(value) == n and all(isinstance(v, numbers.Real) for v in value)
        }
        if arrays and n > 1:
            return Join(run=run, image_ids=np.arange(n), scanned=arrays, is_settled=True)
    return None


def _first_seq(points: Points, claim: Claim, n: int) -> int:
    """Sequence number of the curve's first point, which may itself be lost."""
    offsets = [seq - image_id for seq, (image_id, _) in points.items() if image_id is not None]
    if offsets:
        return int(np.median(offsets))
    return _seq_at(claim.curve_index or 0, n)


def _seq_at(curve_index: int, n: int) -> int:
    """Sequence number of the first point of a curve in a run of curves of ``n`` points, counted from 1."""
    return curve_index * n + 1


def _within(series: Series, n: int) -> int:
    """What was announced, unless no detector of this size could have meant it: then what was seen."""
    return n if n <= series.capacity else series.n_slots


def _points(run: RunRecord, series: Series, claim: Claim) -> tuple[Points, bool]:
    """Image id (None: not recorded) and readings by sequence number, of the stream that speaks of this series.

    The flag tells that the events name several series, or this one only and it is over: its points are its own.
    """
    streams = sorted((s for s in run.events if s != "baseline"), key=lambda s: (s != "primary", s))
    for stream in streams:
        events = run.events[stream]
        named = {seq: e for seq, e in events.items() if series.id in series_values(e["data"])}
        has_names = any(series_values(e["data"]) for e in events.values())
        chosen = named if has_names else _share(events, series, claim)
        points: Points = {}
        for seq, event in chosen.items():
            readings = _readings(event["data"])
            if readings:
                points[seq] = (_image_id(event["data"], series.first_id), readings)
        if points:
            n_series = len({name for e in events.values() for name in series_values(e["data"])})
            has_ids = any(image_id is not None for image_id, _ in points.values())
            return points, not has_ids and (n_series > 1 or (n_series == 1 and series.ended_s is not None))
    return {}, False


def _share(events: dict[int, Mapping[str, Any]], series: Series, claim: Claim) -> dict[int, Mapping[str, Any]]:
    """Events of one curve out of several that do not name their series: by the curve's place in the run."""
    n = claim.n_points or series.start.n_images
    if claim.curve_index is None or not n:
        return events
    first = _seq_at(claim.curve_index, n)
    return {seq: event for seq, event in events.items() if first <= seq < first + n}


def _n_expected(series: Series, claim: Claim, run: RunRecord | None, n_points: int, is_named: bool) -> int:
    """Points that make the curve: as claimed, as counted when the run is over, else as announced.

    Where events name several series, each has its own points and those of the run are no measure.
    """
    if claim.n_points:
        return claim.n_points
    if is_named:
        return max(series.start.n_images or 0, n_points, series.n_slots)
    if run is not None and run.stop is not None and n_points:
        return max(n_points, _counted(run) if len(run.events) == 1 else 0)
    declared = None if run is None or claim.curve_index is not None else _count(run.start.get("num_points"))
    return max(declared or series.start.n_images or 0, n_points) or series.n_slots


def _counted(run: RunRecord) -> int:
    return int((run.stop or {}).get("num_events", {}).get("primary", 0))


def _all_events(run: RunRecord) -> Iterable[Mapping[str, Any]]:
    for stream, events in run.events.items():
        if stream != "baseline":
            yield from events.values()


def _image_id(data: Mapping[str, Any], first_id: int) -> int | None:
    """Slot of the image that an event names; ``unique_id`` is areaDetector's running number."""
    found = next((v for k, v in data.items() if k.endswith(("image_id", "frame_id", "unique_id"))), None)
    number = finite(found)
    return None if number is None or abs(number) > 2**53 else int(number) - first_id


def _readings(data: Mapping[str, Any]) -> dict[str, float]:
    return numbers_in(data)


def _was_open(run: RunRecord, wall_s: float, slack_s: float = 2.0) -> bool:
    end = float("inf") if run.stop is None else run.stop.get("time", float("inf"))
    return run.start.get("time", 0) - slack_s <= wall_s <= end + slack_s


def _may_hold(run: RunRecord, wall_s: float, slack_s: float = 60.0) -> bool:
    """Whether a run that names a series can mean this one: detectors begin to count anew when they restart."""
    return run.stop is None or run.stop.get("time", wall_s) + slack_s >= wall_s


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
