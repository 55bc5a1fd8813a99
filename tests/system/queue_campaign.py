"""Faults at random moments of many refinements: each result must be published exactly once.

``python -m tests.system.queue_campaign --jobs 200 --kills 100 --seed 1 --out DIR`` kills service, worker processes,
Dask scheduler and Dask workers (SIGKILL), freezes workers (SIGSTOP) and sets the clock, while jobs run.  It prints one
JSON object, and goes on where it stopped if DIR has a part of it.  Exit code 3: a result was lost or published twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdi_stream.refine.queue import Queue
from cdi_stream.refine.turn import orphan_lock
from tests.refinements import enqueue_jobs
from tests.system.queue_site import QueueSite, documents_heard, movable_clock, queue_site

RECIPE = "1500*ER"
"""Schedule of a job: about a second on a core of its own."""

N_VOXELS = 32

FAULTS = {
    "kill service": 8,
    "kill worker": 14,
    "kill local_worker": 14,
    "kill dask_scheduler": 10,
    "kill dask_worker": 30,
    "stop worker": 4,
    "stop local_worker": 5,
    "stop dask_worker": 5,
    "set clock": 10,
}
"""Kinds of faults, each with its weight; ``worker`` is the service's own worker process."""

PAUSE_S = (0.2, 5.0)
"""Shortest and longest time [s] between two faults."""

STOP_S = (2.0, 4.0, 8.0, 30.0)
"""Times [s] for which a process is frozen; the last is longer than a lease."""

JUMPS_S = (-86_400, -3600, -60, 60, 3600, 86_400)
"""Seconds by which the clock differs from the true time after a jump."""

START_S = 60.0
"""Longest time [s] to wait for a job at work: a service and its worker start in half of it on a busy machine."""

TURN = 5
"""Number of faults after which the second worker process ends, or comes back: Dask computes alone in between."""

AIM = 0.3
"""Share of the faults that wait for the moment between a result on disk and its documents on the bus."""

LIMIT_S = 1200.0
"""Longest time [s] without any progress."""


class Faults:
    """Makes faults, and ends those that last."""

    def __init__(self, site: QueueSite, rng: random.Random, clock_file: Path | None) -> None:
        self._site = site
        self._rng = rng
        self._clock_file = clock_file
        self._frozen: list[tuple[float, int]] = []

    def make(self) -> str | None:
        """Make one fault and return its kind; None if its process does not run at the moment."""
        kinds = {kind: n for kind, n in FAULTS.items() if self._clock_file is not None or kind != "set clock"}
        kind = self._rng.choices(list(kinds), list(kinds.values()))[0]
        what, name = kind.split(" ")
        if what == "set":
            assert self._clock_file is not None
            self._clock_file.write_text(str(self._rng.choice(JUMPS_S)))
            return kind
        if name == "dask_worker":
            name = f"dask_worker_{self._rng.randrange(2)}"
        if what == "kill":
            return kind if self._site.kill(name) else None
        pid = self._site.signal(name, signal.SIGSTOP)
        if pid is None:
            return None
        self._frozen.append((time.monotonic() + self._rng.choice(STOP_S), pid))
        return kind

    def thaw(self, *, all_at_once: bool = False) -> None:
        """Let frozen processes go on whose time is over."""
        for end_s, pid in list(self._frozen):
            if all_at_once or time.monotonic() > end_s:
                self._frozen.remove((end_s, pid))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


