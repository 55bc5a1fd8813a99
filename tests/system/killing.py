"""Kill the service at random moments of many scans, and account for every frame, document and run.

``python -m tests.system.killing --scans 30 --kills 100 --out DIR`` plays scans one after the other in real time, while
the service is killed with SIGKILL at random moments and started again at once.  It prints one JSON object: how many
scans were reconstructed whole, how many frames were missing, and documents that a foreign listener heard twice.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sim_beamline.scan import recorded_scan
from tests.system.beamline import TestBeamline, beamline

KINDS = ("start", "descriptor", "event", "stream_resource", "stream_datum", "stop")


def campaign(directory: Path, n_scans: int, n_kills: int, seed: int, speed: str, longest_s: float) -> dict[str, Any]:
    """Run the campaign: scans go on while the service is killed at random moments and started again."""
    rng = random.Random(seed)
    with beamline(directory, recorded_scan("plain")) as line:
        line.start_service("service_0")
        line.start_detector()
        scans = threading.Thread(target=play, args=(line, n_scans, speed))
        scans.start()
        n_killed = 0
        while scans.is_alive() and n_killed < n_kills:
            time.sleep(rng.uniform(0.2, longest_s))
            line.children.kill(f"service_{n_killed}")
            n_killed += 1
            line.start_service(f"service_{n_killed}")  # one log for each start, so that a lost frame can be explained
        scans.join()
        wait(lambda: len(reconstructed(line)) >= n_scans, 180)  # a series without an end is given up after 120 s
        wait(lambda: all(map(line.is_in_tiled, own_runs(line))), 120)
        time.sleep(3)
        return summary(line, n_scans, n_killed)


def wait(condition: Callable[[], bool], timeout_s: float) -> None:
    """Wait for a condition, at most ``timeout_s`` [s]."""
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.5)


def own_runs(line: TestBeamline) -> set[str]:
    """Uids of the service's own runs."""
    return {doc["uid"] for kind, doc in line.documents() if kind == "start" and "original_run_uid" in doc}


def play(line: TestBeamline, n_scans: int, speed: str) -> None:
    """Play scans one after the other."""
    for _ in range(n_scans):
        line.start_plan(speed=speed).wait()


def reconstructed(line: TestBeamline) -> dict[str, list[dict[str, Any]]]:
    """Reconstruction events by the uid of the raw run."""
    found = line.documents()
    starts = {d["uid"]: d["original_run_uid"] for k, d in found if k == "start" and "original_run_uid" in d}
    raw_of = {
        d["uid"]: starts[d["run_start"]]
        for k, d in found
        if k == "descriptor" and d["name"] == "reconstruction" and d["run_start"] in starts
    }
    events: dict[str, list[dict[str, Any]]] = {}
    for kind, doc in found:
        if kind == "event" and doc["descriptor"] in raw_of:
            events.setdefault(raw_of[doc["descriptor"]], []).append(doc["data"])
    return events


def summary(line: TestBeamline, n_scans: int, n_killed: int) -> dict[str, Any]:
    """Account for scans, frames and documents."""
    found = line.documents()
    events = reconstructed(line)
    uids = Counter((kind, doc["uid"]) for kind, doc in found if kind in KINDS)
    ours = own_runs(line)
    stopped = {doc["run_start"] for kind, doc in found if kind == "stop"}
    firsts = [data[0] for data in events.values()]
    return {
        "scans": n_scans,
        "kills": n_killed,
        "reconstructed": len(events),
        "reconstructed_twice": sum(
            len({d["reconstruction_curve_index"] for d in data}) < len(data) for data in events.values()
        ),
        "known_by_name": sum("no reading" not in d["reconstruction_reasons"] for d in firsts),
        "whole": sum(data["reconstruction_frames_missing"] == 0 for data in firsts),
        "frames_missing": sum(data["reconstruction_frames_missing"] for data in firsts),
        "frames_expected": sum(data["reconstruction_frames_expected"] for data in firsts),
        "verdicts": dict(Counter(data["reconstruction_verdict"] for data in firsts)),
        "reasons": dict(Counter(r.split(":")[0] for d in firsts for r in d["reconstruction_reasons"].split(" | "))),
        "documents_heard_twice": sum(n > 1 for n in uids.values()),
        "runs_left_open": len(ours - stopped),
        "runs": len(ours),
        "runs_in_tiled": sum(map(line.is_in_tiled, ours)),
    }


def main() -> None:
    """Read the options, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.killing")
    parser.add_argument("--scans", type=int, default=30)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", default="0.22")
    parser.add_argument("--longest", type=float, default=12.0, help="longest time between start and kill [s]")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(campaign(options.out, options.scans, options.kills, options.seed, options.speed, options.longest)))


if __name__ == "__main__":
    main()
