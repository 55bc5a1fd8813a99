"""Recorder: writes the frames of a stream into HDF5 as they come, each frame once, with the frame account.

``/entry/data/data`` is ``(n_frames, rows, cols)`` in the data type of the wire and in order of arrival.  Next to it
are ``frame_id``, ``receive_time_ns`` [ns since the epoch] and ``series_index``, which numbers the series.  Images of
another shape or data type are written into ``/entry_2`` and so on.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cdi_stream.assemble.join import join
from cdi_stream.assemble.run_match import RunMatch
from cdi_stream.disk.growing import GrowingFile
from cdi_stream.documents.claim import read_claim
from cdi_stream.documents.readings import series_key
from cdi_stream.documents.run_record import RunRecord
from cdi_stream.documents.runs import RunBook
from cdi_stream.files.recording import DETECTOR_HEADER, FRAME, scan_header
from cdi_stream.messages import DetectorFrame, Document, RecordedScan, SeriesEnd, SeriesId, SeriesStart, WireMessage
from cdi_stream.stream.series import Series, SeriesLimits

UNNAMED = "unnamed"
"""Series id of frames that name no series."""

RESERVED_PER_FRAME = 2
"""Disk space reserved for a frame, as a multiple of its size: a frame that does not compress takes more than one."""

DESCRIPTION_BYTES = 256
"""Disk space [bytes] reserved for each frame's readings, which are written at the end: about thirty motors."""

CUT_OFF_NOTE = "the recording was cut off: frames of its last second may be missing, and no motor is recorded"
"""Note of a recording whose process was killed."""

_ONE_PIXEL = np.zeros((1, 1), dtype=np.uint8)
_COUNTS = ("expected", "received", "missing", "duplicate", "late", "bad")
_FRAME_NAMES = ("series_id", "series", "image_id", "frame_id", "unique_id")


@dataclass(slots=True)
class _SeriesEntry:
    """One series in the file.

    ``series`` keeps its frame account, with images of one pixel because the pixels are on disk.  ``group`` is its HDF5
    group, ``index`` its number.  ``run_uid`` is the run that was open at the first frame, if the frames name no series.
    """

    series: Series
    group: str
    index: int
    run_uid: str | None = None