def events_of(path: Path) -> list[dict[str, Any]]:
    """Faults of former runs of the campaign."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def campaign(directory: Path, n_jobs: int, n_faults: int, seed: int) -> dict[str, Any]:
    """Run the campaign in a folder, or what is left of it, and return its summary."""
    path = directory / "events.jsonl"
    events, begin_s = events_of(path), time.monotonic()
    with movable_clock(directory) as clock_file, queue_site(directory) as site:
        rng = random.Random(seed + len(events))
        faults = Faults(site, rng, clock_file)
        with contextlib.closing(Queue(site.queue_file)) as queue:
            n_added = max(6, len(queue.jobs()))
            enqueue_jobs(site.results, range(len(queue.jobs()), n_added), RECIPE, N_VOXELS)
            site.keep()
            until(lambda: site.pid("worker") is not None, START_S, 0.2)
            while len(events) < n_faults:
                has_local = len(events) // TURN % 2 == 0
                keep_for(site, faults, rng.uniform(*PAUSE_S), has_local=has_local)
                n_due = min(n_jobs, 6 + n_jobs * (len(events) + 1) // n_faults)  # each fault meets new jobs
                enqueue_jobs(site.results, range(n_added, n_due), RECIPE, N_VOXELS)
                n_added = max(n_added, n_due)
                wait_for_moment(site, queue, faults, rng, has_local=has_local)
                if (kind := faults.make()) is not None:
                    events.append({"fault": kind, "counts": queue.counts()})
                    with path.open("a") as file:
                        file.write(json.dumps(events[-1]) + "\n")
                    print(len(events), json.dumps(events[-1]), file=sys.stderr, flush=True)
            faults.thaw(all_at_once=True)
            enqueue_jobs(site.results, range(n_added, n_jobs), RECIPE, N_VOXELS)
            n_retried = finish(site, queue, n_jobs)
            time.sleep(2.0)
            found = summary(directory, queue, n_jobs)
    return found | {
        "faults": dict(Counter(event["fault"] for event in events)),
        "retried": n_retried,
        "seconds": round(time.monotonic() - begin_s),
    }


def keep_for(site: QueueSite, faults: Faults, seconds: float, *, has_local: bool) -> None:
    """Keep all processes going for a time [s]."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        faults.thaw()
        site.keep(has_local=has_local)
        time.sleep(0.05)


def wait_for_moment(site: QueueSite, queue: Queue, faults: Faults, rng: random.Random, *, has_local: bool) -> None:
    """Wait for the moment of the next fault: a job is at work, or, sometimes, documents go out."""

    def is_at_work() -> bool:
        """Keep all going; return whether a job is at work, or none is left."""
        faults.thaw()
        site.keep(has_local=has_local)
        leased = queue.jobs("leased")
        return not queue.has_work() or any(is_alive(site.results, job.owner) for job in leased)

    until(is_at_work, START_S, 0.1)
    keep_for(site, faults, rng.uniform(0.0, 1.0), has_local=has_local)
    if rng.random() < AIM:
        until(lambda: queue.counts()["computed"] > 0, 5.0, 0.001)


def is_alive(directory: Path, owner: str | None) -> bool:
    """Whether the worker process of a lease runs."""
    with orphan_lock(directory, str(owner)) as is_orphaned:
        return not is_orphaned


def until(condition: Callable[[], bool], timeout_s: float, pause_s: float) -> bool:
    """Wait for a condition; false if it does not come true within ``timeout_s`` [s]."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if condition():
            return True
        time.sleep(pause_s)
    return False


def finish(site: QueueSite, queue: Queue, n_jobs: int) -> int:
    """Wait for all jobs; return how many an operator had to try again, because too many workers died over them."""
    n_retried, n_done, limit_s = 0, -1, time.monotonic() + LIMIT_S
    while n_done < n_jobs:
        site.keep()
        n_retried += sum(queue.retry(job.id) for job in queue.jobs("failed"))
        if queue.counts()["done"] > n_done:
            n_done, limit_s = queue.counts()["done"], time.monotonic() + LIMIT_S
        if time.monotonic() > limit_s:
            break
        time.sleep(0.2)
    return n_retried


def summary(directory: Path, queue: Queue, n_jobs: int) -> dict[str, Any]:
    """Compare what a foreign listener has heard with the jobs."""
    runs: dict[str, Counter[str]] = {job.key: Counter() for job in queue.jobs()}
    documents = documents_heard(directory)
    run_of = {doc["uid"]: doc["run_start"] for kind, doc in documents if kind == "descriptor"}
    for kind, doc in documents:
        uid = doc["uid"] if kind == "start" else doc.get("run_start") or run_of.get(doc.get("descriptor", ""))
        if uid in runs:
            runs[uid][kind] += 1
    times = [tuple(run[kind] for kind in ("start", "event", "stop")) for run in runs.values()]
    return {
        "jobs": n_jobs,
        "done": queue.counts()["done"],
        "published_once": times.count((1, 1, 1)),
        "published_twice": sum(max(counts) > 1 for counts in times),
        "lost": n_jobs - sum(min(counts) > 0 for counts in times),
        "by_dask": sum(job.attempts == 0 for job in queue.jobs()),
        "attempts": dict(sorted(Counter(job.attempts for job in queue.jobs()).items())),
    }


def main() -> int:
    """Read the options, run, print; 3 if a result was lost or published twice."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.queue_campaign")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100, help="number of faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("campaign") / "queue", help="folder of the campaign")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    found = campaign(out, options.jobs, options.kills, options.seed)
    print(json.dumps(found))
    return 0 if found["published_once"] == options.jobs else 3


if __name__ == "__main__":
    sys.exit(main())
