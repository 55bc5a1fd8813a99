"""``make bench-phasing``: phasing against its goals, hours in all; it goes on where it stopped.

One JSON line a case; at the end, or with ``--table`` alone, the tables made of them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.bench import session
from tests.bench.phasing import curves, large, quality, real, speed, starts, trust, zoo, zoo_peers
from tests.bench.record import Experiment


def experiments(seconds: float) -> dict[str, Experiment]:
    """All of them; ``seconds`` are those of the curves."""
    return {
        "speed": Experiment(cases=speed.cases, table=speed.table),
        "exact": Experiment(cases=quality.exact, table=quality.exact_table),
        "quality": Experiment(cases=quality.quality, table=partial(quality.table, "Quality")),
        "quality-one": Experiment(cases=quality.quality_one, table=partial(quality.table, "Quality, one random start")),
        "large": Experiment(cases=large.cases, table=large.table),
        "verdict": Experiment(cases=trust.cases, table=trust.table),
        "zoo": Experiment(cases=zoo.cases, table=partial(zoo.tables, "Zoo, auto in 30 s")),
        "zoo-live": Experiment(cases=zoo.live_cases, table=partial(zoo.tables, "Zoo, live search")),
        "zoo-peers": Experiment(cases=zoo_peers.cases, table=partial(zoo.table, "Zoo, cohere_core")),
        "starts": Experiment(cases=starts.cases, table=starts.table),
        "real": Experiment(cases=real.cases, table=real.table),
        "real-starts": Experiment(cases=real.start_cases, table=real.start_table),
        "curves": Experiment(cases=partial(curves.cases, seconds), table=curves.table),
    }


def main() -> None:
    """Measure what is missing, then show all."""
    parser = session.parser("tests.bench.phasing", __doc__, Path("bench-results/phasing.jsonl"))
    parser.add_argument("--seconds", type=float, default=900.0, help="length of the curves")
    parser.add_argument("--plot", type=Path, help="draw curves and starts into this PNG")
    asked = parser.parse_args()
    lines = session.run(asked, experiments(asked.seconds))
    if asked.plot:
        from tests.bench.phasing.plot import draw

        draw(lines, asked.plot)


if __name__ == "__main__":
    main()
