"""What all commands share: options, the console, and the last line of JSON."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

console = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder for results and logs; a temporary one if none.")]
PlotOption = Annotated[Path | None, typer.Option("--plot", help="Draw the crystal into this PNG.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Configuration of the service, in TOML.")]
NeededConfig = Annotated[Path, typer.Option("--config", help="Configuration of the service, in TOML.")]
SpeedOption = Annotated[str, typer.Option("--speed", help="Pace: 1 as recorded, 10, or max.")]
RunningOption = Annotated[bool, typer.Option("--beamline-only", help="Play to a service that runs already.")]


def show(result: dict[str, Any], as_json: bool) -> None:
    """Print a result: one JSON object, or a table for people."""
    if as_json:
        print(json.dumps(without_nan(result)))
        return
    table = Table(show_header=False, box=None)
    for key, value in result.items():
        table.add_row(key, json.dumps(without_nan(value)) if isinstance(value, dict | list) else str(value))
    Console().print(table, highlight=False)


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
