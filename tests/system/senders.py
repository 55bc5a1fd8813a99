"""Independent senders of DECTRIS streams, each run in a Python environment of its own.

None of them shares code with this project.  Each binds a PUSH socket on a free loopback port, is a context
manager, and is ended by its process id.  The environments are named by two variables, paths of Python executables:

``CDI_STREAM_TICKIT_PYTHON``
    ``pip install "tickit-devices==0.4.1" "cbor2<6"``: a simulated EIGER with its REST interface; stream v1 and v2.
``CDI_STREAM_LIBERTEM_PYTHON``
    ``pip install "libertem-dectris==0.3.2" "libertem-live[sim]==0.3.0"``: two senders of stream v1 that play a
    file of recorded messages, one driven from Python, one over REST.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from hashlib import md5
from pathlib import Path
from typing import Any, Literal

import bitshuffle
import lz4.block
import numpy as np
import zmq
from numpy.typing import NDArray

from cdi_stream.processes import start_child

TICKIT_PYTHON = "CDI_STREAM_TICKIT_PYTHON"
LIBERTEM_PYTHON = "CDI_STREAM_LIBERTEM_PYTHON"

Compression = Literal["bslz4", "lz4"]
HeaderDetail = Literal["none", "basic", "all"]
Message = list[bytes]

_START_S = 60.0
_REST_S = 60.0
_STOP_S = 10.0
_DETECTOR = "detector/api/1.8.0"
_STREAM = "stream/api/1.8.0"


# --- processes -------------------------------------------------------------------------------------------------


class SenderProcess:
    """A sender in a process group of its own; its output goes to a log file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self._process = start_child(list(command), file, PYTHONUNBUFFERED="1")

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def check(self) -> None:
        assert self._process.poll() is None, f"the sender ended, code {self._process.returncode}:\n{self.log()[-3000:]}"

    def wait_for_line(self, pattern: str) -> str:
        """First group of a pattern, once the sender has logged it."""
        end = time.monotonic() + _START_S
        while not (found := re.search(pattern, self.log())):
            self.check()
            assert time.monotonic() < end, f"the sender did not log {pattern!r}:\n{self.log()[-3000:]}"
            time.sleep(0.05)
        return found.group(1)

    def stop(self) -> None:
        """End it politely, and then whatever is left of its group."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(_STOP_S)


def free_ports(n: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


# --- REST ------------------------------------------------------------------------------------------------------


class Rest:
    """The few calls of the SIMPLON interface that start and end a series."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def get(self, path: str, timeout_s: float = _REST_S) -> Any:
        with urllib.request.urlopen(f"{self._base}/{path}", timeout=timeout_s) as answer:
            return json.load(answer)

    def put(self, path: str, value: Any = None) -> Any:
        body = None if value is None else json.dumps({"value": value}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._base}/{path}", data=body, headers=headers, method="PUT")
        with urllib.request.urlopen(request, timeout=_REST_S) as answer:
            return json.loads(answer.read() or b"null")

    def configure(self, **values: Any) -> None:
        for name, value in values.items():
            self.put(f"{_DETECTOR}/config/{name}", value)

    def configure_stream(self, **values: Any) -> None:
        for name, value in values.items():
            self.put(f"{_STREAM}/config/{name}", value)

    def command(self, name: str) -> Any:
        return self.put(f"{_DETECTOR}/command/{name}")

    def wait_until_up(self, process: SenderProcess, path: str) -> None:
        end = time.monotonic() + _START_S
        while True:
            process.check()
            try:
                self.get(path, timeout_s=1.0)
            except OSError:
                assert time.monotonic() < end, f"no REST interface:\n{process.log()[-3000:]}"
                time.sleep(0.1)
            else:
                return


# --- tickit-devices --------------------------------------------------------------------------------------------

_EIGER_YAML = """\
- type: tickit_devices.eiger.Eiger
  name: eiger
  inputs: {{}}
  host: 127.0.0.1
  port: {rest}
  stream_host: 127.0.0.1
  stream_legacy_port: {v1}
  stream_cbor_port: {v2}
"""


