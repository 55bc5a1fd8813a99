"""Refinement behind the live path: documents of its own, and no job lost or published twice whatever is killed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from tiled.client import from_uri

from cdi_stream.documents.publish import Provenance
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.inversion.chain import reconstruct
from cdi_stream.inversion.methods import MethodSettings
from cdi_stream.messages import RunContext
from cdi_stream.operators import feed
from cdi_stream.operators.feed import FeedMessage
from cdi_stream.refine.backlog import Backlog, BacklogSettings
from cdi_stream.refine.queue import QUEUE, Queue
from sim_beamline.scan import recorded_scan
from tests.builders import curve_of, settings_for
from tests.system.beamline import TestBeamline, beamline

N_JOBS = 40
N_KILLS = 50
SMALL = '[refine]\nmethods = ["recipe"]\nrecipe = "30*ER"\n'


@pytest.fixture(scope="module")
def scan():
    return recorded_scan("plain")


def refinement_runs(line: TestBeamline) -> dict[str, Counter[str]]:
    """How often each kind of document of each refinement run was heard by a foreign listener."""
    found = line.documents()
    runs: dict[str, Counter[str]] = {
        doc["uid"]: Counter() for kind, doc in found if kind == "start" and doc.get("analysis_stage") == "refinement"
    }
    run_of = {doc["uid"]: doc["run_start"] for kind, doc in found if kind == "descriptor"}
    for kind, doc in found:
        uid = doc["uid"] if kind == "start" else doc.get("run_start") or run_of.get(doc.get("descriptor", ""))
        if uid in runs:
            runs[uid][kind] += 1
    return runs


@contextlib.contextmanager
def heard_feed(endpoint: str) -> Iterator[Callable[[], list[FeedMessage]]]:
    """Listen to a service's feed; what is yielded returns the messages so far."""
    found: list[FeedMessage] = []
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(endpoint)

        def heard() -> list[FeedMessage]:
            while socket.poll(0):
                found.append(feed.unpack(socket.recv_multipart()))
            return found

        yield heard


def check_feed(messages: list[FeedMessage], n_frames: int) -> None:
    """The operators were told of everything: frames, progress to the end, each result with its slices, the queue."""
    headers = [header for header, _ in messages]
    assert [header["seq"] for header in headers] == list(range(headers[0]["seq"], headers[-1]["seq"] + 1))
    over = [header for header in headers if header["kind"] == "progress" and header["is_over"]]
    assert [(header["curve_index"], header["strip"]) for header in over] == [(0, "#" * n_frames), (1, "#" * n_frames)]
    results = [(header["stage"], header["curve_index"]) for header in headers if header["kind"] == "result"]
    assert set(results) == set(itertools.product(("inference", "reconstruction", "refinement"), (0, 1)))
    assert all(len(images) == 6 for header, images in messages if header["kind"] == "result")
    assert any(header["kind"] == "frame" for header in headers)
    assert max(header["queue"].get("done", 0) for header in headers if header["kind"] == "state") == 2


def test_each_curve_is_refined_in_a_run_of_its_own(tmp_path, scan):
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    told = f'\n[feed]\nendpoint = "{endpoint}"\n'
    with heard_feed(endpoint) as heard, beamline(tmp_path, scan, told, refine_toml=SMALL) as line:
        line.start_service()
        line.start_detector()
        line.start_plan(n_curves=2)
        line.wait_until(lambda: len(line.ours("stop", stage="refinement")) == 2)
        (reconstruction,) = line.ours("start")
        starts = line.ours("start", stage="refinement")
        for start in starts:
            assert start["parent_uids"] == [reconstruction["original_run_uid"], reconstruction["uid"]]
            assert start["original_run_uid"] == reconstruction["original_run_uid"]
        events = line.ours("event", "refinement", stage="refinement")
        assert sorted(event["data"]["refinement_curve_index"] for event in events) == [0, 1]
        for event in events:
            data = event["data"]
            assert data["refinement_chi2"] < data["refinement_start_chi2"]
            assert (data["refinement_method"], data["refinement_recipe"]) == ("recipe", "30*ER")
        client = from_uri(**tiled_address(tmp_path))
        line.wait_until(lambda: {start["uid"] for start in starts} <= set(client))
        crystal = client[starts[0]["uid"]]["refinement"]["refinement_crystal"].read()
        assert crystal.dtype == np.complex64
        assert np.abs(crystal).max() > 0
        client.context.close()
        assert not list((line.config.publish.directory / "jobs").glob("*.h5")), "inputs are removed when done"
        line.wait_until(lambda: any(header.get("queue", {}).get("done") == 2 for header, _ in heard()))
        check_feed(heard(), len(scan.frames))


