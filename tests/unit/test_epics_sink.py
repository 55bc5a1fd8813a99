"""The EPICS variables of a result: a real Channel Access server, read by a client in another process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("caproto", reason="caproto is not installed: pip install 'cdi-stream[epics]'")

from cdi_stream.alarms import Alarms
from cdi_stream.config import Config, PublishConfig
from cdi_stream.documents.delivery import ArchiveDelivery
from cdi_stream.documents.spool import Spool
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.errors import ServiceError
from cdi_stream.live.serve import _archives
from cdi_stream_plugins.sinks.epics import EpicsSink
from tests.builders import DOCUMENTS

CLIENT = """
import json, sys
from caproto import AlarmSeverity, ErrorResponseReceived
from caproto.sync.client import read, write
values = {}
for name in sys.argv[2:]:
    answer = read(sys.argv[1] + name, data_type="control", timeout=10, repeater=False)
    data = answer.data
    text = bytes(data).decode() if name == "File" else data[0].decode() if name == "RunUid" else float(data[0])
    units = getattr(answer.metadata, "units", b"").decode()
    values[name] = [text, AlarmSeverity(answer.metadata.severity).name, units]
try:
    write(sys.argv[1] + "Chi2", 7.0, notify=True, timeout=10, repeater=False)
except ErrorResponseReceived:
    values["refused"] = True
print(json.dumps(values))
"""
NAMES = ("Verdict", "State", "Chi2", "SizeX", "SizeY", "SizeZ", "StrainLow", "StrainHigh", "RunUid", "File")
FILE = "/data/2026/" + 30 * "long/" + "result_0001_reconstruction.h5"


@pytest.fixture
def served():
    port = free_port()
    with contextlib.closing(EpicsSink(prefix="TEST:CDI:", port=port)) as sink:
        yield sink, port


def read(port, *names):
    """Values of variables, with their severity and unit."""
    env = {"EPICS_CA_ADDR_LIST": "127.0.0.1", "EPICS_CA_AUTO_ADDR_LIST": "NO", "EPICS_CA_SERVER_PORT": str(port)}
    command = [sys.executable, "-c", CLIENT, "TEST:CDI:", *(names or NAMES)]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run_of(raw, time_s, stage="reconstruction", stream="reconstruction", **data):
    """Documents of a run of the service with one event."""
    run = f"ours of {raw} {stream}"
    values = {"verdict": "good", "chi2": 0.01, "size_lab_x_nm": 250.0, "strain_high": 2e-4, "file": FILE} | data
    return [
        ("start", {"uid": run, "analysis_stage": stage, "original_run_uid": raw}),
        ("descriptor", {"uid": f"{run} d", "run_start": run, "name": stream}),
        (
            "event",
            {"descriptor": f"{run} d", "time": time_s, "data": {f"{stream}_{key}": v for key, v in values.items()}},
        ),
        ("stop", {"uid": f"{run} s", "run_start": run, "time": time_s}),
    ]


def take(sink, documents):
    for name, doc in documents:
        sink(name, doc)


def test_the_newest_result_is_served_with_units_and_alarms(served):
    sink, port = served
    take(sink, run_of("raw 1", 100.0, verdict="doubtful"))
    values = read(port)
    assert values.pop("refused"), "clients cannot write"
    assert values["Verdict"] == [2.0, "MINOR_ALARM", ""]
    assert values["Chi2"] == [0.01, "NO_ALARM", ""]
    assert values["SizeX"] == [250.0, "NO_ALARM", "nm"]
    assert values["SizeY"][1:] == ["INVALID_ALARM", "nm"], "not known"
    assert values["StrainHigh"] == [2e-4, "NO_ALARM", ""]
    assert values["RunUid"][0] == "raw 1"
    assert values["File"][0] == FILE


@pytest.mark.parametrize(
    ("verdict", "value", "severity"), [("good", 1, "NO_ALARM"), ("failed", 3, "MAJOR_ALARM"), ("?", 0, "NO_ALARM")]
)
def test_each_verdict_has_its_severity(served, verdict, value, severity):
    sink, port = served
    take(sink, run_of("raw 1", 100.0, verdict=verdict))
    assert read(port, "Verdict")["Verdict"][:2] == [value, severity]


def test_a_late_result_does_not_replace_a_newer_one(served):
    sink, port = served
    take(sink, run_of("new", 200.0))
    take(sink, run_of("old", 100.0, verdict="failed"))
    take(sink, run_of("new", 200.0))
    take(sink, run_of("newest, a refinement", 300.0, stage="refinement", stream="refinement", verdict="failed"))
    values = read(port, "RunUid", "Verdict")
    assert (values["RunUid"][0], values["Verdict"][0]) == ("new", 1)


def test_the_state_follows_the_streams(served):
    sink, port = served
    for time_s, (stream, value) in enumerate((("preview", 1), ("inference", 2), ("reconstruction", 0))):
        take(sink, run_of("raw", 100.0 + time_s, stream=stream)[:-1])
        assert read(port, "State")["State"][0] == value, stream


def test_a_run_that_ends_without_a_reconstruction_leaves_no_state_behind(served):
    sink, port = served
    *beginning, stop = run_of("raw", 100.0, stream="preview")
    take(sink, beginning)
    assert read(port, "State")["State"][0] == 1
    take(sink, [stop])
    assert read(port, "State")["State"][0] == 0


def test_a_sink_that_opens_in_the_middle_of_a_run_is_told_its_beginning(tmp_path):
    """Through the real spool and delivery: the first server has start and descriptor, the second the event."""
    spool = Spool(tmp_path, ("epics",))
    start, descriptor, event, stop = run_of("raw", 100.0)
    spool.put("run", [start, descriptor])
    port = free_port()

    def deliver():
        def make():
            return EpicsSink(prefix="TEST:CDI:", port=port)

        delivery = ArchiveDelivery("epics", spool, make, sleep=lambda _: True)
        made = []
        delivery._make = lambda: made.append(make()) or made[-1]
        values = {}

        def is_over():
            if made and not spool.waiting("epics"):
                values.update(read(port, "RunUid", "Verdict"))
                return True
            return False

        delivery.run(is_over)
        return values

    assert deliver()["RunUid"][0] == ""
    spool.put("run", [event, stop])
    assert deliver()["RunUid"][0] == "raw"
    spool.close()


def test_an_address_of_another_machine_is_an_error_of_the_server():
    with pytest.raises(ServiceError, match=r"192\.0\.2\.1.*epics_interfaces"):
        EpicsSink(prefix="TEST:CDI:", interfaces=("192.0.2.1",), port=free_port())


def test_the_configuration_switches_the_variables_on(tmp_path):
    port = free_port()
    publish = {"directory": tmp_path, "tiled": "none", "epics_prefix": "TEST:CDI:", "epics_port": port}
    base = {
        "detector": {"endpoint": "tcp://127.0.0.1:1"},
        "documents": DOCUMENTS,
        "geometry": {"beamline": "aps_34idc"},
    }
    config = Config.model_validate({**base, "publish": publish})
    with contextlib.ExitStack() as stack:
        ((name, make),) = _archives(config, stack, Alarms())
        stack.enter_context(contextlib.closing(make()))
        assert (name, read(port, "State")["State"][0]) == ("epics", 0)


@pytest.mark.parametrize("wrong", [{"epics_prefix": "with blank"}, {"epics_interfaces": []}, {"epics_port": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PublishConfig.model_validate(wrong)
