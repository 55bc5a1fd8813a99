"""What all commands share: options, the console, and the last line of JSON."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.columns import Columns
from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cdi_stream.cli.wording import written

console = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder for results and logs; a temporary one if none.")]
PlotOption = Annotated[Path | None, typer.Option("--plot", help="Draw the crystal into this PNG.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Configuration of the service, in TOML.")]
SettingsOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Configuration in TOML: geometry, network and other settings, not its endpoints and folders.",
    ),
]
NeededConfig = Annotated[Path, typer.Option("--config", help="Configuration of the service, in TOML.")]
SpeedOption = Annotated[str, typer.Option("--speed", help="Pace: 1 as recorded, 10, or max.")]
RunningOption = Annotated[
    bool, typer.Option("--beamline-only", help="Play to a service that runs already, at the endpoints of --config.")
]


def show(result: dict[str, Any], as_json: bool, order: Sequence[str] | None = None) -> None:
    """Print a result: one JSON object, or a table for people with the names of ``order``, else with all."""
    if as_json:
        print(json.dumps(without_nan(result)))
        return
    names = list(result) if order is None else [name for name in order if _is_known(result.get(name))]
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_column(style="dim")
    for name in names:
        table.add_row(*(Text(text) for text in written(name, result[name])))
    Console().print(table, highlight=False)


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


@contextmanager
def budget_bar(passed_s: Callable[[], float], budget_s: float) -> Iterator[Callable[[str], None]]:
    """Show on a terminal what is being done and how much of a budget of seconds is spent; yields who is to be told."""
    if not console.is_terminal:
        yield lambda line: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), _BudgetColumn(passed_s, budget_s))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda line: bar.update(task, description=line)


class _BudgetColumn(ProgressColumn):
    """A bar of the budget, and the seconds passed and left."""

    def __init__(self, passed_s: Callable[[], float], budget_s: float) -> None:
        super().__init__()
        self._passed_s, self._budget_s = passed_s, budget_s

    def render(self, task: Task) -> Columns:
        """Draw it as of now."""
        passed_s = self._passed_s()
        left_s = max(self._budget_s - passed_s, 0)
        text = f"{passed_s:.0f} s, at most {left_s:.0f} s more"
        return Columns([ProgressBar(total=self._budget_s, completed=passed_s, width=30), Text(text)])


def print_lines(lines: list[str]) -> None:
    """Print lines as they are: a sketch keeps its columns."""
    print("\n".join(lines) + "\n")


class StopSignal:
    """Becomes true at Ctrl-C or SIGTERM, so that a command ends in good order.

    A plain flag: a lock, as in `threading.Event`, would wait for itself if a second signal came while it is held.
    """

    def __init__(self) -> None:
        self._is_set = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._set)

    def is_set(self) -> bool:
        """Whether the command was told to stop."""
        return self._is_set

    def _set(self, *_: object) -> None:
        self._is_set = True


def without_nan(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: missing values are null."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
