"""Documents of random content: each is used, left out, or refused with `WireError`, within a short time."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from cdi_stream.errors import WireError
from cdi_stream.messages import SeriesEnd
from tests.assembling import N, Rig, all_events, begin, descriptor, frame, run_start, run_stop

NAMES = (
    "start", "descriptor", "event", "event_page", "stop", "stream_resource", "stream_datum", "resource", "datum",
    "bulk_events", "odd", "",
)  # fmt: skip
KEYS = (
    "uid", "run_start", "descriptor", "seq_num", "data", "time", "timestamps", "name", "data_keys", "configuration",
    "num_events", "exit_status", "num_points", "scan_id", "motors", "sample", "data_groups", "theta", "det_image_id",
    "det_series_id", "units", "indices", "seq_nums", "original_run_uid", "analysis_stage", "filled",
)  # fmt: skip
LEAVES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 10**7, 10**20, -(10**9), 0.5, float("nan"), float("inf"), -float("inf"), 1e308,
    "", "run", "primary", "baseline", "theta", "deg", "\x00", "x" * 300, b"", b"\xff", (), [], {},
)  # fmt: skip


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if depth > 3 or kind < 0.6:
        return rng.choice(LEAVES)
    if kind < 0.8:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    keys = [rng.choice((*KEYS, *LEAVES[:20])) for _ in range(rng.randrange(4))]
    return {key: value(rng, depth + 1) for key in keys if not isinstance(key, list | dict)}


def mutated(rng: random.Random, doc: dict[str, Any]) -> dict[str, Any]:
    changed = dict(doc)
    for _ in range(rng.randrange(3)):
        key = rng.choice((*changed, *KEYS))
        if rng.random() < 0.2:
            changed.pop(key, None)
        elif isinstance(changed.get(key), dict) and rng.random() < 0.5:
            changed[key] = mutated(rng, changed[key])
        else:
            changed[key] = value(rng)
    return changed


def sequence(rng: random.Random) -> list[tuple[str, Any]]:
    page = {"descriptor": "primary", "seq_num": [1, 2, 3], "time": [0.0] * 3, "data": {"theta": [0.1, 0.2, 0.3]}}
    good = [run_start(num_points=N), descriptor(), *all_events(series=1), ("event_page", page), run_stop(N)]
    found: list[tuple[str, Any]] = []
    for name, doc in good:
        if rng.random() < 0.2:
            odd = value(rng)
            found.append((rng.choice(NAMES), odd if isinstance(odd, dict) else {}))
        if rng.random() < 0.95:
            found.append((name, mutated(rng, doc) if rng.random() < 0.4 else doc))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_any_documents_end_no_thread_and_lose_no_frame(seed):
    rng = random.Random(seed)
    for _ in range(150):
        rig = Rig()
        rig.feed(begin(user_data={"run_uid": "run"}))
        began_s = time.monotonic()
        for name, doc in sequence(rng):
            try:
                rig.feed((name, doc))
            except WireError as error:
                assert len(str(error)) < 1000  # noqa: PT017 - which documents are refused is up to chance
        rig.feed(*(frame(k) for k in range(N)), SeriesEnd(series=1))
        curves = rig.settle()
        account = next(curve.account for curve in curves if curve.series.series == 1)
        assert account.received + account.duplicate == N, "an event may name another frame, but each is accounted for"
        assert time.monotonic() - began_s < 2.0
