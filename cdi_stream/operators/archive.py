"""Archive: the scans whose results lie in the results folder, found by their files, so that no restart forgets them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from cdi_stream.disk.result_folder import result_files
from cdi_stream.files.result_file import readings_in
from cdi_stream.messages import Reading
from cdi_stream.operators.feed import STAGES

logger = logging.getLogger(__name__)

REFRESH_S = 1.0
"""Shortest time [s] between two looks into the folder."""

LOOK_AGAIN_S = 0.2
"""The same where a result is asked for that is not known: the feed may have told of it a moment ago."""

_SCALARS_LEFT_OUT = ("curve_index", "series", "fourier_sign", "handedness")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedResult:
    """One result file, without its arrays.

    Parameters
    ----------
    path
        The file.
    stage, run_uid, curve_index
        Stage of the result, uid of the run that published it, and place of the curve in the raw run.
    raw_uid, scan_id, sample, plan_name, motors
        Raw run as its start document names it; empty or None where it states nothing.
    time_s
        Time of the file [s since the epoch].
    verdict, reasons, method
        Verdict with its reasons; method of a refinement.
    scalars
        Finite numbers of the result by name.
    readings
        Readings of the run by data key; a reconstruction has them.
    """

    path: Path
    stage: str
    run_uid: str
    curve_index: int
    raw_uid: str
    scan_id: int | None
    sample: str
    plan_name: str
    motors: str
    time_s: float
    verdict: str
    reasons: tuple[str, ...]
    method: str
    scalars: Mapping[str, float]
    readings: Mapping[str, Reading]

    @property
    def is_final(self) -> bool:
        """Whether the verdict counts for the scan: those of previews and first answers are preliminary."""
        return self.stage in ("reconstruction", "refinement")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedScan:
    """A raw run with its results, the oldest first."""

    uid: str
    results: tuple[ArchivedResult, ...]

    @property
    def newest(self) -> ArchivedResult:
        """The result that stands for the scan: the newest final one, else the newest."""
        return newest_of(self.results)

    @property
    def curves(self) -> dict[int, tuple[ArchivedResult, ...]]:
        """Results of each curve by its place in the run, in that order."""
        places = sorted({result.curve_index for result in self.results})
        return {k: tuple(result for result in self.results if result.curve_index == k) for k in places}

    @property
    def time_s(self) -> float:
        """Time of the first result [s since the epoch], so that a late refinement does not move the scan."""
        return self.results[0].time_s

    def find(self, stage: str | None, curve_index: int | None) -> ArchivedResult | None:
        """Return the newest result of a stage and a curve; without them the one that stands for the scan."""
        if stage is None and curve_index is None:
            return self.newest
        fitting = [
            result
            for result in self.results
            if stage in (None, result.stage) and curve_index in (None, result.curve_index)
        ]
        return max(fitting, key=lambda result: (STAGES.index(result.stage), result.time_s), default=None)


def newest_of(results: Sequence[ArchivedResult]) -> ArchivedResult:
    """Return the newest final result, else the newest, of results in order of time."""
    return next((result for result in reversed(results) if result.is_final), results[-1])


class Archive:
    """Scans in a folder and its subfolders.  Safe to use from several threads.

    A file is read once, and again when it has changed; a file that cannot be read is left out.

    Parameters
    ----------
    folder
        Folder of the results.
    clock
        Monotonic time [s].
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_s = -math.inf
        self._files: dict[Path, tuple[int, ArchivedResult | None]] = {}
        self._found: dict[str, ArchivedScan] = {}

    def scans(self, *, verdict: str | None = None, text: str = "") -> list[ArchivedScan]:
        """Return the scans with a verdict that have a text in uid, number, sample, plan or motors, newest first."""
        scans = self._scans().values()
        found = (scan for scan in scans if verdict in (None, scan.newest.verdict) and _has(scan, text))
        return sorted(found, key=lambda scan: scan.time_s, reverse=True)

    def scan(self, uid: str) -> ArchivedScan | None:
        """Return the scan of a raw run; None if there is none."""
        return self._scans().get(uid)

    def result(self, uid: str, stage: str | None, curve_index: int | None) -> ArchivedResult | None:
        """Return a result of a raw run, see `ArchivedScan.find`; None if there is none."""
        for oldest_s in (REFRESH_S, LOOK_AGAIN_S):
            scan = self._scans(oldest_s).get(uid)
            if scan is not None and (found := scan.find(stage, curve_index)) is not None:
                return found
        return None

    def _scans(self, oldest_s: float = REFRESH_S) -> dict[str, ArchivedScan]:
        """Return all scans by the uid of the raw run; if the last look is ``oldest_s`` old, look for changes."""
        with self._lock:
            if self._clock() - self._looked_s >= oldest_s:
                self._files = dict(self._looked_up())
                self._found = _by_run(result for _, result in self._files.values() if result is not None)
                self._looked_s = self._clock()
            return self._found

    def _looked_up(self) -> Iterator[tuple[Path, tuple[int, ArchivedResult | None]]]:
        """Yield each file with its time and its result; known files are not opened."""
        for path, stage in result_files(self.folder, STAGES):
            try:
                changed_ns = path.stat().st_mtime_ns
            except OSError:
                continue  # deleted meanwhile
            known = self._files.get(path)
            if known is None or known[0] != changed_ns:
                known = changed_ns, _read(path, stage, changed_ns / 1e9)
            yield path, known


