"""Trial of a network file in a process of its own, which can be ended when no answer comes.

A network runs inside the service, where nothing can stop it.  Its steps depend on the shape of its input alone
(`cdi_stream.networks.torchscript` refuses others), so that an answer within the limit here means answers in about this
time there.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from cdi_stream.errors import NetworkFileError
from cdi_stream.networks.packaged import packaged
from cdi_stream.processes import start_child

LIMIT_S = 120.0
"""Longest time for start of the process, load and three passes [s]; the package's networks need 5 to 20 s, most of it
to import torch on a busy machine."""

MEMORY_SHARE = 0.5
"""Most memory that a network may take on the CPU, as a share of the machine's."""

_CHILD = "import sys; from cdi_stream.networks.trial import run; sys.exit(run(sys.argv[1], sys.argv[2]))"


def require_answer(path: Path, device: str = "cpu", limit_s: float = LIMIT_S) -> None:
    """Load and run a network file in a child process; those that come with the package are taken as they are.

    Raises
    ------
    NetworkFileError
        If the file is refused, no answer comes within ``limit_s``, or the process dies of it.
    """
    if path.resolve() in {file.resolve() for file in packaged().values()}:
        return
    with tempfile.TemporaryFile() as log:
        child = start_child([sys.executable, "-c", _CHILD, str(path), device], log)
        try:
            code = child.wait(limit_s)
        except subprocess.TimeoutExpired as error:
            raise NetworkFileError(
                f"{path}: expected an answer within {limit_s:.0f} s, got none: the network is too large for this "
                "machine, or never ends; take another network file"
            ) from error
        finally:
            child.kill()
            child.wait()
        log.seek(0)
        said = log.read().decode(errors="replace").strip()
    if code == 2:
        raise NetworkFileError(said)
    if code:
        raise NetworkFileError(
            f"{path}: expected an answer, got a process that ended with code {code} "
            f"({said.splitlines()[-1] if said else 'it said nothing'}); take another network file"
        )


def run(path: str, device: str) -> int:
    """Load and run a network in this process, with a limit on its memory; returns the exit code."""
    if device == "cpu":
        limit = int(MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    from cdi_stream.networks.torchscript import load

    try:
        load(Path(path), device)
    except NetworkFileError as error:
        sys.stderr.write(str(error))
        return 2
    return 0