class Recorder:
    """Writes messages into ``path``; `close` completes the file and returns the frame counts.

    After the end of ``n_series`` series (0: no limit) only late frames of these series are written.
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
        self._series: list[_SeriesEntry] = []
        self._n_written: dict[str, int] = {}

    def take(self, message: WireMessage, receive_time_ns: int) -> None:
        """Write a frame, or note the start or end of a series.

        Raises
        ------
        WireError
            If the frame does not fit its series.
        OSError
            If the disk is full.
        """
        now = receive_time_ns / 1e9
        if self.is_done and (isinstance(message, SeriesStart) or self._find(message.series) is None):
            return
        if isinstance(message, SeriesStart):
            self._begin(message, now)
        elif isinstance(message, SeriesEnd):
            self._end(self._find(message.series), now)
        else:
            self._frame(message, receive_time_ns)

    def on_document(self, name: str, doc: Document) -> None:
        """Take a document; the stop document ends the series of a stream whose frames name no series.

        Raises
        ------
        WireError
            If the document cannot be used.
        """
        self.book.on_document(name, doc)
        is_end, nameless = name == "stop" and doc["run_start"] in self.book.runs, self._find(None)
        if is_end and nameless is not None and self.book.uid_now(nameless.run_uid or "") in ("", doc["run_start"]):
            self._end(nameless, time.time())

    @property
    def is_done(self) -> bool:
        """Whether ``n_series`` series have ended."""
        return 0 < self._n_series <= self.n_ended

    def flush(self) -> None:
        """Write all frames so far to disk, so that they survive if the process is killed."""
        self._cut_to_size()
        self._growing.flush()

    @property
    def n_frames(self) -> int:
        """Number of frames written."""
        return sum(self._n_written.values())

    def close(self) -> dict[str, int]:
        """Write the frame accounts and the readings of the motors; return the frame counts of all series together.

        If the disk is full, the file keeps the frames without them.
        """
        self._cut_to_size()
        with contextlib.suppress(OSError):
            self._growing.reserve(self.n_frames * DESCRIPTION_BYTES)
            self._describe_all()
        self._growing.close()
        accounts = [self._account(entry) for entry in self._series]
        return {name: sum(a[name] for a in accounts) for name in _COUNTS}

    def _describe_all(self) -> None:
        for entry in self._series:
            if entry.group:
                self._describe(entry)
        accounts: list[dict[str, Any]] = [{"series": entry.series.id, **self._account(entry)} for entry in self._series]
        self._file.require_group("entry/cdi_stream")["accounting"] = json.dumps(accounts)
        self._file.attrs["default"] = "entry"

    def _cut_to_size(self) -> None:
        """Shrink the datasets to the frames written, so that the file on disk has no empty frames."""
        for entry, n in self._n_written.items():
            for dataset in self._file[f"{entry}/data"].values():
                dataset.resize(n, axis=0)

    def _begin(self, start: SeriesStart, now: float) -> None:
        known = self._find(start.series)
        if known is not None and known.series.ended_s is None and not known.series.n_received:
            known.series.start = start
            return
        for entry in self._series:
            self._end(entry, now)  # the end of the earlier series was lost
        if not self.is_done:
            self._open(start, now)

    def _open(self, start: SeriesStart, now: float) -> _SeriesEntry:
        limits = SeriesLimits(max_images=10_000_000, max_bytes=1 << 62)
        entry = _SeriesEntry(Series(start, limits, now, now), group="", index=len(self._series))
        self._series.append(entry)
        return entry

    def _end(self, entry: _SeriesEntry | None, now: float) -> None:
        if entry is not None and entry.series.ended_s is None:
            entry.series.end(now)
            self.n_ended += 1

    def _find(self, series: SeriesId | None) -> _SeriesEntry | None:
        name = UNNAMED if series is None else series
        return next((entry for entry in reversed(self._series) if entry.series.id == name), None)

    def _frame(self, frame: DetectorFrame, receive_time_ns: int) -> None:
        """Write a frame into the entry of its series, which is opened if its start message was lost."""
        now = receive_time_ns / 1e9
        self._growing.reserve(RESERVED_PER_FRAME * frame.pixels.nbytes + self.n_frames * DESCRIPTION_BYTES)
        entry = self._find(frame.series)
        if entry is None or (frame.series is None and self._is_next(entry, frame.image_id)):
            self._end(entry, now)
            entry = self._open(SeriesStart(series=UNNAMED if frame.series is None else frame.series), now)
            if frame.series is None:
                entry.series.first_id, entry.run_uid = frame.image_id, self.book.newest_open()
        n_before = entry.series.n_received
        entry.series.add(DetectorFrame(series=frame.series, image_id=frame.image_id, pixels=_ONE_PIXEL), now)
        if entry.series.n_received > n_before:
            is_first, entry.group = not entry.group, self._entry_for(frame.pixels)
            if is_first:
                self._describe_start(entry)
            self._write(entry, frame, receive_time_ns)
            if is_first:
                self.flush()

    def _is_next(self, entry: _SeriesEntry, image_id: int) -> bool:
        """Whether a frame without a series id begins another series: its id starts again, or another run has begun."""
        is_next_run = entry.series.ended_s is not None and self.book.newest_open() is not None
        return image_id <= entry.series.first_id or is_next_run

    def _entry_for(self, pixels: NDArray[Any]) -> str:
        """Return the HDF5 group for images of this shape and data type."""
        for entry in self._n_written:
            data = self._file[f"{entry}/data/data"]
            if data.shape[1:] == pixels.shape and data.dtype == pixels.dtype:
                return entry
        entry = "entry" if not self._n_written else f"entry_{len(self._n_written) + 1}"
        _create(self._file, entry, pixels)
        self._n_written[entry] = 0
        return entry

    def _write(self, entry: _SeriesEntry, frame: DetectorFrame, receive_time_ns: int) -> None:
        group, n = self._file[f"{entry.group}/data"], self._n_written[entry.group]
        values = {"data": frame.pixels, "frame_id": frame.image_id, "receive_time_ns": receive_time_ns}
        for name, value in (values | {"series_index": entry.index}).items():
            if n >= len(group[name]):
                group[name].resize(max(64, 2 * n), axis=0)
            group[name][n] = value
        self._n_written[entry.group] = n + 1

    def _account(self, entry: _SeriesEntry) -> dict[str, int]:
        series = entry.series
        n_expected = max(series.start.n_images or 0, series.n_slots)
        n = series.n_received
        return dict(
            zip(_COUNTS, (n_expected, n, n_expected - n, series.duplicate, series.late, series.bad), strict=True)
        )

    def _describe(self, entry: _SeriesEntry) -> None:
        """Write what replay needs to know of a series: motors from the documents, else from the detector's header."""
        data = self._file[f"{entry.group}/data"]
        ids = data["frame_id"][()][data["series_index"][()] == entry.index]
        scan = self._scan_of(entry, ids - entry.series.first_id)
        group = self._file[f"{entry.group}/cdi_stream/series_{entry.index}"]
        group.attrs["header"] = json.dumps(scan_header(scan))
        for motor, values in scan.scanned.items():
            group[f"scanned/{motor}"] = values

    def _describe_start(self, entry: _SeriesEntry) -> None:
        """Write what is known at the first frame, so that a recording can be read whose process was killed."""
        detector = _header_of(entry.series.start)
        scan = RecordedScan(
            name=f"series {entry.series.id}",
            frames=np.zeros((0, 0, 0)),
            beamline=self._beamline,
            scanned={FRAME: np.zeros(0)},
            baseline={},
            units={},
            detector=detector,
            notes=(CUT_OFF_NOTE,),
        )
        group = self._file.create_group(f"{entry.group}/cdi_stream/series_{entry.index}")
        group.attrs["header"] = json.dumps(scan_header(scan))
        mask = entry.series.start.pixel_mask
        if mask is not None and mask.shape == self._file[f"{entry.group}/data/data"].shape[1:]:
            group["pixel_mask"] = mask

    def _scan_of(self, entry: _SeriesEntry, slots: NDArray[np.intp]) -> RecordedScan:
        """Return the recorded scan of a series without its frames; ``slots`` are those of the frames in the file."""
        start, run = entry.series.start, self._run_of(entry)
        match = RunMatch(run=run, by="nothing" if run is None else "uid")
        joined = join(entry.series, read_claim(start.user_data), match, is_over=True)
        place = {int(slot): k for k, slot in enumerate(joined.slots)}
        order = [place[slot] for slot in slots.tolist() if slot in place]
        moved = [] if run is None else run.start.get("motors", [])
        readings = {} if run is None else run.readings
        own = _motors_and_counters((*joined.scanned, *readings))
        names = sorted((n for n in joined.scanned if n in own), key=lambda n: (n not in moved, n))
        scanned = {name: joined.scanned[name][order] for name in names} if len(order) == len(slots) else {}
        return RecordedScan(
            name=f"series {entry.series.id}",
            frames=np.zeros((0, 0, 0)),
            beamline=self._beamline,
            scanned=scanned or {FRAME: slots.astype(float)},
            baseline={name: value for name, value in readings.items() if name in own and name not in scanned},
            units={} if run is None else run.units,
            detector=_header_of(start),
            run_uid=None if run is None else run.uid,
            notes=joined.doubts,
        )

    def _run_of(self, entry: _SeriesEntry) -> RunRecord | None:
        claim = read_claim(entry.series.start.user_data)
        named = self.book.runs_naming(series_key(entry.series.id))
        uid = claim.run_uid or entry.run_uid or (named[-1].uid if named else "")
        run = self.book.runs.get(self.book.uid_now(uid))
        return run if run is not None or len(self.book.runs) != 1 else next(iter(self.book.runs.values()))


def _header_of(start: SeriesStart) -> dict[str, float]:
    """Return the values of a detector's header that `RecordedScan.detector` holds."""
    return {key: value for key in DETECTOR_HEADER if (value := getattr(start, key)) is not None}


def _motors_and_counters(names: tuple[str, ...]) -> set[str]:
    """Return the names of motors and counters, without those of their parts (``theta_setpoint``) and of image ids."""
    parts = {name for name in names if any(name.startswith(f"{other}_") for other in names)}
    return {name for name in names if name not in parts and not name.endswith(_FRAME_NAMES)}


def _create(file: h5py.File, entry: str, pixels: NDArray[Any]) -> None:
    """Create an HDF5 group that silx shows as a stack of images."""
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
        compression="lzf",  # the fastest that h5py reads without plugins
    )
    for name in ("frame_id", "receive_time_ns", "series_index"):
        group.create_dataset(name, shape=(0,), maxshape=(None,), chunks=(1024,), dtype=np.int64)
