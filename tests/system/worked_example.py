"""The same simulated rocking curve through each source of documents: measured by a plan, read with the Tiled client.

``python -m tests.system.worked_example --source zmq|process|tiled|stomp`` starts detector, service and whatever server
the source needs, all real, in a folder of its own.  With ``--profile FILE --python PYTHON`` the plan runs in another
environment, by the lines of a facility's profile, which finds its settings in the variables ``CDI_STREAM_*``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zmq
from bluesky import RunEngine
from bluesky.preprocessors import SupplementalData

from cdi_stream.documents.tiled_server import free_port
from cdi_stream.files.recording import write_scan
from cdi_stream.processes import processes
from cdi_stream.replay.endpoints import to_toml
from cdi_stream_plugins.bluesky import CdiStream, Reconstruction, publisher, rocking_curve
from sim_beamline.devices import Axis, DetectorClient
from sim_beamline.scan import recorded_scan
from tests.builders import ONE_START

SOURCES = ("zmq", "process", "tiled", "stomp")
LIMIT_S = 120.0

Subscriber = Callable[[str, Any], object]


class Example:
    """Folder, addresses and simulated scan of one worked example."""

    def __init__(self, folder: Path, source: str) -> None:
        self.folder, self.source = folder, source
        self.scan = recorded_scan("plain")
        self.scan_file, self.config_file = folder / "scan.h5", folder / "beamline.toml"
        self.results = folder / "results"
        names = ("detector", "control", "process", "publish", "subscribe")
        self.ends = {name: f"tcp://127.0.0.1:{free_port()}" for name in names}
        write_scan(self.scan, self.scan_file)

    def write_config(self, documents: dict[str, Any]) -> None:
        """Write the configuration of the service; ``documents`` says how the documents come."""
        bus = {"publish": self.ends["publish"], "subscribe": self.ends["subscribe"], "own_proxy": True}
        sections = {
            "detector": {"endpoint": self.ends["detector"]},
            "documents": {"source": self.source, **documents, **bus},
            "geometry": {"beamline": self.scan.beamline},
            "publish": {"directory": str(self.results), "tiled": "local"},
            "refine": {"methods": []},
        }
        self.config_file.write_text(f'device = "cpu"\n\n{to_toml(sections)}\n{ONE_START}')

    def environment(self) -> dict[str, str]:
        """Settings of a profile in another process."""
        standing = {name: (value, self.scan.units[name]) for name, value in self.scan.baseline.items()}
        ((moving, positions),) = self.scan.scanned.items()
        return {
            "CDI_STREAM_CONFIG": str(self.config_file),
            "CDI_STREAM_CONTROL": self.ends["control"],
            "CDI_STREAM_RESULTS": self.ends["subscribe"],
            "CDI_STREAM_BASELINE": json.dumps(standing),
            "CDI_STREAM_CURVE": json.dumps([moving, positions[0], positions[-1], len(positions)]),
        }


# --- ways of the documents -------------------------------------------------------------------------------------


@contextlib.contextmanager
def way(example: Example) -> Iterator[Callable[[], Subscriber]]:
    """Start the source's own server, write the configuration, and yield what makes the RunEngine's subscriber."""
    with contextlib.ExitStack() as stack:
        documents, make = WAYS[example.source](example, stack)
        example.write_config(documents)
        yield lambda: stack.enter_context(contextlib.closing(made)) if hasattr(made := make(), "close") else made


def _zmq(example: Example, stack: contextlib.ExitStack) -> tuple[dict[str, Any], Callable[[], Subscriber]]:
    return {}, lambda: publisher(example.ends["publish"][6:])


def _process(example: Example, stack: contextlib.ExitStack) -> tuple[dict[str, Any], Callable[[], Subscriber]]:
    return {"address": example.ends["process"]}, lambda: CdiStream(example.config_file, is_service_started=False)


def _tiled(example: Example, stack: contextlib.ExitStack) -> tuple[dict[str, Any], Callable[[], Subscriber]]:
    from bluesky_tiled_plugins import TiledWriter
    from tiled.client import from_uri

    from tests.system.test_tiled_source import KEY, Server

    (folder := example.folder / "raw").mkdir()
    server = Server(folder)
    server.start()
    stack.callback(server.stop)
    os.environ.update(CDI_STREAM_TILED=server.uri, CDI_STREAM_TILED_KEY=KEY)
    settings = {"address": server.uri, "options": {"api_key": KEY}}
    return settings, lambda: TiledWriter(from_uri(server.uri, api_key=KEY), batch_size=1)


def _stomp(example: Example, stack: contextlib.ExitStack) -> tuple[dict[str, Any], Callable[[], Subscriber]]:
    from tests.system.broker import PASSWORD, SERVER, USER, Broker, Publisher

    if not SERVER.is_file():
        sys.exit(f"skipped: {SERVER} does not exist (apt-get install rabbitmq-server)")
    (folder := example.folder / "broker").mkdir()
    broker = Broker(folder)
    stack.callback(broker.close)
    broker.start()
    settings = {"address": broker.address, "options": {"user": USER, "password": PASSWORD}}
    return settings, lambda: Publisher(broker)


WAYS = {"zmq": _zmq, "process": _process, "tiled": _tiled, "stomp": _stomp}


# --- the plan, and its result ----------------------------------------------------------------------------------


def run_plan(example: Example, subscriber: Subscriber) -> None:
    """Measure the curve in this process, with the crystal read into the run."""
    engine = RunEngine({}, context_managers=[])
    engine.subscribe(subscriber)
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        closing = contextlib.closing
        client = DetectorClient(name="eiger", control_endpoint=example.ends["control"], context=context)
        detector = stack.enter_context(closing(client))
        crystal = Reconstruction("crystal", example.config_file, timeout_s=LIMIT_S)
        stack.enter_context(closing(crystal))
        units = example.scan.units
        standing = [Axis(name=name, unit=units[name], value=value) for name, value in example.scan.baseline.items()]
        engine.preprocessors = [SupplementalData(baseline=standing)]
        ((moving, positions),) = example.scan.scanned.items()
        motor = Axis(name=moving, unit=units[moving], value=float(positions[0]))
        span = (float(positions[0]), float(positions[-1]), len(positions))
        engine(rocking_curve(detector, motor, *span, reconstruction=crystal))
        result = crystal.result
    print(f"plan:  verdict {result.verdict}, chi2 {result.chi2:.4f}, size x {result.size_x_nm:.0f} nm")


def run_profile(example: Example, profile: Path, python: str) -> None:
    """Measure the curve by a profile in another environment."""
    environment = {**os.environ, **example.environment()}
    subprocess.run([python, str(profile)], check=True, timeout=600, env=environment, cwd=example.folder)


def read_result(results: Path) -> None:
    """Print the row of the table and the volume, as the Tiled client reads them."""
    from tiled.client import from_uri
    from tiled.queries import Key

    client = from_uri(**json.loads((results / "tiled.json").read_text()))
    end_s = time.monotonic() + LIMIT_S
    while not (found := client.search(Key("start.analysis_stage") == "reconstruction").values()[:]) or not (
        run := found[-1]
    ).metadata.get("stop"):
        if time.monotonic() > end_s:
            sys.exit("no run of the service in Tiled")
        time.sleep(0.5)
    table = run["reconstruction"].base["internal"].read()
    names = [f"reconstruction_{name}" for name in ("verdict", "chi2", "r_p", "size_lab_x_nm")]
    print("table:", table[names].to_dict("records")[0])
    crystal = run["reconstruction"]["reconstruction_crystal"].read()
    print(f"array: shape {crystal.shape}, {crystal.dtype}, largest amplitude {abs(crystal).max():.4g}")
    client.context.close()


def main() -> None:
    """Run the example that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", choices=SOURCES, required=True)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        example = Example(Path(name), options.source)
        subscriber = stack.enter_context(way(example))
        children = stack.enter_context(processes(example.folder))
        addresses = ("--control", example.ends["control"], "--data", example.ends["detector"])
        children.start("detector", "sim_beamline", "detector", "--scan", str(example.scan_file), *addresses)
        children.start("service", "cdi_stream", "serve", "--config", str(example.config_file))
        children.wait_for_file(example.results / "ready", LIMIT_S)
        time.sleep(2.0)  # a broker or a proxy keeps nothing for a service that is still connecting
        if options.profile is None:
            run_plan(example, subscriber())
        else:
            run_profile(example, options.profile.resolve(), options.python)
        read_result(example.results)


if __name__ == "__main__":
    main()
