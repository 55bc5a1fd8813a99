"""A service that only tells its feed, the dashboard as a process, and a browser without a window."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from cdi_stream.documents.tiled_server import free_port
from cdi_stream.geometry.affine import AffineMap, lab_grid
from cdi_stream.messages import Crystal, CurveProgress, FrameAccount, RunContext, Verdict
from cdi_stream.metrics import Metrics
from cdi_stream.operators import feed
from cdi_stream.operators.history import FILE_NAME
from cdi_stream.processes import start_child

SHAPE = (48, 64, 56)
RUN = "99aa-run"
RAW = RunContext(uid="5d0c41f2-raw", scan_id=54, sample="Au 3", plan_name="rocking_curve", motors=("theta",))
NEXT = RunContext(uid="6e1d52a3-raw", scan_id=55, sample="Au 3", plan_name="rocking_curve", motors=("theta",))
DASHBOARD = """
import sys
from pathlib import Path
from cdi_stream.operators.app import DashboardSettings, run_dashboard
from cdi_stream.refine.desk import QueueDesk
feed, port, token, history, results = sys.argv[1:]
results = Path(results) if results else None
jobs = QueueDesk(results) if results else None
settings = DashboardSettings(feed=feed, token=token or None, history=Path(history), results=results, jobs=jobs)
run_dashboard(settings, "127.0.0.1", int(port))
"""
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Source:
    """Publishes messages as the service does; it knows when somebody listens."""

    def __init__(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        self.endpoint = endpoint
        self._socket = socket
        self._seq = 0
        self._service = "first"

    def wait_for_listener(self) -> None:
        assert self._socket.poll(20_000), "nobody subscribed to the feed"
        assert self._socket.recv() == b"\x01"

    def restart(self) -> None:
        self._seq, self._service = 0, self._service + " again"

    def send(self, message: feed.FeedMessage) -> None:
        header, images = message
        self._seq += 1
        stamp = {"service": self._service, "seq": self._seq, "time_s": time.time()}
        self.send_raw(feed.pack(header | stamp, images))

    def send_raw(self, parts: list[bytes]) -> None:
        self._socket.send_multipart(parts)


@contextlib.contextmanager
def source() -> Iterator[Source]:
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.linger = 0
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        yield Source(socket, f"tcp://127.0.0.1:{port}")


@contextlib.contextmanager
def dashboard(
    directory: Path,
    endpoint: str,
    port: int = 0,
    token: str = "",
    *,
    is_killed: bool = False,
    results: Path | None = None,
) -> Iterator[str]:
    """The dashboard in a process of its own; yields its address.  ``is_killed`` ends it by SIGKILL."""
    with dashboard_process(directory, endpoint, port, token, is_killed=is_killed, results=results) as (uri, _):
        yield uri


@contextlib.contextmanager
def dashboard_process(
    directory: Path,
    endpoint: str,
    port: int = 0,
    token: str = "",
    *,
    is_killed: bool = False,
    results: Path | None = None,
) -> Iterator[tuple[str, int]]:
    """The dashboard in a process of its own; yields its address, and the number of the process."""
    port = port or free_port()
    places = [endpoint, str(port), token, str(directory / FILE_NAME), str(results or "")]
    command = [sys.executable, "-W", "error", "-c", DASHBOARD, *places]
    log = directory / "dashboard.log"
    with log.open("wb") as out:
        process = start_child(command, out)
    try:
        uri = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is not None or is_up(uri), 300, "the dashboard")
        assert process.poll() is None, log.read_text()
        yield uri, process.pid
    finally:
        (process.kill if is_killed else process.terminate)()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def memory_mib(pid: int, name: str = "VmHWM") -> float:
    """Memory of a process by its name in ``/proc`` [MiB]; by default the largest so far."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def feed_request(host: str, query: str = "") -> bytes:
    """Request that opens the web socket of the feed."""
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
    return f"GET /ws{query} HTTP/1.1\r\nHost: {host}\r\n{upgrade}\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()


def is_up(uri: str) -> bool:
    """Whether a server answers, be it with a refusal."""
    try:
        urllib.request.urlopen(f"{uri}/healthz", timeout=2).close()
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        return False
    return True


