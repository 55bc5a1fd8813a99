"""The device of the crystal on a bus that carries results only, as with documents from Tiled or over STOMP."""

from __future__ import annotations

import contextlib
import threading

import pytest
from bluesky import RunEngine
from ophyd.sim import SynAxis

from cdi_stream.addresses import CurveKeys
from cdi_stream.documents.curve import make_keys
from cdi_stream.documents.proxy import own_proxy
from cdi_stream.documents.tiled_server import free_port
from cdi_stream_plugins.bluesky import AsyncReconstruction, Reconstruction, publisher, rocking_curve
from cdi_stream_plugins.sinks.bus import BusSink
from tests.unit.test_results import documents


@pytest.fixture
def ends():
    """Addresses of a real proxy: in side and out side."""
    made = [f"tcp://127.0.0.1:{free_port()}" for _ in range(2)]
    with own_proxy(*made):
        yield made


@pytest.fixture
def publish(ends):
    with contextlib.closing(publisher(ends[0][6:])) as made:
        yield made


@pytest.mark.parametrize("kind", [Reconstruction, AsyncReconstruction])
def test_each_run_of_the_plan_gets_its_own_crystal(ends, publish, kind):
    """A late result of another run comes first each time, and is not taken for the crystal of the open run."""
    engine = RunEngine({}, context_managers=[])
    verdicts = iter(["good", "doubtful", "failed"])

    def answer(name, doc):
        if name == "start":
            mine = documents(f"of {doc['uid']}", doc["uid"], verdict=next(verdicts))
            late = documents(f"late {doc['uid']}", "another run", verdict="late")
            threading.Timer(0.4, lambda: [publish(*each) for each in (*late, *mine)]).start()

    engine.subscribe(answer)
    motor = SynAxis(name="theta")
    results = []
    with contextlib.closing(kind("crystal", ends[1], timeout_s=10.0)) as crystal:
        for _ in range(3):
            engine(rocking_curve(SynAxis(name="det"), motor, -1, 1, 2, reconstruction=crystal))
            results.append(crystal.result.verdict)
    assert results == ["good", "doubtful", "failed"]


def test_the_configuration_of_the_service_names_keys_prefix_and_format_of_the_bus(tmp_path):
    in_address, out_address = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    server, server_secret, _, client_secret = make_keys(tmp_path)
    config = tmp_path / "beamline.toml"
    config.write_text(
        f'[documents]\nsource = "tiled"\nsubscribe = "{out_address}"\nprefix = "lab"\nserializer = "json"\n'
        f'curve_secret = "{client_secret}"\ncurve_server = "{server}"\n'
    )
    keys = CurveKeys(secret=client_secret, server=server)
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_proxy(in_address, out_address, server_secret))
        crystal = stack.enter_context(contextlib.closing(Reconstruction("crystal", config, timeout_s=20.0)))
        sink = BusSink(address=in_address, prefix="lab", serializer="json", curve=keys)
        stack.enter_context(contextlib.closing(sink))
        crystal.on_document("start", {"uid": "raw"})
        status = crystal.trigger()
        for document in documents("ours", "raw", verdict="good"):
            sink(*document)
        status.wait(30.0)
    assert crystal.result.verdict == "good"
