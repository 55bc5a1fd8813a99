"""Interfaces of the plugins, as typing protocols: decoders, readers, archives and sinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cdi_stream.messages import Box, Document, RecordedScan, WireMessage

Buffer = bytes | memoryview
"""One part of a multipart message."""


class Decoder(Protocol):
    """Decodes the multipart messages of one detector format; has no socket.

    Most multiparts hold one message.  Some senders put several messages into one multipart; a multipart without content
    holds none.  A decoder checks every size before it allocates memory.
    """

    def decode(self, parts: Sequence[Buffer]) -> Iterator[WireMessage]:
        """Yield the messages of one multipart; the pixels of a frame may share the memory of ``parts``.

        Raises
        ------
        WireError
            If the message is malformed; the text says why.
        """
        ...


class DecoderFactory(Protocol):
    """Builds a decoder; entry points of group ``cdi_stream.decoder`` are of this type."""

    def __call__(self, *, roi: Box | None, channel: str | None, max_pixels: int) -> Decoder:
        """Build a decoder that cuts each image to ``roi`` and refuses images of more than ``max_pixels`` pixels."""
        ...


class Reader(Protocol):
    """Reads a recorded scan of one facility; entry points of group ``cdi_stream.reader``."""

    def can_read(self, path: Path) -> bool:
        """Return whether a file or folder has this reader's format; only a small part of the file is read."""
        ...

    def read(self, path: Path, scan: int | str | None) -> RecordedScan:
        """Read one scan, with all points of its motors.

        ``scan`` is a number, or another name that the facility gives its scans, such as ``20.1``; None: the only scan.

        ``missing`` names the points whose frame is lost.  Where the facility has recorded the counts of each frame,
        ``frame_sums`` holds them; the caller compares them with the frames.

        Raises
        ------
        RecordingError
            If the scan cannot be read; the text names the remedy.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PastImages:
    """Images of one data key of a past run: ``read(first, n)`` returns n of them, ``shape`` is (n, rows, cols)."""

    stream: str
    key: str
    shape: tuple[int, int, int]
    read: Callable[[int, int], NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """A run in an archive: its documents in order, the start document first, and its images."""

    documents: tuple[tuple[str, Document], ...]
    images: tuple[PastImages, ...]

    @property
    def start(self) -> Document:
        """Start document."""
        return self.documents[0][1]


class Archive(Protocol):
    """Holds past runs; entry points of group ``cdi_stream.archive`` build one for an address and an ``api_key``."""

    def run(self, uid: str) -> PastRun | None:
        """Return a run; None if the archive has none of this uid.

        Raises
        ------
        EndpointError
            If the archive refuses the key.
        ServiceError
            If the archive does not answer; also where images are read.
        """
        ...


class Sink(Protocol):
    """Takes Bluesky documents as a Bluesky callback does; entry points of group ``cdi_stream.sink`` build one.

    A sink that stores whole runs offers ``has_run(uid)``: true if it has the run up to its stop document.  If the sink
    has only a part of the run, ``has_run`` deletes that part, because the run is written again from its start document.
    A sink that cannot be reached raises `ServiceError` or `OSError`: the document is tried again without a limit.
    After any other error it is tried five times.  The sink of the document bus may offer ``settle()``: true after a new
    connection, so that documents that were sent before and not received are sent again.
    """

    def __call__(self, name: str, doc: Document) -> None:
        """Take one document."""
        ...

    def close(self) -> None:
        """Write what is buffered and close the sink."""
        ...
