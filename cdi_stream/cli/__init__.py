"""The command line: arguments, progress and exit codes; the only package that prints.

Exit codes: 0 done, 2 bad input or usage, 3 done but incomplete or failed verdict, 1 our fault.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.logging import RichHandler
from rich.markup import escape

from cdi_stream.cli import phasing, refinement, replays, streams, tools
from cdi_stream.cli.output import console
from cdi_stream.errors import CdiStreamError, InputError

os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
"""Threads that spin for long while they wait for one another cost ten times the work itself wherever the machine is
busy, and numpy's, which spin after every small product, take half of torch's speed.  Read when torch and numpy are
imported, which commands do."""

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
    """Live 3D imaging of nanocrystals at Bragg coherent X-ray beamlines."""


for command in (
    replays.demo,
    replays.replay,
    streams.serve,
    streams.record,
    streams.tee,
    replays.play,
    streams.dashboard,
    refinement.worker,
    phasing.phase,
    tools.check,
    tools.plugins,
    tools.geometry,
    tools.export,
    tools.train,
    tools.calibrate,
    tools.atoms,
):
    app.command()(command)
app.add_typer(refinement.queue_app, name="queue")


_OF_THE_USER = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def main() -> None:
    """Run the command line; errors of ours become one message and an exit code."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line for every request to Tiled
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    try:
        app()
    except InputError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        sys.exit(2)
    except CdiStreamError as error:
        console.print(f"[red]failed:[/red] {escape(str(error))}", highlight=False)
        sys.exit(1)
    except OSError as error:  # a file or folder that a command was given, or a full disk
        place = "" if error.filename is None else f"{error.filename}: "
        console.print(f"[red]failed:[/red] {escape(place)}{escape(error.strerror or str(error))}", highlight=False)
        sys.exit(2 if isinstance(error, _OF_THE_USER) else 1)
    except KeyboardInterrupt:
        console.print("stopped")
        sys.exit(130)
