"""Refinement queue: durable enqueues, throughput of a Dask cluster, and the delay of a pause for the live path.

``python -m tests.bench.queue`` prints one JSON object: `enqueue_ratio` is the rate of enqueues divided by that of bare
SQLite commits in the same run; `throughput_ratio` the rate of jobs through queue, two Dask workers and bus divided by
that of two bare processes; `processor_time_ratio` the processor time of the bare processes divided by that of all
processes with Dask; `preemption_p50_ms` and `preemption_max_ms` the time from a complete curve to the pause, and
`preemption_max_cpu_ms` the processor time that the refinement still takes in between: on a busy machine it waits too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import zmq

from cdi_stream.disk.result_folder import ResultFolder
from cdi_stream.documents import bus
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.processes import processes
from cdi_stream.refine import compute as compute_module
from cdi_stream.refine.compute import compute, lower_priority
from cdi_stream.refine.engine import EngineSettings, Task
from cdi_stream.refine.outbox import DeliveryMonitor, Outbox
from cdi_stream.refine.queue import QUEUE, Queue
from cdi_stream.refine.turn import Turn, UrgentLock
from cdi_stream.refine.worker import Worker, WorkerSettings
from cdi_stream_plugins.engines.dask import DaskEngine
from cdi_stream_plugins.sinks.bus import BusSink
from tests.refinements import enqueue_jobs

N_WORKERS = 2
RECIPE = "3000*ER"
N_VOXELS = 32
"""A job of about two seconds on one core."""

SPAWN = multiprocessing.get_context("spawn")


# --- durable enqueues -----------------------------------------------------------------------------------------


def measure_enqueues(directory: Path, n_blocks: int = 20, n_in_block: int = 50) -> dict[str, float]:
    """Rates [1/s] of bare commits with synchronous=FULL and of enqueues, in turns on the same disk."""
    enqueue_jobs(directory, range(1), "1*ER")
    with contextlib.closing(Queue(directory / QUEUE)) as queue:
        spec, text = queue.jobs()[0].spec, json.dumps(queue.jobs()[0].spec)
        bare = sqlite3.connect(directory / "bare.sqlite3", isolation_level=None)
        bare.execute("PRAGMA journal_mode = WAL")
        bare.execute("PRAGMA synchronous = FULL")
        bare.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, key TEXT UNIQUE, spec TEXT)")
        insert = "INSERT INTO jobs (key, spec) VALUES (?, ?)"
        numbers = iter(range(10**9))
        ways: dict[str, Callable[[], object]] = {
            "bare": lambda: bare.execute(insert, (f"key {next(numbers)}", text)),
            "ours": lambda: queue.enqueue(f"key {next(numbers)}", "recipe", spec, "input.h5"),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(n_blocks):
            for name, way in ways.items():
                begin_s = time.perf_counter()
                for _ in range(n_in_block):
                    way()
                times[name].append((time.perf_counter() - begin_s) / n_in_block)
        bare.close()
    rates = {name: 1 / median(values) for name, values in times.items()}
    return {
        "bare_commits_per_s": rates["bare"],
        "enqueues_per_s": rates["ours"],
        "enqueue_ratio": rates["ours"] / rates["bare"],
    }


# --- throughput -----------------------------------------------------------------------------------------------


def same_priority() -> None:
    """Keep refinements of this process at normal priority, so that other programs slow all ways down alike."""
    compute_module.lower_priority = torch.set_num_threads


def compute_all(tasks: list[Task]) -> None:
    """Compute tasks one after the other."""
    torch.set_num_threads(1)
    for task in tasks:
        outcome = compute(task, lambda: None)
        assert outcome.fate == "computed", outcome


def bare_rate(pool: ProcessPoolExecutor, tasks: list[Task]) -> float:
    """Jobs a second of bare processes, the jobs dealt out beforehand."""
    begin_s = time.monotonic()
    parts = [pool.submit(compute_all, tasks[k::N_WORKERS]) for k in range(N_WORKERS)]
    for part in parts:
        part.result()
    return len(tasks) / (time.monotonic() - begin_s)


@contextlib.contextmanager
def dask_worker(directory: Path) -> Iterator[tuple[Queue, Worker, list[int]]]:
    """A worker process's parts in this process: queue, two Dask workers, and a proxy of the bus; all pids come last."""
    publish, subscribe = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    settings = WorkerSettings(
        directory=directory,
        results=ResultFolder(base=directory),
        subscribe=subscribe,
        prefix="",
        serializer="msgpack",
        workers=N_WORKERS,
    )
    with contextlib.ExitStack() as stack:
        children = stack.enter_context(processes(directory))
        proxy = children.start(
            "proxy", "sim_beamline", "proxy", "--documents-in", publish, "--documents-out", subscribe
        )
        context = stack.enter_context(zmq.Context())
        socket = bus.listen(context, subscribe)
        stack.callback(socket.close, 0)
        sink = stack.enter_context(contextlib.closing(BusSink(address=publish, is_immediate=True)))
        queue = stack.enter_context(contextlib.closing(Queue(directory / QUEUE)))
        monitor = DeliveryMonitor(socket, queue, "", bus.reader("msgpack"))
        engine = DaskEngine(EngineSettings(directory=directory, is_stopped=lambda: False, workers=N_WORKERS))
        assert engine.n_free() == N_WORKERS
        engine._client.run(same_priority)
        worker = Worker(settings, "worker_0", queue, Outbox(queue, sink, monitor, lambda job: None), engine, bool)
        stack.callback(worker.close)
        yield queue, worker, [os.getpid(), proxy.pid, *engine._client.run(os.getpid).values()]


