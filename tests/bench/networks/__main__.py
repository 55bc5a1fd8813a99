"""``make bench-networks``: what networks are worth; it goes on where it stopped."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cdi_stream.config import DEFAULT_NETWORK
from tests.bench import session
from tests.bench.networks import forward, polish
from tests.bench.record import Experiment


def experiments(network: Path) -> dict[str, Experiment]:
    """All of them; ``network`` is the file whose answers are polished."""
    return {
        "forward": Experiment(cases=forward.cases, table=forward.table),
        "polish": Experiment(cases=partial(polish.cases, network), table=polish.table),
    }


def main() -> None:
    """Measure what is missing, then show all."""
    parser = session.parser("tests.bench.networks", __doc__, Path("bench-results/networks.jsonl"))
    parser.add_argument(
        "--network", type=Path, default=DEFAULT_NETWORK, help="network file, the packaged one by default"
    )
    asked = parser.parse_args()
    session.run(asked, experiments(asked.network))


if __name__ == "__main__":
    main()
