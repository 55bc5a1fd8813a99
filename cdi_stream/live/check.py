"""Checks of a deployment before the beamtime: files, plugins, geometry, and the connections."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import zmq

from cdi_stream.addresses import Address, parse
from cdi_stream.config import Config, prepare_folder, read_image
from cdi_stream.config.geometry_report import Place, in_words, missing, report
from cdi_stream.documents import bus
from cdi_stream.documents.proxy import own_proxy
from cdi_stream.errors import CdiStreamError, ConfigError, EndpointError, ServiceError
from cdi_stream.geometry.circles import Beamline, readings_of
from cdi_stream.networks.torchscript import load as load_network
from cdi_stream.networks.trial import require_answer
from cdi_stream.operators.announce import Announcer
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.registry import load
from cdi_stream.stream.receive import open_socket

REACH_S = 2.0
"""Time [s] to wait for an answer from each address."""

ZMTP_SIGNATURE = b"\xff"
"""First byte that a 0MQ socket sends on a new connection (ZMTP 3.1, https://rfc.zeromq.org/spec/37, greeting)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check: its name, whether it passed, and a sentence about it."""

    name: str
    is_ok: bool
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary, for JSON."""
        return asdict(self)


def check_config(config: Config) -> list[Finding]:
    """Return the results of all checks; a check that fails does not stop the others."""
    checks: dict[str, Callable[[Config], str]] = {
        "decoder": _decoder,
        "geometry": _geometry,
        "network": _network,
        "images": _images,
        "recipes": _recipes,
        "folder": _folder,
        "detector": _detector,
        "documents": _documents,
        "tiled": _tiled,
        "feed": _feed,
    }
    return [_finding(name, check, config) for name, check in checks.items()]


def _finding(name: str, check: Callable[[Config], str], config: Config) -> Finding:
    try:
        return Finding(name, True, check(config))
    except (CdiStreamError, OSError, ValueError) as error:
        return Finding(name, False, str(error))


def _decoder(config: Config) -> str:
    load("cdi_stream.decoder", config.detector.format)
    return config.detector.format


def _geometry(config: Config) -> str:
    """Return the circles of the beamline, and the values that documents or the detector's header must state."""
    beamline, geometry = config.geometry.value(), config.geometry
    readings = readings_of(beamline)
    numbers = ("distance_m", "pixel_row_m", "pixel_col_m", "beam_row", "beam_col", "photon_energy_ev")
    from_wire = [name for name in numbers if getattr(geometry, name) is None]
    circles = ", ".join(circle.name for circle in beamline.sample_circles + beamline.detector_circles)
    return (
        f"{beamline.name}; circles {circles}; the run's documents must state {_required_angles(beamline, config)}; "
        f"documents or the detector's header must state {', '.join(from_wire) or 'nothing more'}; "
        f"energy is read from {' or '.join(readings['energy'])}, distance from {' or '.join(readings['distance'])}; "
        f"{_numbers(config)}"
    )


def _numbers(config: Config) -> str:
    """Return 2 theta, |Q|, d and the steps of q, if the configuration alone determines them."""
    place = Place(shape=config.prepare.max_shape)
    if missing(config.geometry, place):
        return "2 theta, |Q| and d: see 'cdi-stream geometry CONFIG --angle ...'"
    words = in_words(report(config.geometry, place))
    return "; ".join(f"{name} {words[name]}" for name in ("2 theta", "|Q|", "d", "step of q"))


def _required_angles(beamline: Beamline, config: Config) -> str:
    circles = beamline.sample_circles + beamline.detector_circles
    unset = [circle for circle in circles if circle.name not in config.geometry.circles_deg]
    return ", ".join("/".join((circle.name, *circle.motors)) for circle in unset) or "no angle"


def _network(config: Config) -> str:
    require_answer(config.network.file, config.device)
    network = load_network(config.network.file, config.device)
    return f"{network.contract.name} {network.contract.version}, {network.lab_shape}, on {config.device}"


def _images(config: Config) -> str:
    paths = {name: getattr(config.detector, name) for name in ("bad_pixels", "white_field")}
    shapes = {name: read_image(path).shape for name, path in paths.items() if path is not None}
    if len(set(shapes.values())) > 1:
        raise ConfigError(f"detector: expected bad_pixels and white_field of one shape, got {shapes}")
    return str(shapes) if shapes else "neither bad_pixels nor white_field is given"


def _recipes(config: Config) -> str:
    texts = (
        *(() if config.phase.recipe is None else (config.phase.recipe,)),
        *((config.refine.recipe, config.refine.network_recipe) if config.refine.methods else ()),
    )
    return "; ".join(f"{text} ({parse_recipe(text).cycles} cycles)" for text in texts) or "none is given"


def _folder(config: Config) -> str:
    directory = prepare_folder(config.publish.directory)
    if is_network_folder(directory):
        raise ConfigError(
            f"publish.directory {directory}: expected a folder on a local disk, which the queue's database needs, got "
            "a network file system"
        )
    return str(directory)


def is_network_folder(directory: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Return whether a folder is on a network file system, where SQLite is not safe."""
    if not mounts.exists():
        return False
    entries = [line.split() for line in mounts.read_text().splitlines()]
    parents = [entry for entry in entries if directory.is_relative_to(entry[1])]
    return bool(parents) and max(parents, key=lambda entry: len(entry[1]))[2].startswith(("nfs", "cifs", "smb"))


def _detector(config: Config) -> str:
    """Check that the detector's address can be opened, and that a detector answers there."""
    detector = config.detector
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        # SUB even if the service opens PULL: a PULL socket would take frames away from the service or the file writer
        probe = open_socket(context, detector.endpoint, "sub", bind=detector.bind, max_message_bytes=1000)
        stack.enter_context(probe)
        if detector.bind:
            return f"{detector.endpoint}: bound by the service, the detector connects"
        _reach(probe, detector.endpoint, "detector.endpoint", "is the stream on, and the address right?")
    if detector.socket == "pull":
        return f"{detector.endpoint} answers; PULL takes frames away from any other puller: see 'cdi-stream tee'"
    return f"{detector.endpoint} answers"


def _documents(config: Config) -> str:
    documents = config.documents
    if documents.own_proxy:
        with own_proxy(documents.publish, documents.subscribe, documents.proxy_secret):
            return f"the service starts a proxy at {documents.subscribe} and {documents.publish}{_source(config)}"
    with zmq.Context() as context:
        for key in ("subscribe", "publish"):
            address = getattr(config.documents, key)
            with bus.listen(context, address, documents.curve) as probe:
                _reach(probe, address, f"documents.{key}", "start bluesky-0MQ-proxy, or cdi-stream proxy")
    return (
        f"proxy answers at {config.documents.subscribe} and {config.documents.publish}{_source(config)}{_trust(config)}"
    )


def _source(config: Config) -> str:
    """Return a text about the source of the documents, where they do not come from the proxy."""
    documents = config.documents
    return "" if documents.source == "zmq" else f"; documents come by {documents.source} from {documents.address}"


def _trust(config: Config) -> str:
    """Return a warning if pickled documents come from another machine; else an empty text."""
    documents = config.documents
    if documents.serializer != "pickle" or parse(documents.subscribe).is_loopback:
        return ""
    return "; pickle from another machine runs any code of its sender: use msgpack if possible"


def _tiled(config: Config) -> str:
    tiled = config.publish.tiled
    if tiled is None:
        return "results are not sent to Tiled"
    if tiled == "local":
        load("cdi_stream.sink", "tiled")
        return "the service starts a local server"
    with urlopen(f"{tiled.rstrip('/')}/healthz", timeout=REACH_S) as reply:  # noqa: S310 - an address of the config
        return f"{tiled} answers {reply.status}"


def _feed(config: Config) -> str:
    if config.feed.endpoint is None:
        return "no feed for the operators' page: set feed.endpoint"
    try:
        Announcer(config.feed.endpoint, secret=config.feed.secret).close()
    except EndpointError as error:
        raise ServiceError(f"{error}; is the service running already?") from error
    return f"{config.feed.endpoint} is free"


def _reach(probe: zmq.Socket[bytes], endpoint: str, key: str, remedy: str) -> None:
    """Wait until ``probe`` has connected, then check the greeting of 0MQ's protocol.

    ``key`` is the key of the address in the configuration, ``remedy`` the advice in the error.

    Raises
    ------
    ServiceError
        If no program listens at the address, or the program does not speak 0MQ.
    """
    probe.disconnect(endpoint)
    monitor = probe.get_monitor_socket(zmq.EVENT_CONNECTED)
    probe.connect(endpoint)
    is_connected = monitor.poll(round(REACH_S * 1000))
    probe.disable_monitor()
    monitor.close(0)
    if not is_connected:
        raise ServiceError(f"{key}: no program listens at {endpoint}; {remedy}")
    address = parse(endpoint)
    if address.is_tcp and _greeting(address) != ZMTP_SIGNATURE:
        raise ServiceError(f"{key}: the program that listens at {endpoint} does not speak 0MQ; {remedy}")


def _greeting(address: Address) -> bytes:
    """Return the first byte that a server sends; empty if none comes within `REACH_S`."""
    try:
        with socket.create_connection((address.host, address.port or 0), timeout=REACH_S) as connection:
            return connection.recv(1)
    except OSError:
        return b""