class TickitEiger:
    """The simulated EIGER of tickit-devices: repeats one captured 4362 x 4148 image of 16 bit."""

    def __init__(self, process: SenderProcess, ports: Sequence[int]) -> None:
        self.rest = Rest(ports[0])
        self.endpoint_v1, self.endpoint_v2 = (f"tcp://127.0.0.1:{port}" for port in ports[1:])
        self.rest.wait_until_up(process, f"{_DETECTOR}/status/state")
        self.rest.command("initialize")

    def set_up(self, wire: Literal["legacy", "cbor"], header_detail: HeaderDetail, n_frames: int) -> None:
        self.rest.configure(nimages=n_frames, ntrigger=1, trigger_mode="ints", frame_time=0.01)
        self.rest.configure_stream(format=wire, header_detail=header_detail)

    def run_series(self, *, disarm: bool = True, pause_s: float = 0.3) -> None:
        """Arm, trigger, disarm; returns when all is handed to the socket.

        The simulation sends `end` by itself after the last image, and again on `disarm`.  Messages of the same
        update travel as parts of one ZeroMQ message: without a pause the header comes joined to the first image.
        """
        self.rest.command("arm")
        time.sleep(pause_s)
        self.rest.command("trigger")
        time.sleep(pause_s)
        if disarm:
            self.rest.command("disarm")


@contextlib.contextmanager
def tickit_eiger(python: str, directory: Path) -> Iterator[TickitEiger]:
    ports = free_ports(3)
    config = directory / "eiger.yaml"
    config.write_text(_EIGER_YAML.format(rest=ports[0], v1=ports[1], v2=ports[2]))
    command = [python, "-m", "tickit", "--log-level", "INFO", "all", str(config)]
    process = SenderProcess(command, directory / "tickit.log")
    try:
        yield TickitEiger(process, ports)
    finally:
        process.stop()


# --- a file of recorded messages, as LiberTEM plays it ---------------------------------------------------------


def compressed(frame: NDArray[Any], compression: Compression) -> tuple[str, bytes]:
    """Encoding and blob of an image in stream v1, by other libraries than the ones under test."""
    if compression == "lz4":
        return "lz4<", lz4.block.compress(frame.tobytes(), store_size=False)
    block = 8192 // frame.itemsize
    head = struct.pack(">QI", frame.nbytes, block * frame.itemsize)
    return f"bs{8 * frame.itemsize}-lz4<", head + bitshuffle.compress_lz4(np.ascontiguousarray(frame), block).tobytes()


def recorded_messages(
    frames: NDArray[Any], *, compression: Compression = "bslz4", series: int = 7, trigger_mode: str = "exts"
) -> list[bytes]:
    """Parts of a whole series in stream v1, header detail basic; ``frames`` is [frame, row, column]."""
    n, rows, cols = frames.shape
    per_trigger = trigger_mode in ("exts", "ints")
    config = {
        "ntrigger": 1 if per_trigger else n,
        "nimages": n if per_trigger else 1,
        "trigger_mode": trigger_mode,
        "x_pixels_in_detector": cols,
        "y_pixels_in_detector": rows,
        "bit_depth_image": 8 * frames.itemsize,
        "compression": compression,
        "count_time": 0.01,
        "frame_time": 0.011,
        "photon_energy": 9000.0,
        "wavelength": 1.3776,
        "x_pixel_size": 55e-6,
        "y_pixel_size": 55e-6,
        "detector_distance": 0.85,
        "beam_center_x": 80.5,
        "beam_center_y": 47.5,
    }
    parts = [_json(htype="dheader-1.0", series=series, header_detail="basic"), json.dumps(config).encode()]
    for index, frame in enumerate(frames):
        encoding, blob = compressed(frame, compression)
        parts += [
            _json(htype="dimage-1.0", series=series, frame=index, hash=md5(blob).hexdigest()),
            _json(
                htype="dimage_d-1.0",
                shape=[cols, rows],
                type=str(frames.dtype.newbyteorder("=")),
                encoding=encoding,
                size=len(blob),
            ),
            blob,
            _json(
                htype="dconfig-1.0",
                start_time=index * 11_000_000,
                stop_time=index * 11_000_000 + 10_000_000,
                real_time=10_000_000,
            ),
        ]
    return [*parts, _json(htype="dseries_end-1.0", series=series)]


