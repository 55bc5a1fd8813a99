"""Options and output of all commands: the console, tables, progress, and the last line of JSON."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cdi_stream import logs
from cdi_stream.cli.wording import table_row

logger = logging.getLogger("cdi_stream.cli")
console = Console(stderr=True)


class LogFormat(StrEnum):
    """Format of the log."""

    TEXT = "text"
    JSON = "json"


def _use_format(log_format: LogFormat) -> LogFormat:
    """Write the log of this process, and of the processes that it starts, in a format."""
    if log_format == LogFormat.JSON:
        os.environ[logs.VARIABLE] = log_format
        logs.write_json(sys.stderr)
    return log_format


LogOption = Annotated[
    LogFormat,
    typer.Option(
        "--log-format",
        envvar=logs.VARIABLE,
        callback=_use_format,
        is_eager=True,
        help="Format of the log on standard error; json: one object a line, for a journal.",
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for results and logs; default: a new one in /tmp.")
]
PlotOption = Annotated[Path | None, typer.Option("--plot", help="PNG file for a picture of the crystal.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Configuration of the service (TOML).")]
SettingsOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Configuration (TOML) with geometry, network and other settings; its endpoints and folders are not used.",
    ),
]
NeededConfig = Annotated[Path, typer.Option("--config", help="Configuration of the service (TOML).")]
SpeedOption = Annotated[
    str, typer.Option("--speed", help="Speed relative to the recording: 1, 10 or another factor, or max.")
]
RunningOption = Annotated[
    bool, typer.Option("--beamline-only", help="Send to a running service, at the endpoints of --config.")
]


def show(result: dict[str, Any], as_json: bool, order: Sequence[str] | None = None) -> None:
    """Print a result as one JSON object or as a table.

    Parameters
    ----------
    result
        Values by name.
    as_json
        Whether a JSON object is printed instead of a table.
    order
        Names that the table shows, in this order; None: all.
    """
    if as_json:
        print(json.dumps(without_nan(result)))
        return
    names = list(result) if order is None else [name for name in order if _is_known(result.get(name))]
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_column(style="dim")
    for name in names:
        table.add_row(*(Text(text) for text in table_row(name, result[name])))
    Console().print(table, highlight=False)


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


@contextmanager
def budget_bar(passed_s: Callable[[], float], budget_s: float) -> Iterator[Callable[[str], None]]:
    """Show the current stage and the time used of a limit on a terminal; yields a function that sets the stage.

    ``passed_s`` returns the time passed [s]; ``budget_s`` is the limit [s].
    """
    if not console.is_terminal:
        yield lambda line: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), _BudgetColumn(passed_s, budget_s))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda line: bar.update(task, description=line)


class _BudgetColumn(ProgressColumn):
    """A bar of the time limit, with the seconds passed and left."""

    def __init__(self, passed_s: Callable[[], float], budget_s: float) -> None:
        super().__init__()
        self._passed_s, self._budget_s = passed_s, budget_s

    def render(self, task: Task) -> Columns:
        """Draw the bar for the present time."""
        passed_s = self._passed_s()
        left_s = max(self._budget_s - passed_s, 0)
        text = f"{passed_s:.0f} s, at most {left_s:.0f} s more"
        return Columns([ProgressBar(total=self._budget_s, completed=passed_s, width=30), Text(text)])


def say(line: str) -> None:
    """Print a line on standard error; as a line of the log, if the log is JSON."""
    if logs.is_json():
        logger.info(line)
    else:
        console.print(escape(line), highlight=False)


def complain(word: str, text: str) -> None:
    """Print an error on standard error, with the word that begins it; as a line of the log, if the log is JSON."""
    if logs.is_json():
        logger.error("%s: %s", word, text)
    else:
        console.print(f"[red]{word}:[/red] {escape(text)}", highlight=False)


def print_lines(lines: list[str]) -> None:
    """Print lines unchanged, so that a sketch keeps its columns."""
    print("\n".join(lines) + "\n")


class StopSignal:
    """Flag that Ctrl-C or SIGTERM sets, so that a command ends in good order.

    It is a plain attribute: `threading.Event` has a lock, on which a second signal could block forever.
    """

    def __init__(self) -> None:
        self._is_set = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._set)

    def is_set(self) -> bool:
        """Return whether a stop signal has come."""
        return self._is_set

    def _set(self, *_: object) -> None:
        self._is_set = True


def without_nan(value: Any) -> Any:
    """Return a value with NaN and infinity replaced by None, since JSON has no such numbers."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
