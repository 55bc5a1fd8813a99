"""Record: frames of a stream into HDF5 as they come, each once, with an account of those that did not.

``/entry/data/data`` is ``(n_frames, rows, cols)`` in the wire's data type and order of arrival, ``frame_id`` and
``receive_time_ns`` lie beside it, ``series_index`` tells the series apart.  A series whose images have another
shape or type goes on in ``/entry_2`` and so on.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cdi_stream.assemble.join import RunMatch, join
from cdi_stream.disk.growing import GrowingFile
from cdi_stream.documents.claim import read_claim
from cdi_stream.documents.readings import series_key
from cdi_stream.documents.runs import RunBook, RunRecord
from cdi_stream.files.recording import DETECTOR_HEADER, FRAME, scan_header
from cdi_stream.messages import DetectorFrame, RecordedScan, SeriesEnd, SeriesId, SeriesStart, WireMessage
from cdi_stream.stream.series import Series, SeriesLimits

NAMELESS = "unnamed"
SPARE = 2
"""Space for a frame, in its own bytes: one that does not compress takes a little more than it has."""

DESCRIPTION_BYTES = 256
"""Space kept for what is written of a frame at the end [bytes]: its place on up to thirty motors."""

CUT_OFF = "the recording was cut off: frames of its last second may be missing, and nothing is known of the motors"
_ONE_PIXEL = np.zeros((1, 1), dtype=np.uint8)
_COUNTS = ("expected", "received", "missing", "duplicate", "late", "bad")
_FRAME_NAMES = ("series_id", "series", "image_id", "frame_id", "unique_id")


@dataclass(slots=True)
class _Recorded:
    """One series: its account (of pixels that lie on disk, so of one pixel each here) and its place in the file.

    ``run_uid``: the run that was open at the first frame, for frames of no series.
    """

    series: Series
    entry: str
    index: int
    run_uid: str | None = None


class Recorder:
    """Writes messages into ``path``; `close` completes the file and returns the frame counts.

    After the end of ``n_series`` (0: never) only late frames of those are taken.
    """

    def __init__(self, path: Path, beamline: str | None = None, n_series: int = 0) -> None:
        self.n_ended = 0
        self.book = RunBook(time.time)
        self._beamline = beamline
        self._n_series = n_series
        self._growing = GrowingFile(path)
        self._file = self._growing.root
        self._file.create_group("entry/cdi_stream")
        self._growing.flush()
        self._series: list[_Recorded] = []
        self._n_written: dict[str, int] = {}

    def take(self, message: WireMessage, receive_time_ns: int) -> None:
        """Write a frame, or note the start or end of its series."""
        now = receive_time_ns / 1e9
        if self.is_done and (isinstance(message, SeriesStart) or self._known(message.series) is None):
            return
        if isinstance(message, SeriesStart):
            self._begin(message, now)
        elif isinstance(message, SeriesEnd):
            self._end(self._known(message.series), now)
        else:
            self._frame(message, receive_time_ns)

    def on_document(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take a document; the end of a run ends the frames of a stream that knows no series."""
        self.book.on_document(name, doc)
        is_end, nameless = name == "stop" and doc["run_start"] in self.book.runs, self._known(None)
        if is_end and nameless is not None and nameless.run_uid in (None, doc["run_start"]):
            self._end(nameless, time.time())

    @property
    def is_done(self) -> bool:
        """Whether as many series have ended as were asked for."""
        return 0 < self._n_series <= self.n_ended

    def flush(self) -> None:
        """Let what is written reach the disk, so that a kill loses nothing older."""
        self._cut_to_size()
        self._growing.flush()

    @property
    def n_frames(self) -> int:
        """Frames written."""
        return sum(self._n_written.values())

    def close(self) -> dict[str, int]:
        """Write accounts, and what the documents told of the motors; return the counts of all series together.

        Where the disk has no room for these, the frames alone are kept.
        """
        self._cut_to_size()
        with contextlib.suppress(OSError):
            self._growing.reserve(self.n_frames * DESCRIPTION_BYTES)
            self._describe_all()
        self._growing.close()
        accounts = [self._account(one) for one in self._series]
        return {name: sum(a[name] for a in accounts) for name in _COUNTS}

    def _describe_all(self) -> None:
        for one in self._series:
            if one.entry:
                self._describe(one)
        accounts: list[dict[str, Any]] = [{"series": one.series.id, **self._account(one)} for one in self._series]
        self._file.require_group("entry/cdi_stream")["accounting"] = json.dumps(accounts)
        self._file.attrs["default"] = "entry"

    def _cut_to_size(self) -> None:
        """Let the datasets end with the last frame: what a flush brings to disk has no place for later ones."""
        for entry, n in self._n_written.items():
            for dataset in self._file[f"{entry}/data"].values():
                dataset.resize(n, axis=0)

    def _begin(self, start: SeriesStart, now: float) -> None:
        known = self._known(start.series)
        if known is not None and known.series.ended_s is None and not known.series.n_received:
            known.series.start = start
            return
        for one in self._series:
            self._end(one, now)  # a new series: the end of the last one was lost
        if not self.is_done:
            self._open(start, now)

    def _open(self, start: SeriesStart, now: float) -> _Recorded:
        limits = SeriesLimits(max_images=10_000_000, max_bytes=1 << 62)
        one = _Recorded(Series(start, limits, now, now), entry="", index=len(self._series))
        self._series.append(one)
        return one

    def _end(self, one: _Recorded | None, now: float) -> None:
        if one is not None and one.series.ended_s is None:
            one.series.end(now)
            self.n_ended += 1

    def _known(self, series: SeriesId | None) -> _Recorded | None:
        name = NAMELESS if series is None else series
        return next((one for one in reversed(self._series) if one.series.id == name), None)

    def _frame(self, frame: DetectorFrame, receive_time_ns: int) -> None:
        now = receive_time_ns / 1e9
        self._growing.reserve(SPARE * frame.pixels.nbytes + self.n_frames * DESCRIPTION_BYTES)
        one = self._known(frame.series)
        if one is None or (frame.series is None and self._is_next(one, frame.image_id)):
            self._end(one, now)
            one = self._open(SeriesStart(series=NAMELESS if frame.series is None else frame.series), now)
            if frame.series is None:
                one.series.first_id, one.run_uid = frame.image_id, self.book.newest_open()
        n_before = one.series.n_received
        one.series.add(DetectorFrame(series=frame.series, image_id=frame.image_id, pixels=_ONE_PIXEL), now)
        if one.series.n_received > n_before:
            is_first, one.entry = not one.entry, self._entry_for(frame.pixels)
            if is_first:
                self._describe_start(one)
            self._write(one, frame, receive_time_ns)
            if is_first:
                self.flush()

    def _is_next(self, one: _Recorded, image_id: int) -> bool:
        """Whether a frame of no series is another scan's: the count begins anew, or another run has begun."""
        is_next_run = one.series.ended_s is not None and self.book.newest_open() is not None
        return image_id <= one.series.first_id or is_next_run

    def _entry_for(self, pixels: NDArray[Any]) -> str:
        """Entry that holds images of this shape and type."""
        for entry in self._n_written:
            data = self._file[f"{entry}/data/data"]
            if data.shape[1:] == pixels.shape and data.dtype == pixels.dtype:
                return entry
        entry = "entry" if not self._n_written else f"entry_{len(self._n_written) + 1}"
        _create(self._file, entry, pixels)
        self._n_written[entry] = 0
        return entry

    def _write(self, one: _Recorded, frame: DetectorFrame, receive_time_ns: int) -> None:
        group, n = self._file[f"{one.entry}/data"], self._n_written[one.entry]
        values = {"data": frame.pixels, "frame_id": frame.image_id, "receive_time_ns": receive_time_ns}
        for name, value in (values | {"series_index": one.index}).items():
            if n >= len(group[name]):
                group[name].resize(max(64, 2 * n), axis=0)
            group[name][n] = value
        self._n_written[one.entry] = n + 1

    def _account(self, one: _Recorded) -> dict[str, int]:
        series = one.series
        n_expected = max(series.start.n_images or 0, series.n_slots)
        n = series.n_received
        return dict(
            zip(_COUNTS, (n_expected, n, n_expected - n, series.duplicate, series.late, series.bad), strict=True)
        )

    def _describe(self, one: _Recorded) -> None:
        """Make a series one that replay understands: motors from the documents, else from the wire."""
        data = self._file[f"{one.entry}/data"]
        ids = data["frame_id"][()][data["series_index"][()] == one.index]
        scan = self._scan_of(one, ids - one.series.first_id)
        group = self._file[f"{one.entry}/cdi_stream/series_{one.index}"]
        group.attrs["header"] = json.dumps(scan_header(scan))
        for motor, values in scan.scanned.items():
            group[f"scanned/{motor}"] = values

    def _describe_start(self, one: _Recorded) -> None:
        """Write what is known at the first frame, so that a recording that is killed can be read."""
        detector = _header_of(one.series.start)
        scan = RecordedScan(
            name=f"series {one.series.id}",
            frames=np.zeros((0, 0, 0)),
            beamline=self._beamline,
            scanned={FRAME: np.zeros(0)},
            baseline={},
            units={},
            detector=detector,
            notes=(CUT_OFF,),
        )
        group = self._file.create_group(f"{one.entry}/cdi_stream/series_{one.index}")
        group.attrs["header"] = json.dumps(scan_header(scan))
        mask = one.series.start.pixel_mask
        if mask is not None and mask.shape == self._file[f"{one.entry}/data/data"].shape[1:]:
            group["pixel_mask"] = mask

    def _scan_of(self, one: _Recorded, slots: NDArray[np.intp]) -> RecordedScan:
        start, run = one.series.start, self._run_of(one)
        match = RunMatch(run=run, by="nothing" if run is None else "uid")
        joined = join(one.series, read_claim(start.user_data), match, is_over=True)
        place = {int(slot): k for k, slot in enumerate(joined.slots)}
        order = [place[slot] for slot in slots.tolist() if slot in place]
        moved = [] if run is None else run.start.get("motors", [])
        readings = {} if run is None else run.readings
        own = _own((*joined.scanned, *readings))
        names = sorted((n for n in joined.scanned if n in own), key=lambda n: (n not in moved, n))
        scanned = {name: joined.scanned[name][order] for name in names} if len(order) == len(slots) else {}
        return RecordedScan(
            name=f"series {one.series.id}",
            frames=np.zeros((0, 0, 0)),
            beamline=self._beamline,
            scanned=scanned or {FRAME: slots.astype(float)},
            baseline={name: value for name, value in readings.items() if name in own and name not in scanned},
            units={} if run is None else run.units,
            detector=_header_of(start),
            run_uid=None if run is None else run.uid,
            notes=joined.doubts,
        )

    def _run_of(self, one: _Recorded) -> RunRecord | None:
        claim = read_claim(one.series.start.user_data)
        named = self.book.that_name(series_key(one.series.id))
        found = self.book.runs.get(claim.run_uid or one.run_uid or (named[-1].uid if named else ""))
        return found if found is not None or len(self.book.runs) != 1 else next(iter(self.book.runs.values()))


