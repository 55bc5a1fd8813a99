"""Assign frames to the rows of a SPEC scan, by the number in the file's name and by the sum of counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import RecordingError
from cdi_stream.files.recording import do_sums_agree
from cdi_stream_plugins.readers.spec import SpecScan


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Assignment of frames to a SPEC entry: ``first`` is the frame number of its first row.

    Of the ``n_placed`` frames that have a row, ``n_agreeing`` have the sum of counts in ``recorded``.
    """

    entry: SpecScan
    first: int
    n_placed: int
    n_agreeing: int = 0
    recorded: NDArray[np.float64] | None = None

    @property
    def is_certain(self) -> bool:
        """Whether every frame has the sum of counts on record in its row."""
        return self.recorded is not None and self.n_agreeing == self.n_placed

    @property
    def merit(self) -> tuple[int, int]:
        """Quality of the assignment: the number of agreeing sums, if more than half agree, and of frames with a row."""
        return (self.n_agreeing if 2 * self.n_agreeing > self.n_placed else 0, self.n_placed)


def place_frames(entries: Sequence[SpecScan], numbers: NDArray[np.int64], sums: NDArray[np.float64]) -> Placement:
    """Return the best assignment of frames to the entries of one scan number.

    The first frame has the number 0, 1, that of the first file, or the number with which all sums agree.  At equal
    quality the last entry in the file and the numbering from 0 are used.

    Parameters
    ----------
    entries
        Entries with the same scan number, in the order of the file.
    numbers, sums
        Frame numbers, ascending, and sums of counts of the frames, ``(n_files,)``.

    Raises
    ------
    RecordingError
        If no entry has points.
    """
    candidates = [
        placement for entry in reversed(entries) if entry.rows for placement in _placements(entry, numbers, sums)
    ]
    if not candidates:
        raise RecordingError(f"{entries[-1].place} has no points: it was aborted at once. Give another --scan")
    return max(candidates, key=lambda placement: placement.merit)


def _placements(entry: SpecScan, numbers: NDArray[np.int64], sums: NDArray[np.float64]) -> Iterator[Placement]:
    """Yield the assignments by each usual numbering, and by another numbering if all sums agree with it."""
    recorded, _ = entry.optional("ImageTot")
    yield from (_assign(entry, first, numbers, sums, recorded) for first in (0, 1, int(numbers[0])))
    if recorded is not None:
        unusual = _assign(entry, _numbering_by_sums(numbers, sums, recorded), numbers, sums, recorded)
        if unusual.is_certain:
            yield unusual


def _assign(
    entry: SpecScan,
    first: int,
    numbers: NDArray[np.int64],
    sums: NDArray[np.float64],
    recorded: NDArray[np.float64] | None,
) -> Placement:
    rows = numbers - first
    has_row = (rows >= 0) & (rows < len(entry.rows))
    n_agreeing = 0 if recorded is None else int(do_sums_agree(sums[has_row], recorded[rows[has_row]]).sum())
    return Placement(entry=entry, first=first, n_placed=int(has_row.sum()), n_agreeing=n_agreeing, recorded=recorded)


def _numbering_by_sums(numbers: NDArray[np.int64], sums: NDArray[np.float64], recorded: NDArray[np.float64]) -> int:
    """Return the frame number of the first row with which most sums agree; it may be negative if frames are lost."""
    votes: Counter[int] = Counter()
    for number, total in zip(numbers.tolist(), sums, strict=True):
        votes.update((number - np.flatnonzero(do_sums_agree(total, recorded))).tolist())
    return votes.most_common(1)[0][0] if votes else 0
