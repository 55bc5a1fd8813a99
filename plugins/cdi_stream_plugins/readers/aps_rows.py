"""Which row of a SPEC scan each frame belongs to: by the number in its file's name, and by its sum."""

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
    """Which SPEC entry describes the frames, and the frame number of its first row.

    ``n_agreeing`` of the ``n_placed`` frames that have a row have the sum of counts that is ``recorded`` there.
    """

    entry: SpecScan
    first: int
    n_placed: int
    n_agreeing: int = 0
    recorded: NDArray[np.float64] | None = None

    @property
    def is_certain(self) -> bool:
        """Whether every frame has the sum that its row has on record."""
        return self.recorded is not None and self.n_agreeing == self.n_placed

    @property
    def merit(self) -> tuple[int, int]:
        """How well the frames fit: agreeing sums, where they are no chance, and frames that have a row."""
        return (self.n_agreeing if 2 * self.n_agreeing > self.n_placed else 0, self.n_placed)


def place_frames(entries: Sequence[SpecScan], numbers: NDArray[np.int64], sums: NDArray[np.float64]) -> Placement:
    """Find the entry of one scan number, and the numbering, that fit the frames best.

    Frames are numbered from 0, from 1, from the first that is there, or in the one way that all sums agree with.  Of
    equals, the entry that stands last in the file, and the numbering from 0.

    Parameters
    ----------
    entries
        Entries with the same scan number, in the order of the file.
    numbers, sums
        Frame numbers, ascending, and counts of those frames, ``(n_files,)``.

    Raises
    ------
    RecordingError
        If no entry has points.
    """
    tried = [found for entry in reversed(entries) if entry.rows for found in _placements(entry, numbers, sums)]
    if not tried:
        raise RecordingError(f"{entries[-1].place} has no points: it was aborted at once. Give another --scan")
    return max(tried, key=lambda found: found.merit)


def _placements(entry: SpecScan, numbers: NDArray[np.int64], sums: NDArray[np.float64]) -> Iterator[Placement]:
    """Frames by each usual numbering, and by an unusual one if the sums of all frames agree with it."""
    recorded, _ = entry.optional("ImageTot")
    yield from (_placed(entry, first, numbers, sums, recorded) for first in (0, 1, int(numbers[0])))
    if recorded is not None:
        unusual = _placed(entry, _numbering_by_sums(numbers, sums, recorded), numbers, sums, recorded)
        if unusual.is_certain:
            yield unusual


def _placed(
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
    """Frame number of the first row with which most sums agree; below zero where the first frames are lost."""
    votes: Counter[int] = Counter()
    for number, total in zip(numbers.tolist(), sums, strict=True):
        votes.update((number - np.flatnonzero(do_sums_agree(total, recorded))).tolist())
    return votes.most_common(1)[0][0] if votes else 0
