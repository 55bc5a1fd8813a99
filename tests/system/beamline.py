"""A whole beamline in processes for system tests: proxy, service, detector, plan, and a foreign listener."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdi_stream.config import Config, read_config
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.files.recording import write_scan
from cdi_stream.messages import RecordedScan
from cdi_stream.processes import Processes, processes
from cdi_stream.replay.play import example_config
from tests.builders import ONE_START

LISTENER = """
import json, sys, msgpack
from bluesky.callbacks.zmq import RemoteDispatcher
dispatcher = RemoteDispatcher(sys.argv[1], deserializer=msgpack.unpackb)
dispatcher.subscribe(lambda name, doc: print(json.dumps([name, doc]), flush=True))
dispatcher.start()
"""


class TestBeamline:
    """Starts the parts in any order; everything lives in one folder and on free loopback ports."""

    __test__ = False

    def __init__(
        self,
        children: Processes,
        directory: Path,
        scan: RecordedScan,
        extra_toml: str = "",
        refine_toml: str = "",
        *,
        has_tiled: bool = True,
        phase_toml: str = ONE_START,
    ) -> None:
        self.children = children
        self.directory = directory
        self.scan_file = directory / "scan.h5"
        write_scan(scan, self.scan_file)
        self.config_file = directory / "beamline.toml"
        publish = "preview_every_s = 0.2\n" + ("" if has_tiled else 'tiled = "none"\n')
        text = example_config(scan, directory).replace("[publish]\n", f"{phase_toml}[publish]\n{publish}")
        self.config_file.write_text(
            text.replace("[refine]\nmethods = []\n", refine_toml or "[refine]\nmethods = []\n") + extra_toml
        )
        self.config: Config = read_config(self.config_file)
        self.control = f"tcp://127.0.0.1:{free_port()}"
        self.listener_log = directory / "listener.log"

    def start_bus(self) -> None:
        self.start_proxy()
        log = self.listener_log.open("wb")
        address = self.config.documents.subscribe[6:]
        self._listener = subprocess.Popen([sys.executable, "-c", LISTENER, address], stdout=log)
        log.close()

    def start_proxy(self) -> None:
        documents = self.config.documents
        self.children.start(
            "proxy",
            "sim_beamline",
            "proxy",
            "--documents-in",
            documents.publish,
            "--documents-out",
            documents.subscribe,
        )

    def start_service(self, name: str = "service") -> subprocess.Popen[bytes]:
        ready = self.config.publish.directory / "ready"
        ready.unlink(missing_ok=True)
        service = self.children.start(name, "cdi_stream", "serve", "--config", str(self.config_file))
        self.children.wait_for_file(ready, 600)
        return service

    def start_detector(self, *options: str) -> None:
        endpoint = self.config.detector.endpoint
        self.children.start(
            "detector", "sim_beamline", "detector", "--scan", str(self.scan_file), "--control", self.control,
            "--data", endpoint, *options,
        )  # fmt: skip

    def start_plan(self, n_curves: int = 1, speed: str = "max") -> subprocess.Popen[bytes]:
        documents = self.config.documents.publish
        return self.children.start(
            "plan", "sim_beamline", "plan", "--scan", str(self.scan_file), "--control", self.control,
            "--documents", documents, "--curves", str(n_curves), "--speed", speed,
        )  # fmt: skip

    def documents(self) -> list[tuple[str, dict[str, Any]]]:
        """What the foreign listener has printed so far."""
        lines = self.listener_log.read_text().splitlines()
        return [tuple(json.loads(line)) for line in lines if line.endswith("]")]

    def ours(self, name: str, stream: str | None = None, stage: str = "reconstruction") -> list[dict[str, Any]]:
        """Documents of our runs of one stage, of one stream if it is named."""
        found = self.documents()
        starts = {doc["uid"] for kind, doc in found if kind == "start" and doc.get("analysis_stage") == stage}
        descriptors = {
            doc["uid"]: doc["name"] for kind, doc in found if kind == "descriptor" and doc["run_start"] in starts
        }
        if name == "start":
            return [doc for kind, doc in found if kind == "start" and doc["uid"] in starts]
        if name == "event":
            return [doc for kind, doc in found if kind == "event" and descriptors.get(doc["descriptor"]) == stream]
        return [doc for kind, doc in found if kind == name and doc.get("run_start") in starts]

    def tiled_pids(self) -> list[int]:
        """Processes of the service's own Tiled server."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                text = path.read_bytes()
            except OSError:
                continue
            if b"\0tiled\0serve\0" in text and str(self.config.publish.directory.resolve()).encode() in text:
                found.append(int(path.parent.name))
        return found

    def is_in_tiled(self, uid: str) -> bool:
        """Whether the service's own Tiled server has a run to its end; the server may be slower than the bus."""
        server = json.loads((self.config.publish.directory / "tiled.json").read_text())
        request = urllib.request.Request(
            f"{server['uri']}/api/v1/metadata/{uid}", headers={"Authorization": f"Apikey {server['api_key']}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return bool(json.load(answer)["data"]["attributes"]["metadata"].get("stop"))
        except OSError:
            return False

    def wait_until(self, condition: Any, timeout_s: float = 600) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"timed out; service log:\n{self.children.log_tail('service', 30)}"
            time.sleep(0.1)

    def close(self) -> None:
        self._listener.terminate()
        self._listener.wait(10)


@contextlib.contextmanager
def beamline(
    directory: Path,
    scan: RecordedScan,
    extra_toml: str = "",
    refine_toml: str = "",
    *,
    has_tiled: bool = True,
    phase_toml: str = ONE_START,
) -> Iterator[TestBeamline]:
    """Yield a beamline; ``has_tiled``: whether its service starts a Tiled server, which takes 10 s of CPU time."""
    with processes(directory) as children:
        line = TestBeamline(
            children, directory, scan, extra_toml, refine_toml, has_tiled=has_tiled, phase_toml=phase_toml
        )
        line.start_bus()
        try:
            yield line
        finally:
            line.close()
