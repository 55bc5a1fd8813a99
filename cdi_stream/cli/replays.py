"""Commands that replay data: ``demo`` and ``replay`` through a simulated beamline, ``play`` of a message log."""

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
    case: Annotated[str, typer.Option(help="Name of the simulated scan.")] = "demo",
    speed: SpeedOption = "max",
    out: OutOption = None,
    plot: PlotOption = None,
    config: SettingsOption = None,
    curves: Annotated[int, typer.Option(help="Number of rocking curves in the run.", min=1)] = 1,
    beamline_only: RunningOption = False,
    as_json: JsonOption = False,
) -> None:
    """Simulate a scan, run it through the live service, and compare the crystal with the truth."""
    from cdi_stream.processes import run_module
    from cdi_stream.replay.play import results_folder

    _require_usable(speed, config, beamline_only, plot)
    with results_folder(_folder(out)) as directory:
        with console.status("computing the diffraction of the simulated crystal (kept for the next time)"):
            run_module("sim_beamline", "simulate", "--case", case, "--out", str(directory / "scan.h5"))
        summaries = _play(directory / "scan.h5", directory, speed, config, beamline_only, curves)
        finish([compare(summary, case) for summary in summaries], plot, as_json)


def replay(
    scan: Annotated[
        Path,
        typer.Argument(help="Recorded scan: HDF5 file of cdi-stream or of BLISS, or SPEC file or folder of 34-ID-C."),
    ],
    number: Annotated[
        str | None,
        typer.Option("--scan", help="Number or name of the scan, such as 54 or 20.1, if the recording holds several."),
    ] = None,
    speed: SpeedOption = "max",
    out: OutOption = None,
    plot: PlotOption = None,
    config: SettingsOption = None,
    beamline_only: RunningOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a recorded scan through a simulated beamline and the live service."""
    from cdi_stream.files.recorded_scan import read_recorded
    from cdi_stream.files.recording import write_scan
    from cdi_stream.replay.play import results_folder

    _require_usable(speed, config, beamline_only, plot)
    recorded_scan = read_recorded(scan, number)
    for word, texts in (("note", recorded_scan.notes), ("doubt", recorded_scan.doubts)):
        for text in texts:
            console.print(f"[yellow]{word}:[/yellow] {escape(text)}", highlight=False)
    with results_folder(_folder(out)) as directory:
        write_scan(recorded_scan, directory / "scan.h5")
        summaries = _play(directory / "scan.h5", directory, speed, config, beamline_only, 1)
        if recorded_scan.truth is not None:
            summaries = [compare(summary, str(recorded_scan.truth["case"])) for summary in summaries]
        finish(summaries, plot, as_json)


def play(
    log: Annotated[Path, typer.Argument(help="Message log written by 'record --raw'.")],
    endpoint: Annotated[str, typer.Argument(help="Address to which messages are sent, tcp://host:port.")],
    socket: Annotated[str, typer.Option("--socket", help="Kind of ZeroMQ socket: push or pub.")] = "push",
    connect: Annotated[
        bool, typer.Option("--connect/--bind", help="Connect to the receiver, or bind as a detector does.")
    ] = False,
    speed: SpeedOption = "max",
    as_json: JsonOption = False,
) -> None:
    """Send the detector messages of a log again, byte for byte."""
    from cdi_stream.stream.playback import play_log

    if socket not in ("push", "pub"):
        raise InputError(f"--socket: expected push or pub, got {socket!r}")
    show(play_log(log, endpoint, kind=socket, bind=not connect, speed=_factor(speed)), as_json)  # type: ignore[arg-type]


def _require_usable(speed: str, config: Path | None, beamline_only: bool, plot: Path | None) -> None:
    """Check all options before the replay starts; raises `InputError`."""
    from cdi_stream.config import read_config

    _factor(speed)
    if beamline_only and config is None:
        raise InputError("--beamline-only: expected --config with the configuration of the running service, got none")
    if config is not None:
        read_config(config)
    if plot is not None and not plot.resolve().parent.is_dir():
        raise InputError(
            f"--plot {plot}: expected a file in an existing folder, but {plot.resolve().parent} does not exist; make it"
        )


def _folder(out: Path | None) -> Path:
    return out or Path(tempfile.mkdtemp(prefix="cdi-stream-"))


def _play(
    scan_file: Path, directory: Path, speed: str, config: Path | None, beamline_only: bool, curves: int
) -> list[dict[str, Any]]:
    from cdi_stream.files.recording import read_scan
    from cdi_stream.replay.play import replay as run_replay
    from cdi_stream.replay.results import Progress as ReplayProgress

    n_points = len(read_scan(scan_file).frames) * curves
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("starting", total=n_points)

        def report(progress: ReplayProgress) -> None:
            """Show the number of points and the newest stream in the progress bar."""
            stage = progress.streams[-1] if progress.streams else "scan"
            bar.update(task, completed=progress.n_points, description=stage)

        return run_replay(
            scan_file,
            directory,
            speed=speed,
            config_file=config,
            is_service_running=beamline_only,
            n_curves=curves,
            report=report,
        )


def compare(summary: dict[str, Any], case: str) -> dict[str, Any]:
    """Return a summary with the distance to the simulated crystal added; None where there is no crystal."""
    from cdi_stream.processes import run_module

    return summary | run_module("sim_beamline", "compare", "--case", case, "--file", summary["file"])


def _factor(speed: str) -> float | None:
    """Return the factor of a speed; None for ``max``, which means without pauses."""
    if speed == "max":
        return None
    try:
        factor = float(speed)
    except ValueError:
        factor = 0.0
    if not factor > 0:
        raise InputError(f"--speed: expected 1, 10 or another factor, or max, got {speed!r}")
    return factor


def finish(summaries: list[dict[str, Any]], plot: Path | None, as_json: bool) -> None:
    """Show the last curve's summary, draw its crystal, and exit with code 3 if a curve failed or lacks frames."""
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
