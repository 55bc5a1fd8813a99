"""Servers that are down, frozen or absent, and a service that is told to stop beside them."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from sim_beamline.scan import recorded_scan
from tests.system.beamline import TestBeamline, beamline

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
