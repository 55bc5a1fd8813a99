"""The command line: arguments, progress and exit codes; the only module that prints.

Exit codes: 0 done, 2 bad input or usage, 3 done but incomplete or failed verdict, 1 our fault.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cdi_stream import registry
from cdi_stream.errors import CdiStreamError, InputError, RecordingError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder for results and logs; a temporary one if none.")]
PlotOption = Annotated[Path | None, typer.Option("--plot", help="Draw the crystal into this PNG.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Configuration of the service, in TOML.")]
SpeedOption = Annotated[str, typer.Option("--speed", help="Pace: 1 as recorded, 10, or max.")]
RunningOption = Annotated[bool, typer.Option("--beamline-only", help="Play to a service that runs already.")]


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


@app.command()
def geometry(case: Path, as_json: JsonOption = False) -> None:
    """Solve a geometry case: q, B_q and B_r at the centre of the volume."""
    from cdi_stream.geometry_case import solve_case

    _show(solve_case(case), as_json)


@app.command()
def plugins(as_json: JsonOption = False) -> None:
    """List installed decoders, beamlines, readers and sinks."""
    _show({group.removeprefix("cdi_stream."): list(registry.names(group)) for group in registry.GROUPS}, as_json)


@app.command()
def demo(
    case: Annotated[str, typer.Option(help="Simulated scan to play; 'demo' is the default.")] = "demo",
    speed: SpeedOption = "max",
    out: OutOption = None,
    plot: PlotOption = None,
    config: ConfigOption = None,
    curves: Annotated[int, typer.Option(help="Rocking curves in the run.", min=1)] = 1,
    beamline_only: RunningOption = False,
    as_json: JsonOption = False,
) -> None:
    """Simulate a scan and play it through the whole system; compare the crystal with the truth."""
    from cdi_stream.processes import run_module

    directory = _directory(out)
    with console.status("computing the diffraction of the simulated crystal (kept for the next time)"):
        run_module("sim_beamline", "simulate", "--case", case, "--out", str(directory / "scan.h5"))
    summaries = _play(directory / "scan.h5", directory, speed, config, beamline_only, curves)
    _finish([_compared(summary, case) for summary in summaries], plot, as_json)


@app.command()
def replay(
    scan: Annotated[Path, typer.Argument(help="Recorded scan: our HDF5, or a SPEC file or folder of 34-ID-C.")],
    number: Annotated[
        int | None, typer.Option("--scan", help="Scan number, where the recording holds several.")
    ] = None,
    speed: SpeedOption = "max",
    out: OutOption = None,
    plot: PlotOption = None,
    config: ConfigOption = None,
    beamline_only: RunningOption = False,
    as_json: JsonOption = False,
) -> None:
    """Play a recorded scan through a simulated beamline and the live service."""
    from cdi_stream.recording import write_scan

    recorded = _reader_of(scan).read(scan, number)
    for note in recorded.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False)
    directory = _directory(out)
    write_scan(recorded, directory / "scan.h5")
    summaries = _play(directory / "scan.h5", directory, speed, config, beamline_only, 1)
    if recorded.truth is not None:
        summaries = [_compared(summary, str(recorded.truth["case"])) for summary in summaries]
    _finish(summaries, plot, as_json)


@app.command()
def serve(config: Annotated[Path, typer.Option("--config", help="Configuration in TOML.")]) -> None:
    """Run the live service until it is told to stop (Ctrl-C)."""
    from cdi_stream.config import read_config
    from cdi_stream.live.serve import running_service

    settings = read_config(config)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    settings.publish.directory.mkdir(parents=True, exist_ok=True)
    ready = settings.publish.directory / "ready"
    ready.unlink(missing_ok=True)
    with running_service(settings) as service:
        ready.touch()
        console.print(f"listening to {settings.detector.endpoint}; Ctrl-C ends the service")
        while not stopping.is_set() and not service.wait(0.2):
            pass
        ready.unlink(missing_ok=True)
        console.print("stopping: curves under way are finished or named as interrupted")
    if service.failure is not None:
        raise CdiStreamError(f"the service died: {service.failure!r}")


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", help="Network file to write.")],
    minutes: Annotated[float, typer.Option(help="Time to train for.", min=0.01)] = 20.0,
    seed: Annotated[int, typer.Option(help="First seed of the simulated crystals.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train the two-decoder network of Wu et al. (2021) on simulated crystals and export it."""
    from cdi_stream.training.wu2021 import train_wu2021

    train_wu2021(
        out, minutes=minutes, seed=seed, device=device, report=lambda line: console.print(line, highlight=False)
    )


def _reader_of(path: Path) -> Any:
    if not path.exists():
        raise RecordingError(f"{path} does not exist")
    for name in registry.names("cdi_stream.reader"):
        reader = registry.load("cdi_stream.reader", name)()
        if reader.can_read(path):
            return reader
    known = ", ".join(registry.names("cdi_stream.reader"))
    raise RecordingError(f"{path}: no reader understands it; installed are {known}")


def _directory(out: Path | None) -> Path:
    directory = out or Path(tempfile.mkdtemp(prefix="cdi-stream-"))
    directory.mkdir(parents=True, exist_ok=True)
    return directory.resolve()


def _play(
    scan_file: Path, directory: Path, speed: str, config: Path | None, beamline_only: bool, curves: int
) -> list[dict[str, Any]]:
    from cdi_stream.recording import read_scan
    from cdi_stream.replay import Progress as Heard
    from cdi_stream.replay import replay as play

    if speed != "max" and not _is_positive(speed):
        raise InputError(f"--speed: expected 1, 10 or another factor, or max, got {speed!r}")
    if beamline_only and config is None:
        raise InputError("--beamline-only needs --config, the configuration of the service that runs")
    n_points = len(read_scan(scan_file).frames) * curves
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("starting", total=n_points)

        def report(heard: Heard) -> None:
            bar.update(task, completed=heard.n_points, description=heard.streams[-1] if heard.streams else "scan")

        return play(
            scan_file,
            directory,
            speed=speed,
            config_file=config,
            is_service_running=beamline_only,
            n_curves=curves,
            report=report,
        )


def _compared(summary: dict[str, Any], case: str) -> dict[str, Any]:
    """Add the distance to the simulated crystal; null where there is no crystal."""
    from cdi_stream.processes import run_module

    return summary | run_module("sim_beamline", "compare", "--case", case, "--file", summary["file"])


def _is_positive(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def _finish(summaries: list[dict[str, Any]], plot: Path | None, as_json: bool) -> None:
    """Show the last curve's summary, draw it, and end with the code that its verdict asks for."""
    summary = summaries[-1]
    if plot is not None and summary["verdict"] == "failed":
        console.print("[yellow]note:[/yellow] there is no crystal to draw")
    elif plot is not None:
        from cdi_stream.plot import plot_result

        title = f"{summary['verdict']}: chi2 {summary['chi2']:.4f}, r_p {summary['r_p']:.4f}"
        plot_result(Path(summary["file"]), plot, title)
    _show(summary, as_json)
    if any(s["verdict"] == "failed" or s["missing"] for s in summaries):
        raise typer.Exit(3)


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(_without_nan(result)))
        return
    table = Table(show_header=False, box=None)
    for key, value in result.items():
        table.add_row(key, json.dumps(_without_nan(value)) if isinstance(value, dict | list) else str(value))
    Console().print(table, highlight=False)


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN: missing values are null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