def _by_run(results: Iterable[ArchivedResult]) -> dict[str, ArchivedScan]:
    """Return the scans of results by the uid of the raw run."""
    by_uid: dict[str, list[ArchivedResult]] = {}
    for result in sorted(results, key=lambda result: result.time_s):
        by_uid.setdefault(result.raw_uid, []).append(result)
    return {uid: ArchivedScan(uid=uid, results=tuple(results)) for uid, results in by_uid.items()}


def _read(path: Path, stage: str, time_s: float) -> ArchivedResult | None:
    """Return the result in a file; None if it cannot be read, or names no raw run."""
    try:
        with h5py.File(path, "r") as file:
            about, numbers = dict(file["entry"].attrs), dict(file["entry/cdi_stream"].attrs)
            readings = readings_in(file)
        return _result(path, stage, about, numbers, readings, time_s)
    except (OSError, KeyError, ValueError, TypeError) as error:
        logger.warning("%s is left out of the history: %s", path, error)
        return None


def _result(
    path: Path,
    stage: str,
    about: Mapping[str, object],
    numbers: Mapping[str, object],
    readings: Mapping[str, Reading],
    time_s: float,
) -> ArchivedResult:
    return ArchivedResult(
        path=path,
        stage=stage,
        run_uid=str(about.get("run_uid", "")),
        curve_index=_whole(numbers["curve_index"]) or 0,
        raw_uid=str(about["raw_uid"]),
        scan_id=_whole(about.get("scan_id")),
        sample=str(about.get("sample", "")),
        plan_name=str(about.get("plan_name", "")),
        motors=str(about.get("motors", "")),
        time_s=time_s,
        verdict=str(numbers["verdict"]),
        reasons=tuple(reason for reason in str(numbers["reasons"]).split(" | ") if reason),
        method=str(numbers.get("method", "")),
        scalars=_scalars(numbers),
        readings=readings,
    )


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | np.integer) else None


def _scalars(numbers: Mapping[str, object]) -> dict[str, float]:
    """Return the finite numbers among the attributes of a result."""
    plain = {
        name: float(value)
        for name, value in numbers.items()
        if isinstance(value, int | float | np.number) and name not in _SCALARS_LEFT_OUT
    }
    return {name: value for name, value in plain.items() if math.isfinite(value)}


def _has(scan: ArchivedScan, text: str) -> bool:
    """Whether all words of a text are in the names of a scan."""
    result = scan.newest
    number = "" if result.scan_id is None else f"scan {result.scan_id}"
    names = " ".join((scan.uid, number, result.sample, result.plan_name, result.motors, result.verdict)).lower()
    return all(word in names for word in text.lower().split())
