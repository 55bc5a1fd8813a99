"""The simulated beamline over Channel Access: real motor records and areaDetector, driven by ophyd and ophyd-async."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from cdi_stream.documents.tiled_server import free_port
from tests.builders import ONE_START
from tests.system.test_profile import SERVICE, service_of

pytest.importorskip("caproto")
pytest.importorskip("epics")


PLACES = """distance_m = 0.5
pixel_row_m = 55e-6
pixel_col_m = 55e-6
beam_row = 35.3
beam_col = 22.4
"""
"""Numbers that the header of ``array-1.0`` lacks."""


class Line:
    """Station in a process, and the configuration of the service that the profile starts."""

    def __init__(self, folder, options=(), settings=ONE_START, wire_format="dectris2"):
        names = ("detector", "address", "subscribe", "publish")
        ends = {name: f"tcp://127.0.0.1:{free_port()}" for name in names}
        self.config = folder / "beamline.toml"
        text = SERVICE.format(directory=folder / "results", **ends)
        self.config.write_text(
            text.replace("[geometry]\n", f"[geometry]\n{PLACES}").replace(
                "[detector]\n", f'[detector]\nformat = "{wire_format}"\n'
            )
            + settings
        )
        self.rest = f"http://127.0.0.1:{(rest_port := free_port())}"
        addresses = {"EPICS_CA_ADDR_LIST": "127.0.0.1", "EPICS_CA_AUTO_ADDR_LIST": "NO"}
        ports = {"EPICS_CA_SERVER_PORT": str(free_port()), "EPICS_CA_REPEATER_PORT": str(free_port())}
        self.environment = {**os.environ, **addresses, **ports, "CDI_STREAM_CONFIG": str(self.config)}
        command = [sys.executable, "-m", "sim_beamline", "--data", ends["detector"], "--rest-port", str(rest_port)]
        with (folder / "station.log").open("wb") as log:
            self.station = subprocess.Popen(
                [*command, *options], stdout=subprocess.PIPE, stderr=log, env=self.environment
            )
        self.names = json.loads(self.station.stdout.readline())

    def run(self, plan, timeout_s=300, script=(sys.executable, "-m", "tests.system.epics_plans")):
        """Run a plan of `tests.system.epics_plans` or of another script, and return its answer."""
        done = subprocess.run(
            [*script, plan],
            env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def close(self):
        self.station.send_signal(signal.SIGTERM)
        assert self.station.wait(20) == 0
        self.station.stdout.close()
        for pid in service_of(self.config):
            os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 20
        while service_of(self.config) and time.monotonic() < end:
            time.sleep(0.1)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    made = Line(tmp_path_factory.mktemp("epics"), ["--fast"])
    try:
        yield made
    finally:
        made.close()


def test_a_curve_over_channel_access_becomes_a_crystal_in_its_own_run(line):
    answer = line.run("one_crystal")
    (reading,) = answer["readings"]
    assert reading["crystal_verdict"] in ("good", "doubtful"), reading["crystal_reasons"]
    assert reading["crystal_chi2"] < 0.1
    assert answer["last"] == "stop"
    assert 200 < reading["crystal_size_x_nm"] < 320


@pytest.mark.slow
def test_the_same_by_devices_of_ophyd_async(line):
    answer = line.run("asynchronous")
    assert answer["verdict"] in ("good", "doubtful"), answer
    assert 200 < answer["size_x_nm"] < 320


def test_the_rest_interface_arms_and_triggers_as_simplon_does(line):
    detector = f"{line.rest}/detector/api/1.8.0"
    with httpx.Client() as client:
        assert client.get(f"{detector}/status/state").json() == {"value": "idle"}
        refused = client.put(f"{detector}/command/trigger")
        assert refused.status_code == 400
        assert "send arm first" in refused.json()["detail"]
        assert client.put(f"{detector}/config/ntrigger", json={"value": 2}).json() == ["ntrigger"]
        assert client.put(f"{detector}/config/ntrigger", json={"value": "many"}).status_code == 400
        assert client.put(f"{detector}/config/ntrigger", json={"value": -1}).status_code == 400
        assert client.get(f"{detector}/config/nothing").status_code == 404
        assert client.put(f"{line.rest}/stream/api/1.8.0/config/header_appendix", json={"value": "note"}).json()
        client.put(f"{detector}/command/arm")
        assert client.get(f"{detector}/status/state").json() == {"value": "ready"}
        assert client.put(f"{detector}/config/ntrigger", json={"value": 3}).status_code == 400
        for _ in range(2):
            assert client.put(f"{detector}/command/trigger", timeout=20).status_code == 200
        assert client.get(f"{detector}/status/state").json() == {"value": "idle"}
        client.put(f"{line.rest}/stream/api/1.8.0/config/header_appendix", json={"value": ""})


@pytest.fixture(scope="module")
def patient_line(tmp_path_factory):
    """A line whose service searches as long as it does by default."""
    made = Line(tmp_path_factory.mktemp("patient"), ["--fast"], "")
    try:
        yield made
    finally:
        made.close()


@pytest.mark.slow
def test_three_crystals_have_each_a_reconstruction_in_two_runs(patient_line):
    line = patient_line
    answer = line.run("three_crystals")
    assert answer["verdicts"][0] == answer["verdicts"][2] == "good", answer
    assert answer["verdicts"][1] in ("good", "doubtful")
    assert [reading["crystal_uid"] for reading in answer["readings"]] == answer["uids"]
    assert len({reading["run"] for reading in answer["readings"]}) == 3
    assert len(set(answer["uids"])) == 3


@pytest.mark.slow
def test_counting_stops_early_on_the_bright_crystal_and_goes_on_on_the_dim_one(patient_line):
    line = patient_line
    answer = line.run("count")
    assert answer["bright"] == ["good"]
    assert len(answer["dim"]) > 1
    assert "good" not in answer["dim"][:-1]


@pytest.mark.slow
def test_faults_are_switched_on_for_the_next_series(line):
    """Three frames are lost, which the result tells; the next curve is whole."""
    faults = f"{line.rest}/detector/api/1.8.0/config/faults"
    assert httpx.put(faults, json={"value": "drop, nonsense"}).status_code == 400
    assert httpx.put(faults, json={"value": "drop"}).status_code == 200
    (spoiled,) = line.run("one_crystal")["readings"]
    assert "3 of 48 frames missing" in spoiled["crystal_reasons"]
    assert httpx.put(faults, json={"value": ""}).status_code == 200
    (whole,) = line.run("one_crystal")["readings"]
    assert "missing" not in whole["crystal_reasons"]


@pytest.mark.slow
def test_each_crystal_is_centred_on_its_own_peak(line):
    """The lattices of the three crystals are 0, 0.02 and 0.04 deg off, as `sim_beamline.station` mounts them."""
    answer = line.run("recentre")
    first, *others = answer["theta_deg"]
    assert first == pytest.approx(0.324, abs=0.02)
    assert [theta - first for theta in others] == pytest.approx([0.02, 0.04], abs=0.012)
    assert all(abs(row - 23) < 4 and abs(col - 36) < 4 for row, col in answer["regions"])


@pytest.mark.slow
@pytest.mark.parametrize("wire_format", ["dectris1", "array1"])
def test_frames_leave_in_other_formats_too(tmp_path, wire_format):
    line = Line(tmp_path, ["--fast", "--format", wire_format], ONE_START, wire_format)
    try:
        (reading,) = line.run("one_crystal")["readings"]
    finally:
        line.close()
    assert reading["crystal_verdict"] in ("good", "doubtful"), reading
    assert 200 < reading["crystal_size_x_nm"] < 320


@pytest.mark.slow
def test_motors_take_time_and_can_be_stopped(tmp_path):
    line = Line(tmp_path)
    try:
        answer = line.run("motors")
    finally:
        line.close()
    assert "LimitError" in answer["refusal"]
    assert answer["unit"] == "deg"
    assert answer["is_over"]
    assert -2.0 < answer["moved"] < 1.0


OMEGA = (
    'inline = { name = "fly", sample_circles = [["theta", "y+", "omega"], ["chi", "z-"], ["phi", "y+"]], '
    'detector_circles = [["delta", "y+"], ["gamma", "x-"]], row_direction = "y-", col_direction = "x+", '
    'energy_readings = [["energy", "eV"]] }'
)
"""Geometry in which the detector's axis omega is the circle theta."""


@pytest.mark.slow
@pytest.mark.parametrize("wire_format", ["dectris2", "dectris1"])
def test_a_fly_scan_has_its_angles_from_the_header_of_the_detector(tmp_path, wire_format):
    line = Line(tmp_path, ["--format", wire_format], wire_format=wire_format)
    line.config.write_text(line.config.read_text().replace('beamline = "aps_34idc"', OMEGA))
    try:
        answer = line.run("fly")
    finally:
        line.close()
    assert answer["verdict"] == "doubtful", answer
    assert answer["reasons"] == "readings from the detector's goniometer: no events"
    assert answer["sizes_nm"] == pytest.approx([261, 321, 221], rel=0.08)
