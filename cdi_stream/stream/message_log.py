"""Log of raw multipart messages, byte for byte as they came from the wire.

The file is a stream of msgpack values: a header, then ``[receive_time_ns, [part, ...]]`` for each message, the time in
nanoseconds since the epoch.  If the writing process was killed, the log can be read up to its last whole message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgpack

from cdi_stream.errors import RecordingError

FORMAT = "cdi_stream message log 1"
"""Name and version of the format, in the header of each file."""

MAX_PART_BYTES = 2**32 - 1
"""Largest size [bytes] of one part: the limit of msgpack."""

Buffer = bytes | memoryview
"""One part of a multipart message."""


class MessageLog:
    """Writes a message log to ``path``; an existing file is replaced."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._file.write(msgpack.packb({"format": FORMAT}))

    def write(self, parts: Sequence[Buffer], receive_time_ns: int) -> None:
        """Append one message with its time of receipt [ns since the epoch]."""
        self._file.write(msgpack.packb([receive_time_ns, [bytes(part) for part in parts]]))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the time of receipt [ns since the epoch] and the parts of each message.

    Raises
    ------
    RecordingError
        If the file is no message log, or is damaged.
    """
    try:
        with path.open("rb") as file:
            entries = msgpack.Unpacker(file, max_buffer_size=0, max_bin_len=MAX_PART_BYTES)
            header = next(entries, None)
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise RecordingError(f"{path}: expected a {FORMAT!r}, got {header!r:.60}")
            for entry in entries:
                if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], list)):
                    raise RecordingError(f"{path}: expected a time and the parts of a message, got {entry!r:.60}")
                yield entry[0], entry[1]
    except (OSError, ValueError, TypeError) as error:
        raise RecordingError(f"{path}: expected a {FORMAT!r}: {error}") from error
