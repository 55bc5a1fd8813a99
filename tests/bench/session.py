"""Command of a set of experiments: measure what is missing, then show all as tables."""

from __future__ import annotations

import argparse
import time
from itertools import islice
from pathlib import Path

from rich.console import Console

from tests.bench.record import Experiment, Line, lines_of, measure


def parser(program: str, doc: str | None, out: Path) -> argparse.ArgumentParser:
    """Options that all have."""
    made = argparse.ArgumentParser(prog=f"python -m {program}", description=doc)
    made.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after so many")
    made.add_argument("--only", metavar="NAME,...", default="", help="some of the experiments")
    made.add_argument("--out", type=Path, default=out, help=f"file of the lines, {out} by default")
    made.add_argument(
        "--share",
        metavar="K/N",
        default="1/1",
        help="every N-th case from the K-th on, into a file of its own: where no case has a time limit",
    )
    made.add_argument("--table", action="store_true", help="only show what is in the file")
    return made


def run(asked: argparse.Namespace, every: dict[str, Experiment]) -> list[Line]:
    """Measure the chosen ones, until the minutes are over, and show them; returns all lines of the file."""
    wanted = [name for name in asked.only.split(",") if name] or list(every)
    if unknown := set(wanted) - set(every):
        raise SystemExit(f"--only: expected some of {', '.join(every)}, got {', '.join(sorted(unknown))}")
    chosen = {name: every[name] for name in every if name in wanted}
    share, of = (int(number) for number in asked.share.split("/"))
    end_s = time.monotonic() + 60 * asked.minutes
    if not asked.table:
        for experiment in chosen.values():
            cases = islice(experiment.cases(), share - 1, None, of)
            measure(cases, asked.out, lambda: time.monotonic() > end_s)
    lines = list(lines_of(asked.out).values())
    _show(chosen, lines)
    return lines


def _show(chosen: dict[str, Experiment], lines: list[Line]) -> None:
    """Print the table of each experiment that has lines, and what was skipped."""
    console = Console(soft_wrap=True, width=180)
    for name, experiment in chosen.items():
        own = [line for line in lines if line["key"].split("/")[0] == name]
        measured = [line for line in own if "skipped" not in line]
        if measured:
            console.print(experiment.table(measured))
        for line in own:
            if "skipped" in line:
                console.print(f"{line['key']}: skipped: {line['skipped']}\n")
