"""Latency of the service with many slow browsers at its dashboard, and the memory of the dashboard.

``python -m tests.bench.slow_browsers --browsers 50 --curves 12 --rounds 2`` measures simulated curves in turns, without
browsers and with browsers that read 2 kB each half second.  It prints one JSON object: p50 and p95 of the latencies
[s], frames that were lost, and the memory of the dashboard [MiB].
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cdi_stream.documents.tiled_server import free_port
from sim_beamline.scan import recorded_scan
from tests.system.beamline import TestBeamline, beamline
from tests.system.browser import dashboard_process, feed_request, memory_mib

READ_BYTES, READ_EVERY_S = 2048, 0.5


async def read_slowly(port: int, stopped: threading.Event) -> None:
    """Open a web socket and read it slowly until the end; open it again when the server has closed it."""
    while not stopped.is_set():
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=READ_BYTES)
            writer.write(feed_request("127.0.0.1"))
            while not stopped.is_set() and await reader.read(READ_BYTES):
                await asyncio.sleep(READ_EVERY_S)
            writer.close()
        await asyncio.sleep(READ_EVERY_S)


@contextlib.contextmanager
def browsers(port: int, n: int) -> Iterator[None]:
    """Keep slow browsers connected."""
    stopped = threading.Event()

    async def read_all() -> None:
        """Read all web sockets."""
        await asyncio.gather(*(read_slowly(port, stopped) for _ in range(n)))

    thread = threading.Thread(target=lambda: asyncio.run(read_all()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(10)


def measured(line: TestBeamline, n_curves: int, pause_s: float) -> dict[str, object]:
    """Measure curves one after another; return p50 and p95 of their latencies [s], and the frames that were lost."""
    n_before = len(line.ours("event", "reconstruction"))
    for number in range(1, n_curves + 1):
        assert line.start_plan(speed="10").wait(300) == 0
        line.wait_until(lambda wanted=n_before + number: len(line.ours("event", "reconstruction")) >= wanted)
        time.sleep(pause_s)
    found: dict[str, object] = {}
    for stream in ("inference", "reconstruction"):
        events = [event["data"] for event in line.ours("event", stream)][n_before:]
        values = [event[f"{stream}_latency_s"] for event in events]
        found[stream] = {"p50_s": float(np.percentile(values, 50)), "p95_s": float(np.percentile(values, 95))}
        found["frames_missing"] = sum(event[f"{stream}_frames_missing"] for event in events)
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.slow_browsers", description=__doc__)
    parser.add_argument("--browsers", type=int, default=50)
    parser.add_argument("--curves", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pause", type=float, default=2.0, help="between curves [s]")
    options = parser.parse_args()
    feed = f"tcp://127.0.0.1:{free_port()}"
    found: dict[str, list[object]] = {"without": [], "with": []}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        table = f'[feed]\nendpoint = "{feed}"\n'
        line = stack.enter_context(beamline(folder, recorded_scan("plain"), table, has_tiled=False))
        line.start_service()
        line.start_detector()
        uri, pid = stack.enter_context(dashboard_process(folder, feed))
        port = int(uri.rpartition(":")[2])
        measured(line, 1, options.pause)
        before = memory_mib(pid, "VmRSS")
        for _ in range(options.rounds):
            for case, n in (("without", 0), ("with", options.browsers)):
                with browsers(port, n):
                    found[case].append(measured(line, options.curves, options.pause))
        memory = {"before": before, "after": memory_mib(pid, "VmRSS"), "largest": memory_mib(pid, "VmHWM")}
    print(json.dumps({"latency": found, "dashboard_mib": memory, **vars(options)}, indent=1))


if __name__ == "__main__":
    main()
