"""The plans of the plugin in the queue of bluesky-queueserver, with a real redis, RE manager and service.

The queue server needs an environment of its own, which sees the packages of this one; CDI_STREAM_QUEUESERVER names its
folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from cdi_stream.documents.tiled_server import free_port
from cdi_stream_plugins.bluesky.results import ResultListener
from sim_beamline.scan import recorded_scan
from tests.system.test_profile import profile_beamline

STARTUP = Path(__file__).parent / "queueserver" / "startup.py"
ENVIRONMENT = Path(os.environ.get("CDI_STREAM_QUEUESERVER", "/nowhere")) / "bin"
LIMIT_S = 120.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ENVIRONMENT / "start-re-manager").exists(), reason="no environment with a queue server"),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]

REQUEST = """
import json, sys
from bluesky_queueserver.manager.comms import zmq_single_request
answer, error = zmq_single_request(sys.argv[2], json.loads(sys.argv[3]), zmq_server_address=sys.argv[1])
print(json.dumps(answer if answer is not None else {"success": False, "msg": error}))
"""
PERMISSIONS = """
user_groups:
  root: {allowed_plans: [null], allowed_devices: [null]}
  primary: {allowed_plans: [":.*"], allowed_devices: [":?.*:depth=2"]}
"""


class QueueServer:
    """An RE manager with the startup script."""

    def __init__(self, folder, line, redis_port):
        self.address = f"tcp://127.0.0.1:{free_port()}"
        (folder / "user_group_permissions.yaml").write_text(PERMISSIONS)
        shutil.copy(STARTUP, folder / "startup.py")
        command = [
            ENVIRONMENT / "start-re-manager", "--startup-script", folder / "startup.py",
            "--zmq-control-addr", self.address, "--zmq-info-addr", f"tcp://127.0.0.1:{free_port()}",
            "--redis-addr", f"127.0.0.1:{redis_port}",
            "--user-group-permissions", folder / "user_group_permissions.yaml",
            "--existing-plans-devices", folder / "existing.yaml", "--update-existing-plans-devices", "ALWAYS",
        ]  # fmt: skip
        baseline = {name: (value, line.scan.units[name]) for name, value in line.scan.baseline.items()}
        env = os.environ | {
            "CDI_STREAM_CONFIG": str(line.config),
            "CDI_STREAM_CONTROL": line.control,
            "CDI_STREAM_BASELINE": json.dumps(baseline),
        }
        self.log = folder / "manager.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(list(map(str, command)), env=env, stdout=log, stderr=subprocess.STDOUT)

    def ask(self, method, **params):
        """Answer of the manager; an answer that is no success is an error."""
        command = [str(ENVIRONMENT / "python"), "-c", REQUEST, self.address, method, json.dumps(params)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        answer = json.loads(done.stdout)
        assert answer.get("success", True), (method, answer["msg"], self.log.read_text()[-3000:])
        return answer

    def wait_until(self, condition):
        end = time.monotonic() + LIMIT_S
        while not condition(self.ask("status")):
            assert time.monotonic() < end, self.log.read_text()[-5000:]
            time.sleep(0.5)


@contextlib.contextmanager
def ended(process):
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def test_the_queue_measures_a_curve_and_its_crystal_comes(tmp_path):
    port = free_port()
    redis = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(profile_beamline(tmp_path, recorded_scan("plain")))
        stack.enter_context(ended(subprocess.Popen(redis, stdout=subprocess.DEVNULL)))
        time.sleep(1.0)
        server = QueueServer(tmp_path, line, port)
        stack.enter_context(ended(server.process))
        listener = stack.enter_context(contextlib.closing(ResultListener(line.subscriber.bus)))
        time.sleep(5.0)
        server.ask("environment_open")
        server.wait_until(lambda status: status["worker_environment_exists"])
        start, stop, num = line.span
        plan = {
            "name": "bcdi",
            "item_type": "plan",
            "args": ["eiger", "theta", start, stop, num],
            "kwargs": {"reconstruction": "crystal", "md": {"sample": "queued"}},
        }
        server.ask("queue_item_add", item=plan, user="tests", user_group="primary")
        server.ask("queue_start")
        result = listener.results.wait(None, 0, LIMIT_S)
        server.wait_until(lambda status: status["manager_state"] == "idle" and status["items_in_history"] == 1)
        (item,) = server.ask("history_get")["items"]
        server.ask("environment_close")
        server.wait_until(lambda status: not status["worker_environment_exists"])
    assert item["result"]["exit_status"] == "completed", item["result"]
    assert result.verdict == "good", result.reasons
    assert result.size_x_nm > 100
