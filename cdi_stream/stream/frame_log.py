"""Log of the frames of one series, from which a service that is started again restores the series.

A frame is written as it came over the wire, still compressed, so that the log costs little time and little disk space.
The file is a stream of msgpack values ``[received_s, plain, parts]``.  ``received_s`` is the time of receipt [s since
the epoch].  Where the decoder passes the wire message on, ``plain`` is null and ``parts`` holds the message; where it
does not, ``plain`` describes the pixels and ``parts`` holds their bytes.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from cdi_stream.disk.append import append_whole
from cdi_stream.errors import WireError
from cdi_stream.messages import DetectorFrame, WireMessage

logger = logging.getLogger(__name__)

KEEP_FREE_BYTES = 64 << 20
"""Disk space [bytes] that the log leaves to other programs."""

SPACE_CHECK_BYTES = 16 << 20
"""Amount of data [bytes] after which the free disk space is read again, because other programs use the disk too."""

_MAX_PART_BYTES = 2**32 - 1

Decode = Callable[[Sequence[bytes | memoryview]], Iterator[WireMessage]]
"""Function of a decoder that yields the messages of one multipart."""


class FrameLog:
    """Log of one series in the file ``path``; frames that an earlier process wrote stay in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
        self._n_bytes = path.stat().st_size
        self._n_free = 0
        self.close = weakref.finalize(self, os.close, self._handle)

    def append(self, frame: DetectorFrame, received_s: float) -> None:
        """Write one frame, whole or not at all; it survives the end of the process, but not a power cut.

        Raises
        ------
        OSError
            If the disk is full.
        """
        record = _record(frame, received_s)
        self._require_room(sum(len(piece) for piece in record))
        self._n_bytes = append_whole(self._handle, record, self._n_bytes, self._path)

    def _require_room(self, n_bytes: int) -> None:
        """Raise `OSError` if the disk is full; the free space is read once for several frames."""
        if n_bytes > self._n_free:
            space = os.fstatvfs(self._handle)
            self._n_free = min(space.f_bavail * space.f_frsize - KEEP_FREE_BYTES, max(SPACE_CHECK_BYTES, n_bytes))
        if n_bytes > self._n_free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._n_free -= n_bytes

    def frames(self, decode: Decode) -> Iterator[tuple[DetectorFrame, float]]:
        """Yield the frames that an earlier process wrote, with their times of receipt [s since the epoch].

        An incomplete record at the end is cut off.
        """
        with self._path.open("rb") as file:
            records = msgpack.Unpacker(file, max_buffer_size=0, max_bin_len=_MAX_PART_BYTES)
            whole = 0
            try:
                for received_s, plain, parts in records:
                    whole = records.tell()
                    yield from ((frame, float(received_s)) for frame in _frames(plain, parts, decode))
            except (ValueError, TypeError, msgpack.UnpackException) as error:
                logger.warning(
                    "%s: expected a whole record after %d bytes, got: %s; the frames before it are used",
                    self._path,
                    whole,
                    error,
                )
        os.ftruncate(self._handle, whole)
        self._n_bytes = whole

    def clear(self) -> None:
        """Delete all frames."""
        os.ftruncate(self._handle, 0)
        self._n_bytes = 0


def _record(frame: DetectorFrame, received_s: float) -> list[bytes | memoryview]:
    """Return the pieces of a record in their order; pixels and parts of the wire message are not copied."""
    plain, parts = None, [memoryview(part).cast("B") for part in frame.wire]
    if not parts:
        pixels = np.ascontiguousarray(frame.pixels)
        plain = [frame.image_id, frame.exposure_s, pixels.dtype.str, pixels.shape, frame.series]
        parts = [memoryview(pixels.reshape(-1).view(np.uint8).data)]
    beginning = b"\x93" + msgpack.packb(received_s) + msgpack.packb(plain) + b"\xdd" + struct.pack(">I", len(parts))
    pieces: list[bytes | memoryview] = [beginning]
    for part in parts:
        pieces += [b"\xc6" + struct.pack(">I", len(part)), part]
    return pieces


def _frames(plain: Any, parts: list[bytes], decode: Decode) -> Iterator[DetectorFrame]:
    if plain is not None:
        image_id, exposure_s, dtype, shape, series = plain
        pixels = np.frombuffer(parts[0], np.dtype(dtype)).reshape(shape)
        yield DetectorFrame(series=series, image_id=image_id, pixels=pixels, exposure_s=exposure_s)
        return
    try:
        yield from (message for message in decode(parts) if isinstance(message, DetectorFrame))
    except WireError as error:
        logger.warning("a frame in the log cannot be decoded and is left out: %s", error)
