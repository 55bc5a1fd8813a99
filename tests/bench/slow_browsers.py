"""Latency of the service with many slow browsers at its dashboard, and the memory of the dashboard.

``python -m tests.bench.slow_browsers --browsers 50 --curves 12 --rounds 2`` measures simulated curves in turns, without
browsers and with browsers that read 2 kB each half second.  It prints one JSON object: p50 and p95 of the latencies
[s], frames that were lost, and the memory of the dashboard [MiB].
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cdi_stream.documents.tiled_server import free_port
from sim_beamline.scan import recorded_scan
from tests.system.beamline import TestBeamline, beamline
from tests.system.browser import DASHBOARD, is_up, wait_until

READ_BYTES, READ_EVERY_S = 2048, 0.5


async def read_slowly(port: int, stopped: threading.Event) -> None:
    """Open a web socket and read it slowly until the end; open it again when the server has closed it."""
    while not stopped.is_set():
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=READ_BYTES)
            key = base64.b64encode(os.urandom(16)).decode()
            upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
            writer.write(
                f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\n{upgrade}\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
            )
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


def memory_mib(pid: int, name: str) -> float:
    """Return the memory of a process by its name in ``/proc`` [MiB]."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@contextlib.contextmanager
def dashboard(folder: Path, feed: str, port: int) -> Iterator[int]:
    """The dashboard in a process of its own; yields its number."""
    command = [sys.executable, "-c", DASHBOARD, feed, str(port), "", str(folder / "history.json"), ""]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: is_up(f"http://127.0.0.1:{port}"))
        yield process.pid
    finally:
        process.terminate()
        process.wait()


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
    feed, port = f"tcp://127.0.0.1:{free_port()}", free_port()
    found: dict[str, list[object]] = {"without": [], "with": []}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        table = f'[feed]\nendpoint = "{feed}"\n'
        line = stack.enter_context(beamline(folder, recorded_scan("plain"), table, has_tiled=False))
        line.start_service()
        line.start_detector()
        pid = stack.enter_context(dashboard(folder, feed, port))
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
