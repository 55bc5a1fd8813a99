"""Campaign of faults: each alone, random pairs, then kills of the service; goes on where it stopped.

``python -m tests.system.campaign --out DIR`` writes one line of JSON for each entry into ``DIR/campaign.jsonl`` and the
page of the documentation into ``DIR/faults.md``; ``--page FILE`` writes the page elsewhere.  Entries that are in the
file are not measured again.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from sim_beamline.faults.menu import MENU
from tests.system import killing
from tests.system.campaign_page import page
from tests.system.spoiling import Outcome, SpoiledBeamline, spoiled_beamline

PAIRS_SEED = 2026
"""Seed of the choice of pairs."""

SCANS_FOR_A_KILL = 0.3
"""Scans that are measured for each kill of the service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the campaign: its name, its faults and their seed."""

    name: str
    faults: tuple[str, ...]
    seed: int = 0


def entries(n_pairs: int) -> Iterator[Entry]:
    """Each fault alone, then pairs with fixed seeds."""
    for name in MENU:
        yield Entry(name=name, faults=(name,))
    pairs = random.Random(PAIRS_SEED).sample(list(combinations(MENU, 2)), n_pairs)
    for number, pair in enumerate(pairs, start=1):
        yield Entry(name=f"pair {number}", faults=pair, seed=number)


def record(entry: Entry, outcome: Outcome, after: tuple[bool, Outcome]) -> dict[str, Any]:
    """The line of an entry."""
    is_next_right, clean = after
    names = ("expected", "received", "missing", "duplicate", "late", "bad")
    return {
        "entry": entry.name,
        "faults": entry.faults,
        "seed": entry.seed,
        "verdict": outcome.verdict,
        "verdict_join": outcome.verdict_join,
        **dict(zip(names, outcome.counts or (None,) * len(names), strict=True)),
        "altered": len(outcome.altered),
        "reasons": outcome.reasons,
        "problems": outcome.problems(),
        "is_next_right": is_next_right,
        "next": "" if is_next_right else repr(clean),
    }


def measure(line: SpoiledBeamline, entry: Entry) -> dict[str, Any]:
    """Measure one scan with the faults of an entry and a clean scan behind it."""
    outcome = line.measure(*entry.faults, seed=entry.seed)
    return record(entry, outcome, line.is_next_right())


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Entries on file; a line that was cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("}\n")]


def keep(path: Path, line: dict[str, Any]) -> None:
    """Append one entry to the file, and tell it."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), file=sys.stderr, flush=True)


def run_faults(path: Path, todo: Iterable[Entry]) -> None:
    """Measure the entries that are not on file, at one beamline."""
    done = {line["entry"] for line in lines_of(path)}
    left = [entry for entry in todo if entry.name not in done]
    if left:
        with tempfile.TemporaryDirectory(prefix="campaign_") as folder, spoiled_beamline(Path(folder)) as line:
            for entry in left:
                keep(path, measure(line, entry))


def run_kills(path: Path, n_kills: int, seed: int) -> None:
    """Kill the service at random moments, unless this is on file."""
    name = f"kills {n_kills}"
    if n_kills and name not in {line["entry"] for line in lines_of(path)}:
        n_scans = max(1, round(n_kills * SCANS_FOR_A_KILL))
        with tempfile.TemporaryDirectory(prefix="kills_") as folder:
            keep(path, {"entry": name} | killing.campaign(Path(folder), n_scans, n_kills, seed, "0.22", 9.0))


def main() -> int:
    """Read the options, run what is not on file, write the page; 3 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.campaign")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="page of the documentation; by default OUT/faults.md")
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=5, help="seed of the moments of the kills")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "campaign.jsonl"
    run_faults(path, entries(options.pairs))
    run_kills(path, options.kills, options.seed)
    lines = lines_of(path)
    (options.page or options.out / "faults.md").write_text(page(lines))
    wrong = [line["entry"] for line in lines if line.get("problems") or line.get("is_next_right") is False]
    print(json.dumps({"entries": len(lines), "wrong": wrong}))
    return 3 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
