"""Replay a recorded scan through a simulated beamline and the live service, over real sockets.

The beamline (detector, document proxy, RunEngine) and the service run in processes of their own.  This process only
listens to the document bus, like any other client.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import zmq

from cdi_stream.config import Config, read_config
from cdi_stream.disk.atomic import atomic_write
from cdi_stream.documents import bus
from cdi_stream.documents.tiled_server import free_port
from cdi_stream.errors import EndpointError, InputError, ServiceError
from cdi_stream.files.recording import read_scan
from cdi_stream.messages import RecordedScan
from cdi_stream.processes import Processes, processes
from cdi_stream.replay.endpoints import example_config, own_config
from cdi_stream.replay.results import Progress, follow, summary

READY_TIMEOUT_S = 120.0
"""Longest time from the start of the replay's service until it is ready [s]."""

CONNECT_TIMEOUT_S = 10
"""Longest time in which a running service must connect to the simulated detector [s]; it tries every second."""


@contextlib.contextmanager
def results_folder(directory: Path) -> Iterator[Path]:
    """Make a folder for one replay, lock it against other replays, and yield its full path.

    Raises
    ------
    InputError
        If the folder cannot be written, or another replay or a service writes to it.
    """
    directory = directory.resolve()
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            handle = stack.enter_context((directory / ".replay").open("w"))
        except OSError as error:
            raise InputError(
                f"--out {directory}: expected a folder that can be written, got: {error.strerror}; "
                "choose another folder"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"--out {directory}: another replay writes there; give each its own folder") from error
        if (directory / "ready").exists():
            raise InputError(
                f"--out {directory}: a service writes there (its file 'ready' exists): give another folder, "
                "or delete the file if no service runs"
            )
        yield directory


def replay(
    scan_file: Path,
    directory: Path,
    *,
    speed: str,
    config_file: Path | None,
    is_service_running: bool,
    n_curves: int = 1,
    pause_s: float = 0.0,
    is_refining: bool = False,
    report: Callable[[Progress], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Replay a scan file of the project and return a summary of each curve, by the names of the command's JSON output.

    Parameters
    ----------
    scan_file
        Scan that `cdi_stream.files.recording.write_scan` wrote.
    directory
        Folder for results, logs and the replay's configuration ``replay.toml``.
    speed
        Factor of the recorded speed as text, or ``max``.
    config_file
        Configuration whose settings are used, without its endpoints and folders
        (`cdi_stream.replay.endpoints.PLACES`).  With ``is_service_running`` its endpoints are used as well.
    is_service_running
        Whether a service with ``config_file`` runs already; else the replay starts a service.
    n_curves, pause_s
        Number of rocking curves in the run, and pause between two [s].
    is_refining
        Whether the replay's service queues refinements as configured in ``config_file``.
    report
        Called with the progress at each document.

    Raises
    ------
    InputError
        If an endpoint is in use, or the configuration is wrong.
    ServiceError
        If a process dies, if no service runs, or if no result comes in time.
    """
    scan = read_scan(scan_file)
    directory.mkdir(parents=True, exist_ok=True)
    if not is_service_running:
        config_file = _write_config(scan, directory, config_file, is_refining)
    assert config_file is not None
    config = read_config(config_file)
    if is_service_running:
        _require_listening_service(config)
    with processes(directory) as children, zmq.Context() as context:
        _start_proxy(children, config)
        listener = bus.listen(context, config.documents.subscribe, config.documents.curve)
        if not is_service_running:
            _start_service(children, config, config_file)
        pace = ("--speed", speed, "--curves", str(n_curves), "--pause", str(pause_s))
        _start_beamline(children, scan_file, config, pace)
        documents = follow(listener, config, children, scan.name, n_curves, report)
        listener.close(0)
    return [summary(documents, index, scan) for index in range(n_curves)]


def _write_config(scan: RecordedScan, directory: Path, config_file: Path | None, is_refining: bool) -> Path:
    """Write the replay's configuration into its folder and return the file."""
    if config_file is None:
        text = example_config(scan, directory)
    else:
        text = own_config(read_config(config_file), scan, directory, is_refining=is_refining)
    path = directory / "replay.toml"
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def _require_listening_service(config: Config) -> None:
    """Open the detector's endpoint for a moment and wait until the service connects.

    Raises
    ------
    EndpointError
        If the endpoint is in use, or is not on this machine.
    ServiceError
        If no service connects.
    """
    endpoint, is_pull = config.detector.endpoint, config.detector.socket == "pull"
    with zmq.Context() as context, context.socket(zmq.PUSH if is_pull else zmq.XPUB) as probe:
        probe.setsockopt(zmq.LINGER, 0)
        probe.setsockopt(zmq.IMMEDIATE, 1)
        try:
            (probe.connect if config.detector.bind else probe.bind)(endpoint)
        except zmq.ZMQError as error:
            raise EndpointError(
                f"detector.endpoint {endpoint}: the simulated detector cannot open it ({error}); stop the detector or "
                "replay that uses it, or use a configuration with a free endpoint of this machine"
            ) from error
        # A PUSH socket can send, and an XPUB socket has a subscription to read, when a receiver is there.
        if not probe.poll(CONNECT_TIMEOUT_S * 1000, zmq.POLLOUT if is_pull else zmq.POLLIN):
            raise ServiceError(
                f"no service takes frames from detector.endpoint {endpoint} (waited {CONNECT_TIMEOUT_S} s): start "
                "'cdi-stream serve' with this configuration first, or leave --beamline-only out"
            )


def _start_proxy(children: Processes, config: Config) -> None:
    """Start a document proxy where none listens; raises `EndpointError` if only one of its two ends listens."""
    ends = (config.documents.publish, config.documents.subscribe)
    open_ends = [end for end in ends if _has_listener(end)]
    if len(open_ends) == 1:
        raise EndpointError(
            f"document proxy: {open_ends[0]} is in use, but nothing listens at the other of documents.publish and "
            f"documents.subscribe ({', '.join(ends)}); are they the in and out address of one bluesky-0MQ-proxy?"
        )
    if not open_ends:
        children.start("proxy", "sim_beamline", "proxy", "--documents-in", ends[0], "--documents-out", ends[1])


def _start_service(children: Processes, config: Config, config_file: Path) -> None:
    """Start the replay's service and wait until it is ready."""
    children.start("service", "cdi_stream", "serve", "--config", str(config_file))
    children.wait_for_file(config.publish.directory / "ready", READY_TIMEOUT_S)


def _has_listener(endpoint: str) -> bool:
    """Return whether a server listens at an endpoint."""
    parts = urlsplit(endpoint)
    with contextlib.suppress(OSError, ValueError):
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=0.5).close()
        return True
    return False


def _start_beamline(children: Processes, scan_file: Path, config: Config, pace: tuple[str, ...]) -> None:
    control = f"tcp://127.0.0.1:{free_port()}"
    kind = "push" if config.detector.socket == "pull" else "pub"
    common = ("--scan", str(scan_file), "--control", control)
    data = ["--data", config.detector.endpoint, "--socket", kind, "--format", config.detector.format]
    data += ["--connect"] if config.detector.bind else []
    children.start("detector", "sim_beamline", "detector", *common, *data)
    bus_options = ["--documents", config.documents.publish, "--prefix", config.documents.prefix]
    bus_options += ["--serializer", config.documents.serializer]
    children.start("plan", "sim_beamline", "plan", *common, *bus_options, *pace)
