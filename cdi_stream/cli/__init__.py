"""The command line: arguments, progress and exit codes.  No other package prints.

Exit codes: 0 success; 2 bad input or usage; 3 finished, but frames are missing or the verdict is ``failed``; 1 another
error, such as a server that does not answer.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.logging import RichHandler

from cdi_stream.cli import backups, past, phasing, refinement, replays, streams, tools
from cdi_stream.cli.output import complain, console, say
from cdi_stream.errors import CdiStreamError, InputError

# torch and numpy read these settings when a command imports them.  OpenMP threads that spin while they wait cost up to
# ten times the work on a busy machine.  OpenBLAS threads spin after every small product and halve the speed of torch.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"cdi-stream {version('cdi-stream')}")
        raise typer.Exit


@app.callback()
def options(
    is_asked: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Live 3D imaging of nanocrystals by Bragg coherent X-ray diffraction."""


for command in (
    replays.demo,
    replays.replay,
    past.reconstruct,
    streams.serve,
    streams.record,
    streams.tee,
    streams.proxy,
    replays.play,
    streams.dashboard,
    refinement.worker,
    backups.backup,
    backups.restore,
    phasing.phase,
    tools.check,
    tools.plugins,
    tools.keys,
    tools.geometry,
    tools.export,
    tools.train,
    tools.calibrate,
    tools.atoms,
):
    app.command()(command)
app.add_typer(refinement.queue_app, name="queue")


_INPUT_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""System errors that mean a wrong path given by the user: exit code 2."""


def main() -> None:
    """Run the command line; an error of the project becomes one message and an exit code."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it logs every request to Tiled
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    try:
        app()
    except InputError as error:
        complain("error", str(error))
        sys.exit(2)
    except CdiStreamError as error:
        complain("failed", str(error))
        sys.exit(1)
    except OSError as error:  # a wrong path, or a full disk
        place = "" if error.filename is None else f"{error.filename}: "
        complain("failed", f"{place}{error.strerror or error}")
        sys.exit(2 if isinstance(error, _INPUT_ERRORS) else 1)
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(130)
