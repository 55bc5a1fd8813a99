"""``make bench-phasing``: phasing against its goals, hours in all; it goes on where it stopped.

One JSON line a case; at the end, or with ``--table`` alone, the tables made of them.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

from rich.console import Console

from tests.bench.phasing import curves, quality, real, speed, starts, trust
from tests.bench.phasing.record import Experiment, Line, lines_of, measure

OUT = Path("bench-results/phasing.jsonl")


def experiments(seconds: float) -> dict[str, Experiment]:
    """All of them; ``seconds`` are those of the curves."""
    return {
        "speed": Experiment(cases=speed.cases, table=speed.table),
        "exact": Experiment(cases=quality.exact, table=quality.exact_table),
        "quality": Experiment(cases=quality.quality, table=partial(quality.table, "Quality")),
        "quality-one": Experiment(cases=quality.quality_one, table=partial(quality.table, "Quality, one random start")),
        "verdict": Experiment(cases=trust.cases, table=trust.table),
        "starts": Experiment(cases=starts.cases, table=starts.table),
        "real": Experiment(cases=real.cases, table=real.table),
        "real-starts": Experiment(cases=real.start_cases, table=real.start_table),
        "curves": Experiment(cases=partial(curves.cases, seconds), table=curves.table),
    }


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.phasing", description=__doc__)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after so many")
    parser.add_argument("--only", metavar="NAME,...", help=f"some of {', '.join(experiments(0))}")
    parser.add_argument("--out", type=Path, default=OUT, help=f"file of the lines, {OUT} by default")
    parser.add_argument("--seconds", type=float, default=900.0, help="length of the curves")
    parser.add_argument("--plot", type=Path, help="draw curves and starts into this PNG")
    parser.add_argument("--table", action="store_true", help="only show what is in the file")
    asked = parser.parse_args()
    unknown = set(asked.only.split(",") if asked.only else ()) - set(experiments(0))
    if unknown:
        parser.error(f"--only: expected some of {', '.join(experiments(0))}, got {', '.join(sorted(unknown))}")
    return asked


def show(chosen: dict[str, Experiment], lines: list[Line]) -> None:
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


def main() -> None:
    """Measure what is missing, then show all."""
    asked = arguments()
    every = experiments(asked.seconds)
    chosen = {name: every[name] for name in every if not asked.only or name in asked.only.split(",")}
    end_s = time.monotonic() + 60 * asked.minutes
    if not asked.table:
        for experiment in chosen.values():
            measure(experiment.cases(), asked.out, lambda: time.monotonic() > end_s)
    lines = list(lines_of(asked.out).values())
    show(chosen, lines)
    if asked.plot:
        from tests.bench.phasing.plot import draw

        draw(lines, asked.plot)


if __name__ == "__main__":
    main()
