"""Speed of a scan with and without cdi-stream subscribed, whatever the service does behind it.

``python -m tests.bench.scan_speed`` runs the same scan of simulated devices in turns: bare, with a callback that does
nothing (the noise of the measurement), with a service that takes the documents, with one that is stopped (SIGSTOP), and
with none.  It prints one JSON object: points per second, the median of the ratios to the bare scan of the same round
with their range, and the 99th percentile of a call [ms].
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import bluesky.plans as bp
import numpy as np
from bluesky import RunEngine
from ophyd.sim import det, motor

from cdi_stream.documents.tiled_server import free_port
from cdi_stream_plugins.bluesky import CdiStream

RECEIVER = """
import sys, time, zmq
from cdi_stream_plugins.sources.process import ProcessSource
source = ProcessSource(zmq.Context(), sys.argv[1])
while True:
    for _ in source.documents(print):
        pass
    time.sleep(0.001)
"""


@contextlib.contextmanager
def receiver(address: str, *, is_stopped: bool) -> Iterator[None]:
    """Run a process that takes the documents, or one that is stopped after it has bound the address."""
    process = subprocess.Popen([sys.executable, "-c", RECEIVER, address])
    time.sleep(2)
    if is_stopped:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def seconds_of_scan(engine: RunEngine, n_points: int) -> float:
    """Run one scan, and return its duration [s]."""
    begin_s = time.perf_counter()
    engine(bp.scan([det], motor, -1, 1, n_points))
    return time.perf_counter() - begin_s


def measure(case: str, n_points: int, n_rounds: int) -> dict[str, object]:
    """Return the speeds of bare scans and of scans with `CdiStream`, which take turns."""
    address = f"tcp://127.0.0.1:{free_port()}"
    is_listening = case in ("taken", "stopped")
    service = receiver(address, is_stopped=case == "stopped") if is_listening else contextlib.nullcontext()
    bare, with_us = RunEngine({}, context_managers=[]), RunEngine({}, context_managers=[])
    calls_s: list[float] = []
    with service:
        stream = CdiStream({"documents": {"source": "process", "address": address}}, is_service_started=False)

        def timed(name: str, doc: dict[str, object]) -> None:
            """Call the stream, and note the duration."""
            begin_s = time.perf_counter()
            if case != "noise":
                stream(name, doc)
            calls_s.append(time.perf_counter() - begin_s)

        with_us.subscribe(timed)
        seconds_of_scan(bare, n_points), seconds_of_scan(with_us, n_points)
        rounds = [(seconds_of_scan(bare, n_points), seconds_of_scan(with_us, n_points)) for _ in range(n_rounds)]
        n_dropped = stream.n_dropped
        stream.close(0.1)
    ratios = np.array([us / alone for alone, us in rounds])
    return {
        "points_per_s_bare": n_points / float(np.median([alone for alone, _ in rounds])),
        "ratio_median": float(np.median(ratios)),
        "ratio_range": [float(ratios.min()), float(ratios.max())],
        "call_p99_ms": 1e3 * float(np.percentile(calls_s, 99)),
        "n_dropped": n_dropped,
    }


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scan_speed", description=__doc__)
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    cases = ("noise", "taken", "stopped", "dead")
    print(json.dumps({case: measure(case, options.points, options.rounds) for case in cases}, indent=1))


if __name__ == "__main__":
    main()
