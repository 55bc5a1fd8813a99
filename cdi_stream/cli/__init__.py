"""The command line: arguments, progress and exit codes; the only package that prints.

Exit codes: 0 done, 2 bad input or usage, 3 done but incomplete or failed verdict, 1 our fault.
"""

from __future__ import annotations

import logging
import os
import sys

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
    except KeyboardInterrupt:
        console.print("stopped")
        sys.exit(130)
