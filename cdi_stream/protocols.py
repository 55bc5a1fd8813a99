"""The seams between the core and its plugins, as typing protocols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cdi_stream.messages import Box, RecordedScan, WireMessage

Buffer = bytes | memoryview


class Decoder(Protocol):
    """From the parts of one multipart message to messages of ours; no socket.

    Most multiparts hold one message; some senders put several into one, and chatter gives none.  Raises `WireError`
    with the reason when a message is malformed; checks every size before it allocates.
    """

    def decode(self, parts: Sequence[Buffer]) -> Iterator[WireMessage]:
        """Decode one multipart; a frame's pixels may point into ``parts``."""
        ...


class DecoderFactory(Protocol):
    """Makes a decoder; entry points of group ``cdi_stream.decoder`` are of this type."""

    def __call__(self, *, roi: Box | None, channel: str | None, max_pixels: int) -> Decoder:
        """Build a decoder that cuts ``roi`` at once and refuses images above ``max_pixels``."""
        ...


class Reader(Protocol):
    """Reads a recorded scan of one facility; entry points of group ``cdi_stream.reader``."""

    def can_read(self, path: Path) -> bool:
        """Whether the file or folder is of this reader's kind, by a cheap look."""
        ...

    def read(self, path: Path, scan: int | None) -> RecordedScan:
        """Read one scan, with all points of its motors; raises `RecordingError` with the remedy.

        Points whose frame is lost are named in ``missing``.  Where the facility has recorded the counts of each frame,
        ``frame_sums`` holds them: whoever calls compares.
        """
        ...


class Sink(Protocol):
    """Takes Bluesky documents, in Bluesky's own callback shape; entry points of group ``cdi_stream.sink``.

    A sink that keeps whole runs offers ``has_run(uid)``: true if it has a run to its end; if it has a part of it, it
    forgets that part, since the run is written once more from its beginning.  A sink that cannot be reached raises
    `ServiceError` or `OSError`: it is tried again for as long as it takes; after any other error five times.
    """

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...
