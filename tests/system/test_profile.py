"""The lines of a profile: `CdiStream` and `Reconstruction`; the plan reads the crystal while its run is open."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import pytest
import zmq
from bluesky import RunEngine
from bluesky.preprocessors import SupplementalData

from cdi_stream.documents.tiled_server import free_port
from cdi_stream.files.recording import write_scan
from cdi_stream.processes import processes
from cdi_stream_plugins.bluesky import (
    AsyncReconstruction,
    CdiStream,
    Reconstruction,
    count_until_good,
    map_crystals,
    rocking_curve,
)
from cdi_stream_plugins.bluesky.results import ResultListener
from sim_beamline.devices import Axis, DetectorClient
from sim_beamline.scan import recorded_scan
from tests.builders import ONE_START

SERVICE = """
device = "cpu"

[detector]
endpoint = "{detector}"

[documents]
source = "process"
address = "{address}"
subscribe = "{subscribe}"
publish = "{publish}"
own_proxy = true

[geometry]
beamline = "aps_34idc"

[publish]
directory = "{directory}"
tiled = "none"

[refine]
methods = []

"""


class Beamline:
    """Simulated detector and motors, and a profile whose `CdiStream` starts the service."""

    def __init__(self, folder, scan, children, context, phase=ONE_START):
        self.scan = scan
        names = ("detector", "address", "subscribe", "publish", "control")
        ends = {name: f"tcp://127.0.0.1:{free_port()}" for name in names}
        self.config, self.control = folder / "beamline.toml", ends["control"]
        self.config.write_text(SERVICE.format(directory=folder / "results", **ends) + phase)
        write_scan(scan, folder / "scan.h5")
        detector = ("--scan", str(folder / "scan.h5"), "--control", ends["control"], "--data", ends["detector"])
        children.start("detector", "sim_beamline", "detector", *detector)
        self.ready = folder / "results" / "ready"
        axes = {name: Axis(name=name, unit=scan.units[name], value=value) for name, value in scan.baseline.items()}
        (moving,) = scan.scanned
        self.motor = Axis(name=moving, unit=scan.units[moving], value=float(scan.scanned[moving][0]))
        self.detector = DetectorClient(name="eiger", control_endpoint=ends["control"], context=context)
        self.engine = RunEngine({}, context_managers=[])
        self.engine.preprocessors = [SupplementalData(baseline=list(axes.values()))]
        self.documents = []
        self.engine.subscribe(lambda name, doc: self.documents.append((name, doc)))
        self.subscriber = CdiStream(self.config)
        self.engine.subscribe(self.subscriber)

    @property
    def span(self):
        positions = self.scan.scanned[self.motor.name]
        return float(positions[0]), float(positions[-1]), len(positions)

    def readings(self):
        """Values that the devices `crystal` gave to the runs, in order."""
        streams = {d["uid"]: d["name"] for n, d in self.documents if n == "descriptor"}
        events = [d for n, d in self.documents if n == "event" and streams[d["descriptor"]] == "reconstruction"]
        return [event["data"] for event in events]


def service_of(config):
    """Process id of the service that runs with a configuration."""
    found = subprocess.run(["pgrep", "-f", f"cdi_stream serve --config {config}"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


@contextlib.contextmanager
def profile_beamline(folder, scan, phase=ONE_START):
    """Yield a beamline whose service is ready; ``phase`` is its section of the configuration."""
    with processes(folder) as children, zmq.Context() as context:
        made = Beamline(folder, scan, children, context, phase)
        try:
            end = time.monotonic() + 120
            while not made.ready.exists():
                assert time.monotonic() < end, (folder / "cdi-stream-service.log").read_text()
                time.sleep(0.1)
            yield made
        finally:
            made.subscriber.close()
            made.detector.close()
            for pid in service_of(made.config):
                os.kill(pid, signal.SIGTERM)
            end = time.monotonic() + 20
            while service_of(made.config) and time.monotonic() < end:
                time.sleep(0.1)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    with profile_beamline(tmp_path_factory.mktemp("profile"), recorded_scan("plain")) as made:
        yield made


@pytest.fixture
def crystal(line):
    with contextlib.closing(Reconstruction("crystal", line.subscriber, timeout_s=120)) as device:
        line.documents.clear()
        yield device


@pytest.mark.parametrize("kind", [Reconstruction, AsyncReconstruction])
def test_the_plan_reads_the_crystal_while_its_run_is_open(line, kind):
    line.documents.clear()
    with contextlib.closing(kind("crystal", line.subscriber, timeout_s=120)) as crystal:
        line.engine(rocking_curve(line.detector, line.motor, *line.span, reconstruction=crystal))
    (reading,) = line.readings()
    assert reading["crystal_verdict"] == "good", reading["crystal_reasons"]
    assert 0 < reading["crystal_chi2"] < 0.05
    assert 100 < reading["crystal_size_x_nm"] < 1000
    assert reading["crystal_path"].endswith(".h5")
    names = [name for name, _ in line.documents]
    assert names[-1] == "stop", "the crystal came before the run ended"
    assert crystal.result.uid == reading["crystal_uid"]


def test_counting_ends_at_the_first_good_crystal(line, crystal):
    plan = count_until_good(
        line.detector, line.motor, *line.span, reconstruction=crystal, budget_s=1000.0, exposure_s=1.0
    )
    line.engine(plan)
    assert [(r["crystal_verdict"], r["crystal_reasons"]) for r in line.readings()] == [("good", "")]


def test_a_crystal_that_cannot_be_measured_is_skipped(line, crystal):
    def measure(number):
        if number == 1:
            raise TimeoutError("no beam")
        return rocking_curve(line.detector, line.motor, *line.span, reconstruction=crystal)

    place = Axis(name="x", unit="mm", value=0.0)
    results = []

    def plan():
        results.extend(
            (yield from map_crystals([{place: 1.0}, {place: 2.0}, {place: 3.0}], measure, reconstruction=crystal))
        )

    line.engine(plan())
    assert [result.verdict for result in results] == ["good", "none", "good"]
    assert "no beam" in results[1].reasons
    assert len({reading["crystal_uid"] for reading in line.readings()}) == 2


def test_without_a_result_in_time_the_verdict_is_none(line):
    with contextlib.closing(Reconstruction("crystal", line.subscriber, timeout_s=0.2)) as crystal:
        line.documents.clear()
        line.engine(rocking_curve(line.detector, line.motor, *line.span, reconstruction=crystal))
    (reading,) = line.readings()
    assert reading["crystal_verdict"] == "none"


@pytest.mark.slow
@pytest.mark.parametrize("harm", [signal.SIGSTOP, signal.SIGKILL], ids=["frozen", "killed"])
def test_a_service_in_trouble_harms_no_scan_and_its_crystal_comes_later(line, harm):
    line.documents.clear()
    pids = service_of(line.config)
    for pid in pids:
        os.kill(pid, harm)
    time.sleep(2.0)  # frames that a dying process still receives are lost
    line.engine(rocking_curve(line.detector, line.motor, *line.span))
    events = [doc for name, doc in line.documents if name == "event" and "eiger_image_id" in doc["data"]]
    assert len(events) == len(line.scan.frames)
    assert line.subscriber.n_dropped == 0
    uid = line.documents[0][1]["uid"]
    with contextlib.closing(ResultListener(line.subscriber.bus)) as listener:
        if harm is signal.SIGSTOP:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        assert listener.results.wait(uid, 0, 120.0).verdict == "good"
