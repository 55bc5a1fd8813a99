"""Refinement behind the live path: documents of its own, and no job lost or published twice whatever happens."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from tiled.client import from_uri

from cdi_stream.documents.tiled_server import free_port
from cdi_stream.operators import feed
from cdi_stream.operators.feed import FeedMessage
from sim_beamline.scan import recorded_scan
from tests.system.beamline import beamline
from tests.system.queue_campaign import campaign

SMALL = '[refine]\nmethods = ["recipe"]\nrecipe = "30*ER"\n'


@pytest.fixture(scope="module")
def scan():
    return recorded_scan("plain")


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
    shown = {(stage, index) for stage, index in results if stage != "preview"}  # a slow machine has time for previews
    assert shown == set(itertools.product(("inference", "reconstruction", "refinement"), (0, 1)))
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


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_no_refinement_is_lost_or_published_twice_whatever_happens(tmp_path):
    found = campaign(tmp_path, n_jobs=20, n_faults=12, seed=3)
    print(found)
    assert sum(found["faults"].values()) == 12
    assert (found["published_once"], found["published_twice"], found["lost"]) == (20, 0, 0)
