"""Replay: a recorded scan through a simulated beamline and the live service, over real sockets.

The beamline (detector, document proxy, RunEngine) and the service run in processes of their own; this one
only listens to the document bus, as any client would.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zmq

from cdi_stream import bus
from cdi_stream.config import Config, read_config
from cdi_stream.errors import ServiceError
from cdi_stream.live.tiled_server import free_port
from cdi_stream.processes import Processes, processes
from cdi_stream.recording import RecordedScan, do_sums_agree, read_scan

READY_TIMEOUT_S = 120.0
RESULT_TIMEOUT_S = 180.0

UNKNOWN_BEAMLINE = {
    "name": "unknown",
    "sample_circles": [],
    "detector_circles": [],
    "row_direction": "y-",
    "col_direction": "x+",
}
"""For recordings that do not say where they come from: frames can be played, but not placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a listener to the bus sees: points of the raw run so far, and events of ours."""

    n_points: int
    n_events: int
    streams: tuple[str, ...]


@dataclass(slots=True)
class _Heard:
    """Documents heard on the bus; others may use it too, so the raw run is known by its sample."""

    scan_name: str
    raw_uid: str | None = None
    our_uid: str | None = None
    n_points: int = 0
    is_over: bool = False
    streams: dict[str, str] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def take(self, name: str, doc: Mapping[str, Any]) -> None:
        """Sort one document into raw run or ours."""
        if name == "start" and doc.get("sample") == self.scan_name and self.raw_uid is None:
            self.raw_uid = doc["uid"]
        elif name == "start" and doc.get("original_run_uid") == self.raw_uid:
            self.our_uid = doc["uid"]
        elif name == "descriptor" and doc["run_start"] in (self.our_uid, self.raw_uid):
            self.streams[doc["uid"]] = ("raw " if doc["run_start"] == self.raw_uid else "") + doc["name"]
        elif name == "event" and doc["descriptor"] in self.streams:
            self._event(self.streams[doc["descriptor"]], doc)
        elif name == "stop":
            self.is_over |= doc["run_start"] == self.our_uid

    def _event(self, stream: str, doc: Mapping[str, Any]) -> None:
        self.n_points += stream == "raw primary"
        if not stream.startswith("raw "):
            plain = {key.removeprefix(f"{stream}_"): value for key, value in doc["data"].items()}
            self.events.setdefault(stream, []).append(plain)


def replay(
    scan_file: Path,
    directory: Path,
    *,
    speed: str,
    config_file: Path | None,
    is_service_running: bool,
    n_curves: int = 1,
    pause_s: float = 0.0,
    report: Callable[[Progress], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Play a scan in our own format; returns one summary for each curve, as the contract has it.

    Raises
    ------
    ServiceError
        If a process dies or no result comes in time.
    """
    scan = read_scan(scan_file)
    directory.mkdir(parents=True, exist_ok=True)
    if config_file is None:
        config_file = directory / "beamline.toml"
        config_file.write_text(example_config(scan, directory))
    config = read_config(config_file)
    with processes(directory) as children, zmq.Context() as context:
        if not _has_listener(config.documents.subscribe):
            addresses = (config.documents.publish, config.documents.subscribe)
            options = ("--documents-in", addresses[0], "--documents-out", addresses[1])
            children.start("proxy", "sim_beamline", "proxy", *options)
        listener = bus.listen(context, config.documents.subscribe)
        if not is_service_running:
            (config.publish.directory / "ready").unlink(missing_ok=True)
            children.start("service", "cdi_stream", "serve", "--config", str(config_file))
            children.wait_for_file(config.publish.directory / "ready", READY_TIMEOUT_S)
        _start_beamline(
            children, scan_file, config, ("--speed", speed, "--curves", str(n_curves), "--pause", str(pause_s))
        )
        heard = _follow(listener, config, children, scan.name, n_curves, report)
        listener.close(0)
    return [_summary(heard, index, scan) for index in range(n_curves)]


def example_config(scan: RecordedScan, directory: Path) -> str:
    """A configuration for one replay: free loopback ports, results in ``directory``."""
    detector, documents_in, documents_out = (f"tcp://127.0.0.1:{free_port()}" for _ in range(3))
    extra = ""
    if scan.white_field is not None:
        np.save(directory / "white_field.npy", scan.white_field)
        extra += f'white_field = "{directory.resolve() / "white_field.npy"}"\n'
    monitor = next((name for name in scan.scanned if name.lower() == "monitor"), None)
    assemble = "" if monitor is None else f'[assemble]\nmonitor = "{monitor}"\n'
    geometry = f'beamline = "{scan.beamline}"'
    if not isinstance(scan.beamline, str):
        lines = [f"{key} = {_toml(value)}" for key, value in (scan.beamline or UNKNOWN_BEAMLINE).items()]
        geometry = "[geometry.inline]\n" + "\n".join(lines)
    return f"""\
[detector]
endpoint = "{detector}"
{extra}
[documents]
subscribe = "{documents_out}"
publish = "{documents_in}"

[publish]
directory = "{directory.resolve()}"

[refine]
methods = []

{assemble}
[geometry]
{geometry}
"""


