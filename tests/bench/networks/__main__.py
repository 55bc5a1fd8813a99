"""``make bench-networks``: what networks are worth; it goes on where it stopped."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cdi_stream.networks.packaged import packaged_networks
from cdi_stream.training.run import TASKS
from tests.bench import session
from tests.bench.networks import confidence, forward, live, papers, polish, real, strained
from tests.bench.record import Experiment


def experiments(networks: list[str], starts: list[str] | None) -> dict[str, Experiment]:
    """All of them; ``networks`` are those whose answers are polished, from all ``starts`` if none are named."""
    return {
        "forward": Experiment(cases=forward.cases, table=forward.table),
        "papers": Experiment(cases=papers.cases, table=papers.table),
        "confidence": Experiment(cases=partial(confidence.cases, networks), table=confidence.table),
        "real": Experiment(cases=partial(real.cases, networks), table=real.table),
        "strained": Experiment(cases=partial(strained.cases, networks), table=strained.table),
        "live": Experiment(
            cases=partial(live.cases, starts or live.starts(networks)), table=partial(polish.table, "Live polish")
        ),
        "polish": Experiment(
            cases=partial(polish.cases, starts or polish.starts(networks)), table=partial(polish.table, "One recipe")
        ),
    }


def main() -> None:
    """Measure what is missing, then show all."""
    parser = session.parser("tests.bench.networks", __doc__, Path("bench-results/networks.jsonl"))
    parser.add_argument(
        "--network", action="append", metavar="NAME", help="polish this one; by default all packaged for volumes"
    )
    parser.add_argument(
        "--start", action="append", metavar="NAME", help="in polish and live: only from this one, random or a network"
    )
    asked = parser.parse_args()
    for_volumes = [name for name in packaged_networks() if TASKS[name].input_shape == (64, 64, 64)]
    session.run(asked, experiments(asked.network or for_volumes, asked.start))


if __name__ == "__main__":
    main()