def _header_of(start: SeriesStart) -> dict[str, float]:
    """What a detector said of itself, by the names of `RecordedScan.detector`."""
    return {key: value for key in DETECTOR_HEADER if (value := getattr(start, key)) is not None}


def _own(names: tuple[str, ...]) -> set[str]:
    """Motors and counters, without what belongs to one of them (``theta_setpoint``) or names a frame."""
    parts = {name for name in names if any(name.startswith(f"{other}_") for other in names)}
    return {name for name in names if name not in parts and not name.endswith(_FRAME_NAMES)}


def _create(file: h5py.File, entry: str, pixels: NDArray[Any]) -> None:
    """Make an entry that silx shows as a stack of images."""
    root = file.require_group(entry)
    root.attrs["NX_class"], root.attrs["default"] = "NXentry", "data"
    group = root.create_group("data")
    group.attrs["NX_class"], group.attrs["signal"] = "NXdata", "data"
    group.create_dataset(
        "data",
        shape=(0, *pixels.shape),
        maxshape=(None, *pixels.shape),
        chunks=(1, *pixels.shape),
        dtype=pixels.dtype,
        compression="lzf",  # the fastest that every HDF5 of Python reads without plugins
    )
    for name in ("frame_id", "receive_time_ns", "series_index"):
        group.create_dataset(name, shape=(0,), maxshape=(None,), chunks=(1024,), dtype=np.int64)
