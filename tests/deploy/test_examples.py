"""Example configurations of facilities, checked against real sockets; the document proxy with CurveZMQ as deployed."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from cdi_stream.config import read_config
from cdi_stream.documents import bus
from cdi_stream.documents.curve import make_keys
from cdi_stream.documents.tiled_server import free_port, local_tiled
from cdi_stream.live import check
from cdi_stream.live.serve import bus_sink_of
from cdi_stream.processes import start_child
from tests.deploy.conftest import DEPLOY
from tests.deploy.test_containers import commands_of_systemd

EXAMPLES = ("id01", "aps_34idc", "nanomax", "hxn_like", "slurm", "dask_slurm")


@contextlib.contextmanager
def proxy(keys: Path, log: Path) -> Iterator[dict[str, str]]:
    """The document proxy as the unit of systemd starts it, on free ports; yields the addresses by their ports there."""
    addresses = {port: f"tcp://127.0.0.1:{free_port()}" for port in ("5577", "5578")}
    name, *words = commands_of_systemd()["proxy"]
    words = [word.replace("/etc/cdi-stream/keys", str(keys)) for word in words]
    words = [re.sub(r"^tcp://\*:(\d+)$", lambda match: addresses[match[1]], word) for word in words]
    with log.open("wb") as out:
        process = start_child([str(Path(sys.executable).with_name(name)), *words], out)
    try:
        yield addresses
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def detector() -> Iterator[str]:
    """A socket to which a service may connect; yields its address."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.linger = 0
        yield f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


def localised(example: str, folder: Path, keys: Path, detector: str, bus: dict[str, str], tiled: str) -> Path:
    """The example with this machine in place of the facility's: addresses, keys and folders, and a device of ours."""
    text = (DEPLOY / "examples" / example / "beamline.toml").read_text()
    text = re.sub(r'endpoint = "tcp://(?!127)[^"]+"', f'endpoint = "{detector}"', text)
    for port, address in bus.items():
        text = re.sub(rf'"tcp://[\w.-]+:{port}"', f'"{address}"', text)
    text = text.replace("tcp://127.0.0.1:5580", f"tcp://127.0.0.1:{free_port()}")
    text = text.replace("/etc/cdi-stream/keys", str(keys)).replace("/var/lib/cdi-stream", str(folder / "results"))
    text = re.sub(r'tiled = "http[^"]+"', f'tiled = "{tiled}"', text).replace('device = "cuda"', 'device = "cpu"')
    path = folder / f"{example}.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def facility(tmp_path_factory) -> Iterator[dict]:
    """Detector, document proxy with keys and Tiled server of a facility."""
    folder = tmp_path_factory.mktemp("facility")
    make_keys(folder / "keys")
    with (
        detector() as endpoint,
        proxy(folder / "keys", folder / "proxy.log") as addresses,
        local_tiled(folder) as tiled,
    ):
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(Exception):
                tiled.require_answer()
                break
            assert time.monotonic() < end, (folder / "tiled.log").read_text()
            time.sleep(0.2)
        yield {"keys": folder / "keys", "detector": endpoint, "bus": addresses, "tiled": tiled.uri}


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_passes_all_checks(example, facility, tmp_path, monkeypatch, note):
    monkeypatch.setattr(check, "_network", lambda _: "seen by the command, below")
    config = read_config(localised(example, tmp_path, **facility))
    findings = check.check_config(config)
    assert not [f"{finding.name}: {finding.text}" for finding in findings if not finding.is_ok]
    assert config.documents.curve is not None, "the bus leaves the host"
    note(f"examples/{example}/beamline.toml", "all checks of cdi-stream check, on this machine's sockets", is_own=True)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_command_passes_an_example(example, facility, tmp_path, note):
    path = localised(example, tmp_path, **facility)
    call = [sys.executable, "-m", "cdi_stream", "check", "--config", path, "--json"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ok"]
    note(f"examples/{example}/beamline.toml", "cdi-stream check, on this machine's sockets", is_own=True)


def test_documents_pass_the_proxy_with_keys_and_not_without(facility, tmp_path):
    config = read_config(localised("id01", tmp_path, **facility))
    sink, stranger = bus_sink_of(config), bus_sink_of(config.model_copy(update={"documents": without_keys(config)}))
    read = bus.reader(config.documents.serializer)
    with zmq.Context() as context, bus.listen(context, config.documents.subscribe, config.documents.curve) as socket:
        uids: set[str] = set()
        end = time.monotonic() + 30
        while "known" not in uids:
            assert time.monotonic() < end, "no document came through"
            sink("start", {"uid": "known", "time": 0.0})
            stranger("start", {"uid": "strange", "time": 0.0})
            uids |= {doc["uid"] for _, doc in bus.receive(socket, "", read, 200, on_unusable=pytest.fail)}
        uids |= {doc["uid"] for _, doc in bus.receive(socket, "", read, 500, on_unusable=pytest.fail)}
    for one in (sink, stranger):
        one.close()
    assert uids == {"known"}


def without_keys(config):
    return config.documents.model_copy(update={"curve_secret": None, "curve_server": None})


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_says_which_sockets_leave_the_host(example):
    path = DEPLOY / "examples" / example / "beamline.toml"
    text, config = path.read_text(), read_config(path)
    assert "# Sockets that leave the host: documents (CurveZMQ)" in text
    assert config.feed.endpoint.startswith("tcp://127.0.0.1:"), "the feed has no password"
    assert config.dashboard.host == "127.0.0.1"
