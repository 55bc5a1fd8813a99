"""RabbitMQ with STOMP, and blueapi as the sender, each a process of the test on the loopback interface.

RabbitMQ comes from Debian (``apt-get install rabbitmq-server``); it needs no service of the system and no root.
``CDI_STREAM_BLUEAPI_PYTHON`` is the path of a Python that has blueapi (``pip install blueapi==1.21.1``).
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stomp.connect import StompConnection11

from cdi_stream.documents.bus import writer
from cdi_stream.processes import start_child
from cdi_stream_plugins.sources.stomp import DESTINATION
from tests.system.senders import free_ports

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
BLUEAPI_PYTHON = "CDI_STREAM_BLUEAPI_PYTHON"
USER, PASSWORD = "beamline", "not-secret"

_START_S = 60.0


class Broker:
    """A RabbitMQ node with data, ports and name mapper of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._epmd_port, self._dist_port, self._amqp_port, self.port = free_ports(4)
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "enabled_plugins").write_text("[rabbitmq_stomp].")
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self._amqp_port}\nstomp.listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"default_user = {USER}\ndefault_pass = {PASSWORD}\nlog.console = true\nlog.file = false\n"
        )
        with (folder / "epmd.log").open("wb") as log:
            self._epmd = start_child(["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"], log)

    @property
    def address(self) -> str:
        return f"stomp://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the node, and return when it takes connections."""
        folder = self._folder
        with (folder / "server.log").open("ab") as log:
            self._process = start_child(
                [str(SERVER)],
                log,
                HOME=str(folder),  # of the node's cookie
                NOTIFY_SOCKET=str(folder / "none"),  # the script then becomes the node, and starts no further process
                ERL_EPMD_PORT=str(self._epmd_port),
                RABBITMQ_NODENAME=f"stomp-{self.port}@localhost",
                RABBITMQ_DIST_PORT=str(self._dist_port),
                RABBITMQ_MNESIA_BASE=str(folder / "data"),
                RABBITMQ_LOG_BASE=str(folder / "log"),
                RABBITMQ_CONFIG_FILE=str(folder / "rabbitmq.conf"),
                RABBITMQ_ENABLED_PLUGINS_FILE=str(folder / "enabled_plugins"),
                RABBITMQ_PID_FILE=str(folder / "pid"),
                RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
            )
        end_s = time.monotonic() + _START_S
        while not self._listens():
            log_text = (folder / "server.log").read_text(errors="replace")[-3000:]
            assert self._process.poll() is None, f"RabbitMQ ended:\n{log_text}"
            assert time.monotonic() < end_s, f"RabbitMQ did not start:\n{log_text}"
            time.sleep(0.1)

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the node; its data stay."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30.0)

    def close(self) -> None:
        """End the node and its name mapper."""
        self.stop(signal.SIGKILL)
        self._epmd.terminate()
        self._epmd.wait(10.0)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False


class Publisher:
    """Publishes documents as blueapi's client `bluesky_stomp` does: JSON text without a length, one topic."""

    def __init__(self, broker: Broker) -> None:
        self._connection = StompConnection11([("127.0.0.1", broker.port)], auto_content_length=False)
        self._connection.connect(USER, PASSWORD, wait=True)

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        self.publish(writer("json")({"name": name, "doc": doc, "task_id": "6b2c"}))

    def publish(self, body: bytes) -> None:
        self._connection.send(DESTINATION, body, headers={"JMSType": "TextMessage"})

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.disconnect()


PLAN = """
from bluesky.plans import scan
from bluesky.utils import MsgGenerator
from ophyd_async.core import soft_signal_rw
from ophyd_async.plan_stubs import ensure_connected


def rock(points: int) -> MsgGenerator[None]:
    theta = soft_signal_rw(float, name="theta")
    yield from ensure_connected(theta)
    yield from scan([], theta, -1, 1, points)
"""


@contextlib.contextmanager
def blueapi(python: str, broker: Broker, folder: Path) -> Iterator[str]:
    """Yield the REST address of a running blueapi that publishes to the broker."""
    (port,) = free_ports(1)
    (folder / "rocking.py").write_text(PLAN)
    (folder / "config.yaml").write_text(
        json.dumps(
            {
                "api": {"url": f"http://127.0.0.1:{port}"},
                "stomp": {
                    "enabled": True,
                    "url": f"tcp://127.0.0.1:{broker.port}",
                    "auth": {"username": USER, "password": PASSWORD},
                },
                "env": {"sources": [{"kind": "planFunctions", "module": "rocking"}]},
            }
        )
    )
    log = folder / "blueapi.log"
    command = [python, "-m", "blueapi", "-c", str(folder / "config.yaml"), "serve"]
    with log.open("wb") as file:
        process = start_child(command, file, PYTHONPATH=str(folder))
    try:
        rest = f"http://127.0.0.1:{port}"
        wait_for_plan(rest, process, log)
        yield rest
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10.0)
        process.kill()
        process.wait(10.0)


def wait_for_plan(rest: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + _START_S
    while True:
        try:
            call("GET", f"{rest}/plans/rock")
        except OSError:
            assert process.poll() is None, log.read_text(errors="replace")[-5000:]
            assert time.monotonic() < end_s, log.read_text(errors="replace")[-5000:]
            time.sleep(0.3)
        else:
            return


def call(method: str, url: str, value: object = None) -> Any:
    body = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=30.0) as answer:
        return json.load(answer)


def run_scan(rest: str, points: int) -> None:
    """Run the plan ``rock``, as blueapi's own client does."""
    task = {"name": "rock", "params": {"points": points}, "instrument_session": "cm12345-1"}
    created = call("POST", f"{rest}/tasks", task)
    call("PUT", f"{rest}/worker/task", {"task_id": created["task_id"]})


def require_rabbitmq() -> None:
    if not SERVER.is_file():
        pytest.skip("no RabbitMQ: apt-get install rabbitmq-server")
