"""A Tiled server of our own, for when none is configured: SQLite catalog, loopback, in its own process."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from cdi_stream.errors import ServiceError
from cdi_stream.processes import start_child

START_TIMEOUT_S = 60.0


@contextlib.contextmanager
def local_tiled(directory: Path) -> Iterator[tuple[str, str]]:
    """Serve ``directory/catalog.db`` and the files beside it; yields address and API key.

    Both are also written to ``directory/tiled.json``, readable by the user alone.

    Raises
    ------
    ServiceError
        If the server does not answer in time.
    """
    directory.mkdir(parents=True, exist_ok=True)
    key, port = secrets.token_hex(16), free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tiled", "serve", "catalog", str(directory / "catalog.db"), "--init"]
    command += ["--write", str(directory / "tiled"), "--write", f"sqlite:///{directory / 'tables.db'}"]
    command += ["--read", str(directory)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with (directory / "tiled.log").open("ab") as log:
        process = start_child(command, log, TILED_SINGLE_USER_API_KEY=key)
    try:
        _wait_for(uri, process, directory)
        address = directory / "tiled.json"
        address.touch(mode=0o600)
        address.write_text(json.dumps({"uri": uri, "api_key": key}))
        yield uri, key
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port() -> int:
    """A loopback port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(uri: str, process: subprocess.Popen[bytes], directory: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"{uri}/healthz", timeout=2).close()  # noqa: S310 - our own loopback address
            return
        time.sleep(0.2)
    raise ServiceError(f"the Tiled server did not start within {START_TIMEOUT_S:.0f} s; see {directory / 'tiled.log'}")
