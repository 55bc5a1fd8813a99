"""Read SPEC files line by line: scans with their motors, columns and header lines.

A SPEC file may hold several heads (``#F``, ``#E``).  The motor names of a scan are the ``#O`` lines between its ``#S``
and its ``#L`` line, else the ``#O`` lines of the head above.  Numbers are read only when they are needed, so that a
damaged line affects only its own numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import RecordingError


class Line(NamedTuple):
    """One line of a file, with its number from 1."""

    number: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecScan:
    """Lines of one scan of a SPEC file.

    Parameters
    ----------
    command
        Words of the ``#S`` line behind the scan number, such as ``ascan th 0 1 20 0.5``.
    file_name
        Original name of the file (``#F``), without folder and suffix; empty without a line ``#F``.
    names, mnemonics
        Lines ``#O`` and ``#o`` of this scan.
    header, rows
        All other lines that start with ``#``, and the lines of numbers.
    """

    file: Path
    number: int
    line: int
    command: tuple[str, ...]
    file_name: str
    names: tuple[Line, ...]
    mnemonics: tuple[Line, ...]
    header: tuple[Line, ...]
    rows: tuple[Line, ...]

    def texts(self, key: str) -> list[str]:
        """Return the texts of all header lines with a key such as ``#UIMDET``."""
        return [words[1] for line in self.header if (words := line.text.split(maxsplit=1))[0] == key and words[1:]]

    def labels(self) -> list[str]:
        """Return the names of the columns; raises `RecordingError` if ``#L`` is missing or differs from ``#N``."""
        lines = [line for line in self.header if line.text.split(maxsplit=1)[0] == "#L"]
        if not lines:
            raise RecordingError(f"{self.place}: expected a line #L with the names of the columns, got none")
        if len({line.text for line in lines}) > 1:
            raise RecordingError(f"{self.file}:{lines[1].number}: the columns (#L) change within scan {self.number}")
        count_texts = self.texts("#N")[:1]
        n_columns = int(count_texts[0].split()[0]) if count_texts and count_texts[0].split()[0].isdigit() else None
        labels = _split_names(lines[0].text, n_columns)
        if n_columns not in (None, len(labels)):
            raise RecordingError(
                f"{self.file}:{lines[0].number}: expected {n_columns} names of columns (#N), got {len(labels)}: "
                "names are separated by two spaces"
            )
        return labels

    def column(self, name: str) -> NDArray[np.float64]:
        """Return the numbers of one column ``(n_rows,)``; raises `RecordingError` with the line of a wrong number."""
        labels = self.labels()
        if labels.count(name) != 1:
            raise RecordingError(f"{self.place}: expected one column {name!r}, got: {', '.join(labels)}")
        values = []
        for line in self.rows:
            words = line.text.split()
            if len(words) != len(labels):
                raise RecordingError(
                    f"{self.file}:{line.number}: expected {len(labels)} numbers, one a column, got {len(words)}: "
                    "complete the line, or delete it and the frame that belongs to it"
                )
            values.append(self._number(words[labels.index(name)], line, f"column {name!r}"))
        return np.array(values, dtype=np.float64)

    def optional(self, name: str) -> tuple[NDArray[np.float64] | None, str]:
        """Return a column and an empty text; None and the reason if the column cannot be read."""
        try:
            return self.column(name), ""
        except RecordingError as error:
            return None, str(error)

    def motors(self, names: Iterable[str]) -> dict[str, float]:
        """Return the positions of motors before the scan by name; motors without a record are left out.

        Raises
        ------
        RecordingError
            If the numbers of positions in ``#P`` and of names in ``#O`` differ, or a position is not a number.
        """
        texts: dict[str, tuple[str, Line]] = {}
        for name, text, line in self._positions():
            if name in texts:
                raise RecordingError(f"{self.file}:{line.number}: motor {name!r} stands twice in the lines #O")
            texts[name] = (text, line)
        return {name: self._number(*texts[name], f"motor {name!r}") for name in names if name in texts}

    def motor_of(self, mnemonic: str) -> str | None:
        """Return the name of the motor with a mnemonic of SPEC's commands; None if the file does not name it."""
        names = [name for name, _, _ in self._positions()]
        mnemonics = [word for line in self.mnemonics for word in line.text.split()[1:]]
        return dict(zip(mnemonics, names, strict=True)).get(mnemonic) if len(mnemonics) == len(names) else None

    @property
    def place(self) -> str:
        """File, line and number of the scan, for messages."""
        return f"{self.file}:{self.line}: scan {self.number}"

    def _positions(self) -> Iterator[tuple[str, str, Line]]:
        """Yield name, position as text, and line of each motor."""
        positions = {line.text.split()[0][2:]: line for line in self.header if re.match(r"#P\d+(\s|$)", line.text)}
        for names in self.names:
            index = names.text.split()[0][2:]
            line = positions.pop(index, Line(self.line, ""))
            values = line.text.split()[1:]
            motors = _split_names(names.text, len(values))
            if len(motors) != len(values):
                raise RecordingError(
                    f"{self.file}:{line.number}: expected {len(motors)} positions in #P{index}, as many as there are "
                    f"motors in #O{index} (line {names.number}), got {len(values)}: are the lines of another head?"
                )
            yield from zip(motors, values, [line] * len(motors), strict=True)
        if positions:
            line = next(iter(positions.values()))
            raise RecordingError(
                f"{self.file}:{line.number}: expected a line #O with the names of these motors, got none"
            )

    def _number(self, text: str, line: Line, quantity: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise RecordingError(
                f"{self.file}:{line.number}: expected a number for {quantity}, got {text!r}: put the true value there"
            )
        return value


def is_spec(path: Path) -> bool:
    """Return whether a file starts like a SPEC file, whatever its suffix; False for a file that cannot be opened."""
    if path.name.startswith(".") or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return re.match(rb"\s*#[FS] ", file.read(64)) is not None
    except OSError:
        return False


def read_spec(path: Path) -> list[SpecScan]:
    """Return all scans of a SPEC file in the order of the file."""
    lines, scans = _Lines(path), []
    with path.open(errors="replace") as file:
        for number, text in enumerate(file, 1):
            scans += lines.take(Line(number, text.rstrip("\r\n")))
    return scans + lines.close_scan()


@dataclass(slots=True)
class _Lines:
    """Parser state: the file's head, and the lines of the current scan."""

    file: Path
    file_name: str = ""
    head: list[Line] = field(default_factory=list)
    title: Line | None = None
    own: list[Line] = field(default_factory=list)
    header: list[Line] = field(default_factory=list)
    rows: list[Line] = field(default_factory=list)
    is_continued: bool = False

    def take(self, line: Line) -> list[SpecScan]:
        """Add one line, and return the scan that it ends, if any."""
        scans: list[SpecScan] = []
        is_rest, self.is_continued = self.is_continued, line.text.startswith("@") or self.is_continued
        self.is_continued &= line.text.endswith("\\")
        if is_rest or line.text.startswith("@") or not line.text.strip():  # spectra of a multichannel analyser
            return scans
        if re.match(r"#[FES]\s", line.text):
            scans = self.close_scan()
        if line.text.startswith(("#F ", "#E ")):
            self.head = []
            self.file_name = Path(line.text[3:].strip()).stem if line.text.startswith("#F") else self.file_name
        elif line.text.startswith("#S"):
            self.title = line
        elif re.match(r"#[Oo]\d+(\s|$)", line.text):
            self._take_names(line)
        elif self.title is not None:
            (self.header if line.text.startswith("#") else self.rows).append(line)
        return scans

    def _take_names(self, line: Line) -> None:
        """Add a line of names: to the scan within its header, else to the file's head until the next ``#O0``."""
        is_own = self.title is not None and not any(entry.text.startswith("#L") for entry in self.header)
        block, key = self.own if is_own else self.head, line.text.split()[0]
        if key in ("#O0", "#o0"):  # mnemonics stand below the names that they belong to
            block[:] = [] if key == "#O0" else [entry for entry in block if entry.text.startswith("#O")]
        block.append(line)

    def close_scan(self) -> list[SpecScan]:
        """Return the current scan, if any, and start a new one."""
        title, self.title = self.title, None
        parts, self.own, self.header, self.rows = (self.own, self.header, self.rows), [], [], []
        match = re.match(r"#S\s+(\d+)(.*)", "" if title is None else title.text)
        if title is None or match is None:
            return []
        own_names, header, rows = parts
        block = own_names if any(line.text.startswith("#O") for line in own_names) else self.head
        return [
            SpecScan(
                file=self.file,
                number=int(match[1]),
                line=title.number,
                command=tuple(match[2].split()),
                file_name=self.file_name,
                names=tuple(line for line in block if line.text.startswith("#O")),
                mnemonics=tuple(line for line in block if line.text.startswith("#o")),
                header=tuple(header),
                rows=tuple(rows),
            )
        ]


def _split_names(text: str, n_expected: int | None) -> list[str]:
    """Return the names behind a line's key, separated by two spaces or a tab, or by one space if none has a space."""
    words = text.split(maxsplit=1)[1:]
    names = re.split(r"\s{2,}|\t", words[0].strip()) if words else []
    is_single_spaced = len(names) == 1 and len(names) != n_expected
    return names[0].split() if is_single_spaced else names