def dask_rate(queue: Queue, worker: Worker, directory: Path, indices: range) -> float:
    """Jobs a second through the queue, two Dask workers and the bus, until the last document has arrived."""
    enqueue_jobs(directory, indices, RECIPE, N_VOXELS)
    begin_s = time.monotonic()
    while queue.has_work():
        worker.step()
    assert {job.state for job in queue.jobs()} == {"done"}
    return len(indices) / (time.monotonic() - begin_s)


def measure_throughput(directory: Path, n_jobs: int, n_rounds: int) -> dict[str, Any]:
    """Rates of bare processes and of Dask, in turns; the first round is a warm-up."""
    bare_folder, dask_folder = made(directory / "bare"), made(directory / "dask")
    enqueue_jobs(bare_folder, range(n_jobs), RECIPE, N_VOXELS)
    with contextlib.closing(Queue(bare_folder / QUEUE)) as queue:
        tasks = [Task.of(job, bare_folder, ResultFolder(base=bare_folder)) for job in queue.jobs()]
    bare, ours, costs = [], [], []
    with ProcessPoolExecutor(N_WORKERS, mp_context=SPAWN) as pool, dask_worker(dask_folder) as (queue, worker, pids):
        for number in range(n_rounds + 1):
            begin_s = times_s(pool._processes, pids)
            bare.append(bare_rate(pool, tasks))
            middle_s = times_s(pool._processes, pids)
            ours.append(dask_rate(queue, worker, dask_folder, range(number * n_jobs, (number + 1) * n_jobs)))
            end_s = times_s(pool._processes, pids)
            costs.append((middle_s[0] - begin_s[0], end_s[1] - middle_s[1]))
    return {
        "bare_jobs_per_s": bare[1:],
        "dask_jobs_per_s": ours[1:],
        "throughput_ratio": median(ours[1:]) / median(bare[1:]),
        "processor_time_ratio": sum(cost for cost, _ in costs[1:]) / sum(cost for _, cost in costs[1:]),
    }


def times_s(*groups: Iterable[int]) -> list[float]:
    """Processor time [s] of each group of processes."""
    return [sum(map(processor_time_s, group)) for group in groups]


def made(directory: Path) -> Path:
    """Make a folder and return it."""
    directory.mkdir()
    return directory


# --- pause for the live path ----------------------------------------------------------------------------------


def endless_process(directory: Path, task: Task, looked_s: Any, cpu_s: Any) -> None:
    """Compute a task again and again; note time and processor time of each look at the lock as a worker takes it."""
    lower_priority(1)

    def look() -> None:
        cpu_s.value = time.process_time()
        looked_s.value = time.monotonic()

    with contextlib.closing(Turn(directory, lambda: False)) as turn:
        while True:
            outcome = compute(task, lambda: turn.wait(look))
            assert outcome.fate == "computed", outcome


def measure_preemption(directory: Path, method: str, n: int, n_times: int) -> dict[str, float]:
    """Delays [ms] from the lock of the live path to the pause of a process that refines n x n x n voxels."""
    enqueue_jobs(directory, range(1), "30*ER", n)
    with contextlib.closing(Queue(directory / QUEUE)) as queue:
        task = replace(Task.of(queue.jobs()[0], directory, ResultFolder(base=directory)), method=method)
    task = replace(task, spec=task.spec | {"settings": task.spec["settings"] | {"budget_s": 20.0}})
    looked_s, cpu_s = (SPAWN.Value("d", 0.0, lock=False) for _ in range(2))
    child = SPAWN.Process(target=endless_process, args=(directory, task, looked_s, cpu_s), daemon=True)
    child.start()
    assert child.pid is not None
    rng, delays, costs = random.Random(1), [], []
    with contextlib.closing(UrgentLock(directory)) as urgency:
        while looked_s.value == 0.0:
            time.sleep(0.01)
        for _ in range(n_times):
            time.sleep(rng.uniform(0.05, 0.5))
            begin_s, begin_cpu_s = time.monotonic(), processor_time_s(child.pid)
            urgency.begin()
            while looked_s.value <= begin_s:
                time.sleep(0.0002)
            delays.append(1e3 * (looked_s.value - begin_s))
            costs.append(1e3 * (cpu_s.value - begin_cpu_s))
            urgency.end()
    child.kill()
    child.join()
    return {
        "p50_ms": median(delays),
        "p95_ms": sorted(delays)[int(0.95 * len(delays))],
        "max_ms": max(delays),
        "max_cpu_ms": max(costs),
    }


def processor_time_s(pid: int) -> float:
    """Processor time [s] of another process (Linux: the clock of a process is made of its number)."""
    return time.clock_gettime((~pid << 3) | 2)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.queue")
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pauses", type=int, default=100)
    parser.add_argument("--only", default="enqueues,throughput,preemption")
    options = parser.parse_args()
    parts, found = options.only.split(","), {"load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="bench_queue_", dir=Path.cwd()) as folder:
        root = Path(folder)
        if "enqueues" in parts:
            found |= measure_enqueues(made(root / "enqueues"))
        if "throughput" in parts:
            found |= measure_throughput(made(root / "throughput"), options.jobs, options.rounds)
        if "preemption" in parts:
            pauses = {
                f"{method}, {n}^3": measure_preemption(made(root / f"{method}_{n}"), method, n, options.pauses)
                for method, n in (("auto", 64), ("recipe", 64), ("recipe", 128), ("object", 64), ("network", 64))
            }
            found |= {
                "preemption": pauses,
                "preemption_p50_ms": median(values["p50_ms"] for values in pauses.values()),
                "preemption_max_ms": max(values["max_ms"] for values in pauses.values()),
                "preemption_max_cpu_ms": max(values["max_cpu_ms"] for values in pauses.values()),
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