def _toml(value: Any) -> str:
    return str(value).replace("'", '"') if isinstance(value, list) else f'"{value}"'


def _has_listener(endpoint: str) -> bool:
    """Whether a server listens on an endpoint already."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    import socket

    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, int(port))) == 0


def _start_beamline(children: Processes, scan_file: Path, config: Config, pace: tuple[str, ...]) -> None:
    control = f"tcp://127.0.0.1:{free_port()}"
    socket = "push" if config.detector.socket == "pull" else "pub"
    shared = ("--scan", str(scan_file), "--control", control)
    data = ["--data", config.detector.endpoint, "--socket", socket, "--format", config.detector.format]
    data += ["--connect"] if config.detector.bind else []
    children.start("detector", "sim_beamline", "detector", *shared, *data)
    bus_options = ["--documents", config.documents.publish, "--prefix", config.documents.prefix]
    bus_options += ["--serializer", config.documents.serializer]
    children.start("plan", "sim_beamline", "plan", *shared, *bus_options, *pace)


def _follow(
    listener: zmq.Socket[bytes],
    config: Config,
    children: Processes,
    scan_name: str,
    n_curves: int,
    report: Callable[[Progress], None],
) -> _Heard:
    """Listen until every curve has its reconstruction and our run is over."""
    heard, read = _Heard(scan_name), bus.reader(config.documents.serializer)
    last_s = time.monotonic()
    while not (heard.is_over and len(heard.events.get("reconstruction", [])) >= n_curves):
        children.check()
        for name, doc in bus.received(listener, config.documents.prefix, read, timeout_ms=200):
            heard.take(name, doc)
            last_s = time.monotonic()
            counted = {stream: len(events) for stream, events in heard.events.items()}
            report(Progress(n_points=heard.n_points, n_events=sum(counted.values()), streams=tuple(counted)))
        if heard.is_over and not heard.events.get("reconstruction"):
            raise ServiceError("the service closed its run without a reconstruction; see service.log")
        if time.monotonic() - last_s > RESULT_TIMEOUT_S:
            raise ServiceError(f"nothing on the document bus for {RESULT_TIMEOUT_S:.0f} s; see the logs in the folder")
    return heard


def _summary(heard: _Heard, index: int, scan: RecordedScan) -> dict[str, Any]:
    """The contract's last line of one curve: from the documents, and from what is doubtful of the recording."""
    events = {stream: _of_curve(found, index) for stream, found in heard.events.items() if stream != "preview"}
    result = events["reconstruction"]
    latency = {stream: event["latency_s"] for stream, event in events.items()}
    stages = {
        key.removeprefix("latency_").removesuffix("_s"): value
        for key, value in result.items()
        if key.startswith("latency_") and key != "latency_s"
    }
    counted = ("expected", "received", "missing", "duplicate", "late", "bad")
    frames = {name: result[f"frames_{name}"] for name in counted}
    is_doubted = bool(scan.doubts) and result["verdict"] == "good"
    return {
        **frames,
        "chi2": result["chi2"],
        "r_p": result["r_p"],
        "verdict": "doubtful" if is_doubted else result["verdict"],
        "reasons": [*scan.doubts, *(reason for reason in result["reasons"].split(" | ") if reason)],
        "latency_s": {**latency, **stages},
        "size_lab_nm": [result[f"size_lab_{axis}_nm"] for axis in "xyz"],
        "raw_uid": heard.raw_uid,
        "reconstruction_uid": heard.our_uid,
        "file": result["file"],
        "frame_sums_match": _frame_sums_match(Path(result["file"]), scan),
    }


def _of_curve(events: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """A curve's event of one stream; the bus may lose one."""
    found = next((event for event in events if event["curve_index"] == index), None)
    if found is None:
        raise ServiceError(f"an event of curve {index} was lost on the document bus; it is in the results' folder")
    return found


def _frame_sums_match(path: Path, scan: RecordedScan) -> bool | None:
    """Whether every frame of the recording arrived with the sum on record, such as SPEC's ImageTot; None without."""
    if scan.frame_sums is None:
        return None
    with h5py.File(path) as file:
        if "frame_sums" not in file["entry/cdi_stream"]:
            return None
        sums = file["entry/cdi_stream/frame_sums"][()]
    return sums.shape == scan.frame_sums.shape and bool(do_sums_agree(sums, scan.frame_sums)[scan.has_frame].all())