def health(uri: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{uri}/healthz", timeout=5) as answer:
        return json.loads(answer.read())


def wait_until(condition: Callable[[], Any], timeout_s: float = 120, what: str = "condition") -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"{what} did not come within {timeout_s} s"
        time.sleep(0.05)


@contextlib.contextmanager
def browser(directory: Path, width: int = 1600, height: int = 1000) -> Iterator[Any]:
    """Chromium with a fresh profile; skips the test where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={directory / 'profile'}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    chrome = webdriver.Chrome(options, webdriver.ChromeService(executable_path=driver))
    try:
        chrome.set_page_load_timeout(30)
        chrome.set_script_timeout(10)
        yield chrome
    finally:
        chrome.quit()


# --- what the service would say ----------------------------------------------------------------------------


def progress(
    n_sent: int,
    missing: tuple[int, ...] = (),
    expected: int = 40,
    curve: int = 3,
    run: RunContext = RAW,
    *,
    is_over: bool = False,
) -> feed.FeedMessage:
    lacking = tuple(sorted({*missing, *range(n_sent, expected)}))
    account = FrameAccount(expected=expected, received=expected - len(lacking), missing=lacking, duplicate=1)
    one = CurveProgress(series="12", run=run, curve_index=curve, account=account)
    return feed.progress_message(one, is_over=is_over)


def frame(image_id: int, bright: tuple[int, int], shape: tuple[int, int] = (120, 200)) -> feed.FeedMessage:
    """A peak with its streak on unequal sides, a dead gap, and one bright pixel."""
    rows, cols = np.indices(shape)
    away = np.hypot(rows - 70, cols - 90) + 1
    pixels = (3000 / away**2.2 * (1 + np.cos(away / 2))).astype(np.uint32)
    pixels[:, 40:44] = 2**32 - 1
    pixels[bright] = 54_321
    return feed.frame_message("12", image_id, pixels)


def crystal() -> Crystal:
    """A block that lacks the corner of large y and large x: no mirror leaves it as it is."""
    z, y, x = np.indices(SHAPE) - np.array(SHAPE)[:, None, None, None] // 2
    support = (abs(z) < 11) & (abs(y) < 19) & (abs(x) < 15) & ~((y > 4) & (x > 2)) & (z + x < 18)
    phase = 2.4 * np.exp(-((x + 8) ** 2 + (y - 6) ** 2 + z**2) / 120) - 0.05 * y
    amplitude = support * (1 - 0.012 * (x + 15))
    bq = np.eye(3) * 1e7
    source = AffineMap(shape=SHAPE, q0=np.array([1e10, 2e10, 3e10]), bq=bq, sample_to_lab=np.eye(3), coordinates="lab")
    return Crystal(
        density=(amplitude * np.exp(1j * phase)).astype(np.complex64),
        support=support,
        affine=lab_grid(source, SHAPE, 5e-9),
        metrics=Metrics(),
        verdict=Verdict(grade="good"),
    )


SCALARS = {
    "chi2": 0.01234, "chi2_floor": 0.0098, "r_p": 0.9912, "support_fraction": 0.083, "voxel_size_m": 5e-9,
    "size_lab_x_nm": 145.0, "size_lab_y_nm": 185.0, "size_lab_z_nm": 105.0, "strain_low": -4.1e-4,
    "strain_high": 3.8e-4, "latency_assemble_s": 0.021, "latency_prepare_s": 0.034, "latency_correct_s": 0.048,
    "latency_infer_s": 0.110, "latency_phase_s": 1.92, "latency_s": 2.14,
}  # fmt: skip


def result(
    stage: str,
    verdict: str = "good",
    reasons: tuple[str, ...] = (),
    curve: int = 3,
    run: RunContext = RAW,
    fields: dict[str, Any] | None = None,
    **scalars: float,
) -> feed.FeedMessage:
    """A result; a failed one has neither pictures nor numbers.  ``fields`` are further entries of its header."""
    is_failed = verdict == "failed"
    return feed.result_message(
        stage=stage,
        run=run,
        run_uid=RUN,
        curve_index=curve,
        crystal=None if is_failed else crystal(),
        verdict=verdict,
        reasons=reasons,
        scalars={} if is_failed else SCALARS | scalars,
        **({"published": True, "problem": None} | (fields or {})),
    )


def state(malformed: int = 0, **fields: Any) -> feed.FeedMessage:
    header = {
        "kind": "state",
        "queue": {"ready": 4, "leased": 1, "computed": 0, "done": 117, "failed": 0},
        "refinement": {"method": "auto", "raw_uid": RAW.uid, "scan_id": RAW.scan_id, "curve_index": 2},
        "counters": {"messages": 8123, "malformed": malformed, "stale": 2},
        "waiting": 0,
        "lag_s": 0.42,
        "alarms": [],
    }
    return header | fields, {}