def tiled_address(directory: Path) -> dict[str, str]:
    found = json.loads((directory / "tiled.json").read_text())
    return {"uri": found["uri"], "api_key": found["api_key"]}


def enqueue_many(directory: Path, line: TestBeamline, scan: Any, network: Any, n: int) -> None:
    """Put ``n`` refinements of as many curves into the queue, as the service would."""
    *_, result = reconstruct(curve_of(scan), network, settings_for(scan, phase={"recipe": "2*ER"}))
    documents = line.config.documents
    settings = BacklogSettings(
        methods=("recipe",),
        method_settings=MethodSettings(
            recipe="1000*ER",
            network_file=line.config.network.file,
            network_steps=1,
            network_recipe="1*ER",
        ),
        provenance=Provenance(version="0", config_sha256="c", network_name="n", network_sha256="s", beamline="b"),
        lab_shape=(48, 48, 48),
        directory=directory,
        config_file=line.config_file,
        subscribe=documents.subscribe,
        prefix="",
        serializer=documents.serializer,
    )
    with contextlib.closing(Backlog(settings)) as backlog, contextlib.closing(Queue(directory / QUEUE)) as queue:
        for index in range(n):
            backlog.ask(result, RunContext(uid=f"raw-{index}"), f"reconstruction-{index}")
        backlog.enqueue_requests(queue)


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Pids of a process's children."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def is_publishing(queue: Queue, timeout_s: float) -> bool:
    """Wait for the moment between a result on disk and its documents heard by all."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if queue.counts()["computed"]:
            return True
        time.sleep(0.001)
    return False


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_no_refinement_is_lost_or_published_twice_whatever_is_killed(tmp_path, scan, network):
    rng = np.random.default_rng(3)
    with beamline(tmp_path, scan, refine_toml=SMALL) as line:
        text = line.config_file.read_text().replace("[publish]\n", '[publish]\ntiled = "none"\n')
        line.config_file.write_text(text)
        results = line.config.publish.directory.resolve()
        enqueue_many(results, line, scan, network, N_JOBS)
        queue = Queue(results / QUEUE)
        names = (f"service_{number}" for number in itertools.count())
        name = next(names)
        service = line.start_service(name)
        killed: Counter[str] = Counter()
        aimed = 0
        while killed.total() < N_KILLS and queue.counts()["done"] < N_JOBS:
            time.sleep(rng.uniform(0.1, 6.0))
            if rng.random() < 0.4:
                aimed += is_publishing(queue, 4.0)
            if rng.random() < 0.3:
                line.children.kill(name)
                name = next(names)
                service = line.start_service(name)
                killed["service"] += 1
            elif workers := children_of(service):
                os.kill(workers[0], signal.SIGKILL)
                killed["worker"] += 1
        line.wait_until(lambda: queue.counts()["done"] == N_JOBS, timeout_s=300)
        time.sleep(1.0)
        attempts = Counter(job.attempts for job in queue.jobs())
        queue.close()
        runs = refinement_runs(line)
    print(f"killed {dict(killed)}, {aimed} of them while documents went out, attempts {dict(attempts)}")
    assert len(runs) == N_JOBS
    assert {tuple(runs[uid][kind] for kind in ("start", "event", "stop")) for uid in runs} == {(1, 1, 1)}
    assert killed.total() >= N_KILLS // 2, "the campaign was over too soon"
