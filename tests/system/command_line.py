"""Commands in a process of their own, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def run(*arguments: str, timeout_s: float = 800) -> subprocess.CompletedProcess[str]:
    """Run a command of cdi-stream and return its exit code and texts."""
    command = [sys.executable, "-m", "cdi_stream", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the JSON object in the last line of what a command printed."""
    return json.loads(done.stdout.strip().splitlines()[-1])
