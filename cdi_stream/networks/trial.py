"""Try a network file in a separate process, which can be ended if no answer comes.

A network runs inside the service, where it cannot be stopped.  Its steps depend on the shape of its input alone, since
`cdi_stream.networks.torchscript` refuses other networks.  An answer within the time limit in the trial therefore means
answers in about the same time in the service.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from cdi_stream.errors import NetworkFileError
from cdi_stream.networks.packaged import packaged_networks
from cdi_stream.processes import start_child

LIMIT_S = 120.0
"""Longest time for the start of the process, the load and three passes [s].

The packaged networks need 5 to 20 s, most of it for the import of torch on a busy machine.
"""

MEMORY_SHARE = 0.5
"""Largest memory of a network on the CPU, as a share of the machine's memory."""

_CHILD = "import sys; from cdi_stream.networks.trial import run; sys.exit(run(sys.argv[1], sys.argv[2]))"


def require_answer(path: Path, device: str = "cpu", limit_s: float = LIMIT_S) -> None:
    """Check that a network file answers, by a run in a child process; packaged networks are not tried.

    Parameters
    ----------
    path
        Network file.
    device
        Device of the run.
    limit_s
        Longest time [s].

    Raises
    ------
    NetworkFileError
        If the file is refused, if no answer comes within ``limit_s``, or if the process ends with an error.
    """
    if path.resolve() in {file.resolve() for file in packaged_networks().values()}:
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
        output = log.read().decode(errors="replace").strip()
    if code == 2:
        raise NetworkFileError(output)
    if code:
        raise NetworkFileError(
            f"{path}: expected an answer, got a process that ended with code {code} "
            f"({output.splitlines()[-1] if output else 'without a message'}); take another network file"
        )


def run(path: str, device: str) -> int:
    """Load and run a network in this process, with a limit on its memory, and return the exit code."""
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
