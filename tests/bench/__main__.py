"""``make bench``: ingest, latency and cycles against their goals; ``--json`` prints the figures as one JSON object."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figures, measure


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="time to measure, 15 by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    asked = parser.parse_args()
    figures = measure(asked.minutes)
    Console(stderr=asked.json).print(table(figures))
    if asked.json:
        sys.stdout.write(json.dumps(figures.plain()) + "\n")


def table(figures: Figures) -> Table:
    """Return the table of the figures with their goals."""
    shown = Table("what", "measured", "goal")
    pairs_p50, pairs_p95 = figures.inference_pairs
    rows = [
        ("ingest, over a bare loop", f"{figures.ingest_ratio:.2f}", ">= 0.9"),
        ("two transforms of the demo volume", f"{figures.fft_pair_ms:.1f} ms", ""),
        ("a bare pass of the network", f"{figures.bare_pass_p50_ms:.0f} ms", ""),
        ("inference", f"p50 {figures.inference_p50_ms:.0f}, p95 {figures.inference_p95_ms:.0f} ms", "60 and 150 ms"),
        ("inference less the pass, in transforms", f"p50 {pairs_p50:.0f}, p95 {pairs_p95:.0f}", "8 and 16"),
        (
            "inference beside a refinement",
            f"p50 {figures.inference_beside_p50_ms:.0f}, p95 {figures.inference_beside_p95_ms:.0f} ms",
            "",
        ),
        ("reconstruction", f"p50 {figures.reconstruction_p50_ms:.0f} ms", ""),
        ("reconstruction, in transforms", f"p50 {figures.reconstruction_pairs:.0f}", "150"),
        ("reconstruction, no pause between curves", f"p95 {figures.back_to_back_p95_ms:.0f} ms", "2 x alone"),
        ("a cycle over two transforms, 64^3", f"{figures.cycle_ratio_64:.2f}", "1.2"),
        ("the same, one thread", f"{figures.cycle_ratio_64_one_thread:.2f}", "1.2"),
        ("the same, 128^3", f"{figures.cycle_ratio_128:.2f}", "1.2"),
    ]
    for row in rows:
        shown.add_row(*row)
    for name, value in figures.stages_p50_ms.items():
        shown.add_row(f"  {name}", f"p50 {value:.0f} ms", "")
    return shown


if __name__ == "__main__":
    main()
