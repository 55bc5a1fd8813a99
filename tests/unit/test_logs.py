"""The log as JSON: one object a line, whatever a line holds."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from datetime import datetime

import pytest

from cdi_stream import logs

COMMANDS = (
    ("serve", "--config", "missing.toml"),
    ("worker", "--config", "missing.toml"),
    ("dashboard", "--config", "missing.toml"),
)


@pytest.fixture
def lines(monkeypatch):
    """Function that returns the lines written so far; the log of the tests comes back afterwards."""
    root = logging.getLogger()
    handlers, level, hook, show = root.handlers[:], root.level, sys.excepthook, warnings.showwarning
    root.handlers = []
    stream = io.StringIO()
    logs.write_json(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.captureWarnings(False)
    root.handlers, sys.excepthook, warnings.showwarning = handlers, hook, show
    root.setLevel(level)


def test_a_line_tells_time_level_place_and_error(lines):
    log = logging.getLogger("cdi_stream.live.pipeline")
    log.info("before %s", 'a "quote"\nand a second line')
    with logs.about("5d0c", 3):
        try:
            raise ValueError("no\nroom")
        except ValueError:
            log.exception("failed")
        elsewhere = threading.Thread(target=log.warning, args=("another thread",))
        elsewhere.start()
        elsewhere.join()
    log.info("after")
    first, error, other, last = lines()
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {"level": "info", "logger": log.name, "message": 'before a "quote"\nand a second line'}
    assert (error["level"], error["run"], error["curve_index"]) == ("error", "5d0c", 3)
    assert error["exception"].endswith("ValueError: no\nroom")
    assert "run" not in other
    assert "run" not in last


def test_warnings_and_uncaught_errors_are_lines_too(lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    sys.excepthook(KeyError, KeyError("x"), None)
    warned, uncaught = lines()
    assert (warned["level"], uncaught["level"]) == ("warning", "critical")
    assert "old" in warned["message"]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_each_command_of_a_deployment_writes_json(command, tmp_path):
    call = [sys.executable, "-m", "cdi_stream", *command, "--log-format", "json"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    entry = json.loads(line)
    assert entry["level"] == "error"
    assert "missing.toml does not exist" in entry["message"]