def write_recorded(path: Path, parts: Sequence[bytes]) -> Path:
    """Write LiberTEM's file of recorded messages: each part after its length, 8 bytes, little endian."""
    path.write_bytes(b"".join(struct.pack("<q", len(part)) + part for part in parts))
    return path


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


# --- libertem-dectris ------------------------------------------------------------------------------------------

_RUST_SIM = """
import sys, libertem_dectris, zmq
source, dwell_us = sys.argv[1], int(sys.argv[2])
arguments = dict(uri="tcp://127.0.0.1", dwelltime=dwell_us or None, random_port=True)
if source.isdigit():
    sim = libertem_dectris.DectrisSim.new_mocked(num_frames=int(source), **arguments)
else:
    sim = libertem_dectris.DectrisSim(filename=source, **arguments)
control = zmq.Context.instance().socket(zmq.REP)
port = control.bind_to_random_port("tcp://127.0.0.1")
print(f"control={port} data={sim.get_uri()} .", flush=True)
while True:
    step, _, count = control.recv_string().partition(" ")
    try:
        if step == "frames" and count:
            sim.send_frames(int(count))
        else:
            {"headers": sim.send_headers, "frames": sim.send_frames, "footer": sim.send_footer}[step]()
        control.send_string("")
    except Exception as error:
        control.send_string(repr(error))
"""


class RustSender:
    """The simulator of libertem-dectris, written in Rust: plays a file of recorded messages, or frames of its own."""

    def __init__(self, control: zmq.Socket[bytes], endpoint: str) -> None:
        self._control = control
        self.endpoint = endpoint

    def step(self, step: str) -> None:
        """Send ``headers``, ``frames``, ``frames 2`` or ``footer``; frames need a receiver within 30 s."""
        self._control.send_string(step)
        error = self._control.recv_string()
        assert not error, error

    def run_series(self) -> None:
        for step in ("headers", "frames", "footer"):
            self.step(step)


@contextlib.contextmanager
def rust_sender(python: str, directory: Path, source: Path | int, *, dwell_us: int = 0) -> Iterator[RustSender]:
    """Play ``source``, a file of recorded messages or a number of frames that the simulator makes up."""
    command = [python, "-c", _RUST_SIM, str(source), str(dwell_us)]
    process = SenderProcess(command, directory / "rust.log")
    try:
        control = process.wait_for_line(r"control=(\d+) ")
        endpoint = process.wait_for_line(r"data=(\S+) ")
        with zmq.Context() as context, context.socket(zmq.REQ) as request:
            request.setsockopt(zmq.LINGER, 0)
            request.setsockopt(zmq.RCVTIMEO, int(1000 * _REST_S))
            request.connect(f"tcp://127.0.0.1:{control}")
            yield RustSender(request, endpoint)
    finally:
        process.stop()


# --- libertem-live ---------------------------------------------------------------------------------------------


class LiveSim:
    """``libertem-live-dectris-sim``: plays a file of recorded messages when armed over REST (and triggered)."""

    def __init__(self, rest: Rest, endpoint: str) -> None:
        self.rest = rest
        self.endpoint = endpoint

    def run_series(self, *, trigger: bool = False) -> None:
        """Arm; with trigger mode ``ints`` or ``inte`` in the file, also trigger."""
        self.rest.command("arm")
        if trigger:
            self.rest.command("trigger")


@contextlib.contextmanager
def live_sim(python: str, directory: Path, recorded: Path, *, dwell_us: int = 0) -> Iterator[LiveSim]:
    """Play ``recorded``; the simulator only starts with ``--zmqport 0``, as it binds that port twice otherwise."""
    program = "from libertem_live.detectors.dectris.sim import main; main()"
    options = ["--port", "0", "--zmqport", "0", *(["--dwelltime", str(dwell_us)] if dwell_us else [])]
    process = SenderProcess([python, "-c", program, *options, str(recorded)], directory / "live_sim.log")
    try:
        port = process.wait_for_line(r"API server listening on \('127\.0\.0\.1', (\d+)\)")
        endpoint = process.wait_for_line(r"RustedReplay listening on (\S+)")
        process.wait_for_line(r"(Waiting for arm)")
        yield LiveSim(Rest(int(port)), endpoint)
    finally:
        process.stop()
