"""Cases measured one after the other, a JSON line each; what its file has already is not measured again."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from cdi_stream.cli.output import without_nan

Line = dict[str, Any]


class SkippedError(Exception):
    """A case cannot be measured here, for a reason that is no fault; it is tried again the next time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measurement; a line belongs to its ``key``, whatever else is changed."""

    key: str
    measure: Callable[[], Line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Cases whose keys begin with the experiment's name, and the table made of their lines."""

    cases: Callable[[], Iterable[Case]]
    table: Callable[[list[Line]], Table]


def lines_of(file: Path) -> dict[str, Line]:
    """The last line of each key; one that was cut short is none."""
    found: dict[str, Line] = {}
    for text in file.read_text().splitlines() if file.is_file() else ():
        with suppress(json.JSONDecodeError):
            line = json.loads(text)
            found[line["key"]] = line
    return found


def measure(cases: Iterable[Case], file: Path, is_over: Callable[[], bool] = lambda: False) -> None:
    """Measure what is not in the file, until ``is_over``, which is asked before each case."""
    known = lines_of(file)
    for case in cases:
        if "skipped" in known.get(case.key, {"skipped": "not measured yet"}):
            if is_over():
                return
            begin_s = time.monotonic()
            line = _measured(case)
            print(f"{case.key}: {time.monotonic() - begin_s:.1f} s {_brief(line)}", file=sys.stderr, flush=True)
            _append(file, {"key": case.key, **line, "host": _host()})


def _measured(case: Case) -> Line:
    try:
        return case.measure()
    except SkippedError as error:
        return {"skipped": str(error)}
    except Exception as error:  # noqa: BLE001 - one case must not end a night of others
        traceback.print_exc()
        return {"skipped": f"{type(error).__name__}: {error}"}


def _append(file: Path, line: Line) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    is_torn = file.is_file() and not file.read_bytes().endswith(b"\n")
    with file.open("a") as out:
        out.write("\n" * is_torn + json.dumps(without_nan(line)) + "\n")


def _brief(line: Line) -> str:
    shown = {name: value for name, value in line.items() if isinstance(value, float | int | str)}
    return json.dumps({name: float(f"{v:.3g}") if isinstance(v, float) else v for name, v in shown.items()})


def _host() -> Line:
    git = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(git, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return {
        "commit": done.stdout.strip(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "when": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }


def plain_table(title: str, *columns: str) -> Table:
    """Table that reads as markdown."""
    return Table(*columns, title=title, title_justify="left", box=box.MARKDOWN)


def median(values: Iterable[float | None]) -> float:
    """Median of what is there."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else math.nan
