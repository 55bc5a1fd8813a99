"""Servers that are down, frozen or absent, and a service that is told to stop beside them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time

import pytest

from cdi_stream.documents.tiled_server import TiledServer, local_tiled
from cdi_stream.errors import ServiceError
from sim_beamline.scan import recorded_scan
from tests.system.beamline import TestBeamline, beamline
from tests.system.test_tiled_source import KEY, Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def plain():
    return recorded_scan("plain")


def scanned(line: TestBeamline, n: int) -> None:
    """Play one more scan and wait for its reconstruction."""
    assert line.start_plan().wait(60) == 0
    line.wait_until(lambda: len(line.ours("event", "reconstruction")) >= n)


def runs_in_tiled(line: TestBeamline) -> dict[str, bool]:
    """Runs that the Tiled server has, and whether each is there to its end."""
    from tiled.client import from_uri

    address = json.loads((line.config.publish.directory / "tiled.json").read_text())
    client = from_uri(**address)
    try:
        return {uid: bool(client[uid].metadata.get("stop")) for uid in client}
    finally:
        client.context.close()


def wait_for_tiled(line: TestBeamline, n: int) -> None:
    def has_all() -> bool:
        try:
            return list(runs_in_tiled(line).values()).count(True) >= n
        except Exception:  # noqa: BLE001 - it is starting
            return False

    line.wait_until(has_all, 120)


def test_a_tiled_server_that_is_killed_is_started_again_and_gets_everything(tmp_path, plain):
    with beamline(tmp_path, plain) as line:
        line.start_service()
        line.start_detector()
        scanned(line, 1)
        wait_for_tiled(line, 1)
        pids = line.tiled_pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        scanned(line, 2)
        wait_for_tiled(line, 2)
        assert line.tiled_pids()
        assert not set(line.tiled_pids()) & set(pids)
        assert oct((line.config.publish.directory / "tiled.log").stat().st_mode)[-3:] == "600"


def test_a_tiled_server_that_was_killed_while_it_made_its_catalog_starts_again(tmp_path):
    """Such a catalog has tables but no version, and another journal mode, in which the server ends at once."""
    with local_tiled(tmp_path) as server:
        wait_for_answer(server)
    with contextlib.closing(sqlite3.connect(tmp_path / "catalog.db")) as catalog:
        catalog.execute("DROP TABLE alembic_version")
        assert catalog.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
    with local_tiled(tmp_path) as server:
        wait_for_answer(server)


def wait_for_answer(server: TiledServer) -> None:
    end_s = time.monotonic() + 40
    while time.monotonic() < end_s:
        with contextlib.suppress(ServiceError):
            server.require_answer()
            return
        time.sleep(0.2)
    pytest.fail((server._directory / "tiled.log").read_text()[-2000:])


def test_a_frozen_tiled_server_holds_neither_results_nor_the_end_up(tmp_path, plain):
    with beamline(tmp_path, plain) as line:
        service = line.start_service()
        line.start_detector()
        scanned(line, 1)
        wait_for_tiled(line, 1)
        for pid in line.tiled_pids():
            os.kill(pid, signal.SIGSTOP)
        scanned(line, 2)
        began_s = time.monotonic()
        service.terminate()
        assert service.wait(30) == 0
        assert time.monotonic() - began_s < 15
        assert "left for the next start" in line.children.log_tail("service", 60)
        line.start_service()
        wait_for_tiled(line, 2)


def test_a_facility_s_tiled_that_is_down_for_a_minute_during_three_scans_has_all_once_and_in_order(tmp_path, plain):
    """The server is killed in the middle of the first scan and starts again after the third."""
    from tiled.client import from_uri

    server = Server(tmp_path)
    server.start()
    with beamline(tmp_path, plain) as line:
        tiled = f'[publish]\ntiled = "{server.uri}"\ntiled_api_key = "{KEY}"\n'
        line.config_file.write_text(line.config_file.read_text().replace("[publish]\n", tiled))
        line.start_service()
        line.start_detector()
        first = line.start_plan(speed="10")
        line.wait_until(lambda: line.ours("event", "progress"))
        server.kill()
        down_s = time.monotonic()
        assert first.wait(60) == 0
        for n in (1, 2, 3):
            if n > 1:
                assert line.start_plan().wait(60) == 0
            line.wait_until(lambda n=n: len(line.ours("stop")) >= n, 90)
        time.sleep(max(0.0, down_s + 60 - time.monotonic()))
        server.start()
        client = from_uri(server.uri, api_key=KEY)
        try:
            starts = line.ours("start")
            line.wait_until(
                lambda: all(s["uid"] in client and client[s["uid"]].metadata.get("stop") for s in starts), 120
            )
            ours = [uid for uid in client if "original_run_uid" in client[uid].metadata["start"]]
            assert ours == [start["uid"] for start in starts]
            for stop in line.ours("stop"):
                run = client[stop["run_start"]]
                assert run.metadata["stop"]["uid"] == stop["uid"]
                for stream, n in stop["num_events"].items():
                    events = [doc for doc in line.ours("event", stream) if doc["descriptor"] in descriptors(line, run)]
                    table = run[stream].read()
                    assert len(table["time"]) == n == len(events)
                    assert table["time"].values.tolist() == [event["time"] for event in events]
        finally:
            client.context.close()
            server.stop()


def descriptors(line: TestBeamline, run) -> set[str]:
    """Uids of the descriptors of a run."""
    uid = run.metadata["start"]["uid"]
    return {doc["uid"] for name, doc in line.documents() if name == "descriptor" and doc["run_start"] == uid}


def test_what_was_published_while_the_proxy_was_down_is_heard_when_it_is_back(tmp_path, plain):
    with beamline(tmp_path, plain) as line:
        line.start_service()
        line.start_detector()
        plan = line.start_plan()
        line.wait_until(lambda: line.ours("event", "inference"))
        line.children.kill("proxy")
        assert plan.wait(60) == 0
        time.sleep(8)
        line.start_proxy()
        line.wait_until(lambda: line.ours("event", "reconstruction"), 60)
        line.wait_until(lambda: line.ours("stop"), 150)
        names = [name for name, _ in line.documents()]
        assert names.count("start") == 2


def test_a_tiled_server_that_is_not_there_stops_no_service(tmp_path, plain):
    with beamline(tmp_path, plain) as line:
        text = line.config_file.read_text().replace("[publish]\n", '[publish]\ntiled = "http://127.0.0.1:9"\n')
        line.config_file.write_text(text)
        service = line.start_service()
        line.start_detector()
        scanned(line, 1)
        service.terminate()
        assert service.wait(30) == 0
        assert "tiled" in line.children.log_tail("service", 60)
