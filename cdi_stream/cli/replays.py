"""Commands that play a scan through a simulated beamline: ``demo``, ``replay``, and ``play`` of a message log."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cdi_stream.cli.output import (
    JsonOption,
    OutOption,
    PlotOption,
    RunningOption,
    SettingsOption,
    SpeedOption,
    console,
    show,
)
from cdi_stream.errors import InputError


def demo(
    case: Annotated[str, typer.Option(help="Simulated scan to play; 'demo' is the default.")] = "demo",
    speed: SpeedOption = "max",
    out: OutOption = None,
    plot: PlotOption = None,
    config: SettingsOption = None,
    curves: Annotated[int, typer.Option(help="Rocking curves in the run.", min=1)] = 1,
    beamline_only: RunningOption = False,
    as_json: JsonOption = False,
) -> None:
    """Simulate a scan and play it through the whole system; compare the crystal with the truth."""
    from cdi_stream.processes import run_module
    from cdi_stream.replay.play import results_folder

    _require_usable(speed, config, beamline_only, plot)
    with results_folder(_folder(out)) as directory:
        with console.status("computing the diffraction of the simulated crystal (kept for the next time)"):
            run_module("sim_beamline", "simulate", "--case", case, "--out", str(directory / "scan.h5"))
        summaries = _play(directory / "scan.h5", directory, speed, config, beamline_only, curves)
        _finish([_compared(summary, case) for summary in summaries], plot, as_json)


def replay(
    scan: Annotated[Path, typer.Argument(help="Recorded scan: our HDF5, or a SPEC file or folder of 34-ID-C.")],
    number: Annotated[
        int | None, typer.Option("--scan", help="Scan number, where the recording holds several.")
    ] = None,
    speed: SpeedOption = "max",
    out: OutOption = None,
    plot: PlotOption = None,
    config: SettingsOption = None,
    beamline_only: RunningOption = False,
    as_json: JsonOption = False,
) -> None:
    """Play a recorded scan through a simulated beamline and the live service."""
    from cdi_stream.files.recorded_scan import read_recorded
    from cdi_stream.files.recording import write_scan
    from cdi_stream.replay.play import results_folder

    _require_usable(speed, config, beamline_only, plot)
    recorded = read_recorded(scan, number)
    for word, texts in (("note", recorded.notes), ("doubt", recorded.doubts)):
        for text in texts:
            console.print(f"[yellow]{word}:[/yellow] {escape(text)}", highlight=False)
    with results_folder(_folder(out)) as directory:
        write_scan(recorded, directory / "scan.h5")
        summaries = _play(directory / "scan.h5", directory, speed, config, beamline_only, 1)
        if recorded.truth is not None:
            summaries = [_compared(summary, str(recorded.truth["case"])) for summary in summaries]
        _finish(summaries, plot, as_json)


def play(
    log: Annotated[Path, typer.Argument(help="Message log, as 'record --raw' writes it.")],
    endpoint: Annotated[str, typer.Argument(help="Where to send the messages, tcp://host:port.")],
    socket: Annotated[str, typer.Option("--socket", help="push or pub.")] = "push",
    connect: Annotated[
        bool, typer.Option("--connect/--bind", help="Connect to the receiver, or bind as a detector does.")
    ] = False,
    speed: SpeedOption = "max",
    as_json: JsonOption = False,
) -> None:
    """Send the messages of a log again, byte for byte."""
    from cdi_stream.stream.playback import play_log

    if socket not in ("push", "pub"):
        raise InputError(f"--socket: expected push or pub, got {socket!r}")
    show(play_log(log, endpoint, kind=socket, bind=not connect, speed=_factor(speed)), as_json)  # type: ignore[arg-type]


def _require_usable(speed: str, config: Path | None, beamline_only: bool, plot: Path | None) -> None:
    """Refuse before any work what would fail after it; raises `InputError`."""
    from cdi_stream.config import read_config

    _factor(speed)
    if beamline_only and config is None:
        raise InputError("--beamline-only needs --config, the configuration of the service that runs")
    if config is not None:
        read_config(config)
    if plot is not None and not plot.resolve().parent.is_dir():
        raise InputError(f"--plot {plot}: expected a file in a folder that exists; {plot.resolve().parent} does not")


def _folder(out: Path | None) -> Path:
    return out or Path(tempfile.mkdtemp(prefix="cdi-stream-"))


def _play(
    scan_file: Path, directory: Path, speed: str, config: Path | None, beamline_only: bool, curves: int
) -> list[dict[str, Any]]:
    from cdi_stream.files.recording import read_scan
    from cdi_stream.replay.play import replay as play
    from cdi_stream.replay.results import Progress as Heard

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


def _factor(speed: str) -> float | None:
    """Read a pace; None stands for as fast as it goes."""
    if speed == "max":
        return None
    try:
        factor = float(speed)
    except ValueError:
        factor = 0.0
    if not factor > 0:
        raise InputError(f"--speed: expected 1, 10 or another factor, or max, got {speed!r}")
    return factor


def _finish(summaries: list[dict[str, Any]], plot: Path | None, as_json: bool) -> None:
    """Show the last curve's summary, draw it, and end with the code that its verdict asks for."""
    summary = summaries[-1]
    if plot is not None and summary["verdict"] == "failed":
        console.print("[yellow]note:[/yellow] there is no crystal to draw")
    elif plot is not None:
        from cdi_stream.files.plot import plot_result

        title = f"{summary['verdict']}: chi2 {summary['chi2']:.4f}, r_p {summary['r_p']:.4f}"
        plot_result(Path(summary["file"]), plot, title)
    show(summary, as_json)
    if any(s["verdict"] == "failed" or s["missing"] for s in summaries):
        raise typer.Exit(3)
