"""Files of the open series and runs, with which a service that was killed goes on at its next start.

``curves/KEY`` holds the frames of one series (`frame_log`) and its description ``series.msgpack``; it is deleted when
the reconstruction of the curve is published.  ``runs/NAME.documents`` holds the documents of one run in the order of
receipt; it is deleted when the run is forgotten.  No write waits for the disk: the files survive the end of the
process, but not a power cut.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from cdi_stream.disk.append import append_whole
from cdi_stream.disk.aside import set_aside
from cdi_stream.disk.atomic import atomic_write
from cdi_stream.documents.plain import to_plain
from cdi_stream.messages import Document, SeriesId, SeriesStart
from cdi_stream.stream.frame_log import FrameLog

logger = logging.getLogger(__name__)

DESCRIPTION = "series.msgpack"
"""File name of the description of a series."""

FRAMES = "frames.log"
"""File name of the frames of a series."""

HEADER = "header"
"""Name of the folder with the header of the newest series."""

MASK = "pixel_mask.npy"
"""File name of the detector's pixel mask, where the series has one."""

MAX_DOCUMENTS_BYTES = 256 << 20
"""Largest size [bytes] of the documents of one run; further ones are not kept.  10 000 points take a few MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSeries:
    """Description of one series, without its frames.

    ``run_uid`` is the run that was open when the series began, for a stream whose frames name no series; ``parts`` are
    the series of one image that form the series.
    """

    key: str
    start: SeriesStart
    wall_s: float
    first_id: int = 0
    n_announced: int = 0
    is_headless: bool = False
    run_uid: str | None = None
    curve_index: int | None = None
    is_ended: bool = False
    duplicate: int = 0
    late: int = 0
    bad: int = 0
    contradictory: int = 0
    doubts: tuple[str, ...] = ()
    parts: tuple[SeriesId, ...] = ()


class Incoming:
    """Folder of the open series and runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._curves, self._runs = folder / "curves", folder / "runs"
        for part in (self._curves, self._runs):
            part.mkdir(parents=True, exist_ok=True)

    def new_key(self, series: object, wall_s: float) -> str:
        """Return a name for a series that no other series in the folder has; ``wall_s`` is its beginning."""
        name = re.sub(r"[^A-Za-z0-9]+", "_", str(series))[:40]
        base = f"{int(1e3 * wall_s)}-{name}"
        names = (base if n == 0 else f"{base}-{n}" for n in range(10_000))
        return next(key for key in names if not (self._curves / key).exists())

    def frame_log(self, key: str) -> FrameLog | None:
        """Return the log for the frames of a series; None if the disk is full."""
        try:
            (self._curves / key).mkdir(exist_ok=True)
            return FrameLog(self._curves / key / FRAMES)
        except OSError as error:
            logger.warning("frames are kept in memory only, a restart would lose them: %s", error)
            return None

    def save(self, saved: SavedSeries) -> None:
        """Write the description of a series; a full disk is only logged."""
        _write(self._curves / saved.key, saved)

    def save_header(self, start: SeriesStart) -> None:
        """Keep the header of the newest series, for a later series whose start message is lost."""
        shutil.rmtree(self.folder / HEADER, ignore_errors=True)
        _write(self.folder / HEADER, SavedSeries(key=HEADER, start=start, wall_s=0.0))

    def header(self) -> SeriesStart | None:
        """Return the header that an earlier process kept; None without one."""
        try:
            return _read(self.folder / HEADER).start
        except (OSError, ValueError, TypeError, KeyError, msgpack.UnpackException):
            return None

    def saved_series(self) -> list[SavedSeries]:
        """Return the series that an earlier process wrote, oldest first; a folder that cannot be read is put aside."""
        series = []
        for folder in sorted(f for f in self._curves.iterdir() if f.suffix != ".broken"):
            if not (folder / DESCRIPTION).exists():
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                series.append(_read(folder))
            except (OSError, ValueError, TypeError, KeyError, msgpack.UnpackException):
                logger.exception("%s cannot be read; it is kept as %s", folder, set_aside(folder))
        return series

    def discard(self, key: str) -> None:
        """Delete the files of a series, whose reconstruction is published.  Safe to call from any thread."""
        shutil.rmtree(self._curves / key, ignore_errors=True)

    def give_up(self, key: str) -> None:
        """Put aside the files of a series that cannot be assembled, so that the next start does not try it again."""
        folder = self._curves / key
        if folder.exists():
            logger.warning("its frames are kept as %s", set_aside(folder))

    def keep_document(self, run_uid: str, name: str, doc: Document, received_s: float) -> None:
        """Append a document to those of its run; a full disk is only logged.

        ``received_s`` is the time of receipt [s since the epoch].
        """
        path = self._document_file(run_uid)
        try:
            record = msgpack.packb([name, to_plain(dict(doc)), received_s], default=str)
            n_bytes = path.stat().st_size if path.exists() else 0
            if n_bytes + len(record) <= MAX_DOCUMENTS_BYTES:
                _append(path, record, n_bytes)
        except (OSError, ValueError, TypeError, OverflowError) as error:
            logger.warning("a document of run %s cannot be kept for a restart: %s", run_uid[:8], error)

    def documents(self) -> Iterator[tuple[str, dict[str, Any], float]]:
        """Yield name, document and time of receipt [s since the epoch] of all documents, in order of receipt."""
        documents: list[tuple[str, dict[str, Any], float]] = []
        for path in self._runs.glob("*.documents"):
            try:
                with path.open("rb") as file:
                    for name, doc, received_s in msgpack.Unpacker(file, strict_map_key=False, max_buffer_size=1 << 30):
                        documents.append((str(name), dict(doc), float(received_s)))
            except (ValueError, TypeError, msgpack.UnpackException) as error:
                logger.warning("%s: expected a whole document, got: %s; the documents before it are used", path, error)
        return iter(sorted(documents, key=lambda entry: entry[2]))

    def forget_runs(self, known: set[str]) -> None:
        """Delete the documents of all runs whose uid is not in ``known``."""
        kept = {self._document_file(uid) for uid in known}
        for path in self._runs.glob("*.documents"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def _document_file(self, run_uid: str) -> Path:
        return self._runs / f"{hashlib.sha256(run_uid.encode(errors='replace')).hexdigest()[:32]}.documents"


def _append(path: Path, record: bytes, n_bytes: int) -> None:
    """Append a record to a file of ``n_bytes`` bytes, whole or not at all."""
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        append_whole(handle, [record], n_bytes, path)
    finally:
        os.close(handle)


def _write(folder: Path, saved: SavedSeries) -> None:
    """Write the description of a series into its folder; a full disk is only logged."""
    start = {f.name: getattr(saved.start, f.name) for f in fields(SeriesStart) if f.name != "pixel_mask"}
    plain = _fields_but_start(saved) | {"start": start}
    try:
        if saved.start.pixel_mask is not None and not (folder / MASK).exists():
            with atomic_write(folder / MASK, is_flushed=False) as part, part.open("wb") as file:
                np.save(file, saved.start.pixel_mask)
        with atomic_write(folder / DESCRIPTION, is_flushed=False) as part:
            part.write_bytes(msgpack.packb(to_plain(plain), default=str))
    except OSError as error:
        logger.warning("series %s cannot be kept for a restart: %s", saved.start.series, error)


def _fields_but_start(saved: SavedSeries) -> dict[str, Any]:
    """Return all fields of a description except the start message."""
    return {f.name: getattr(saved, f.name) for f in fields(SavedSeries) if f.name != "start"}


def _read(folder: Path) -> SavedSeries:
    """Return the description of a series in its folder; raises an error if a file is damaged."""
    plain = msgpack.unpackb((folder / DESCRIPTION).read_bytes(), strict_map_key=False)
    start = dict(plain.pop("start"))
    for name in ("image_shape", "roi"):
        start[name] = None if start[name] is None else tuple(start[name])
    start["goniometer"] = {axis: tuple(values) for axis, values in start["goniometer"].items()}
    if (folder / MASK).exists():
        start["pixel_mask"] = np.load(folder / MASK, allow_pickle=False)
    doubts, parts = tuple(plain.pop("doubts")), tuple(plain.pop("parts", ()))
    return SavedSeries(
        start=SeriesStart(**start),
        doubts=doubts,
        parts=parts,
        **(plain | {"key": folder.name}),
    )
