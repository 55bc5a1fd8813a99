"""Commands for geometry, plugins, configuration, export and networks, from ``geometry`` to ``calibrate``."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from cdi_stream import registry
from cdi_stream.cli.device import Device, DeviceOption, require
from cdi_stream.cli.output import JsonOption, NeededConfig, console, print_lines, show
from cdi_stream.errors import InputError, PluginError
from cdi_stream.geometry.circles import readings_of
from cdi_stream.networks.packaged import DEFAULT


def geometry(
    case: Annotated[Path, typer.Argument(help="Configuration (TOML), or geometry case (JSON).")],
    angle: Annotated[
        list[str] | None, typer.Option(help="Angle of a circle, NAME=DEGREES; repeat for each circle.")
    ] = None,
    scan: Annotated[str | None, typer.Option(help="Scanned circle and its step, NAME=DEGREES, or energy=EV.")] = None,
    shape: Annotated[
        str | None, typer.Option(help="Shape FRAMESxROWSxCOLS; default: prepare.max_shape of the configuration.")
    ] = None,
    energy: Annotated[float | None, typer.Option(help="Photon energy in eV.", min=1)] = None,
    distance: Annotated[float | None, typer.Option(help="Detector distance in m.", min=1e-3)] = None,
    pixel: Annotated[float | None, typer.Option(help="Pixel size in m.", min=1e-9)] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute 2 theta, Q, d-spacing and voxel size of a configuration, with a sketch; or solve a geometry case."""
    if case.suffix != ".toml":
        from cdi_stream.geometry.case import solve_case

        show(solve_case(case), as_json)
        return
    from cdi_stream.config import read_config
    from cdi_stream.config.geometry_report import Place, in_words, report, sketch

    config = read_config(case)
    place = Place(
        shape=config.prepare.max_shape if shape is None else _shape(shape),
        angles_deg=dict(_pair("--angle", text) for text in angle or ()),
        scan=None if scan is None else _pair("--scan", scan),
        photon_energy_ev=energy,
        distance_m=distance,
        pixel_m=pixel,
    )
    lines = sketch(config.geometry.value())
    if not as_json:
        print_lines(lines)
    numbers = report(config.geometry, place)
    show(numbers | {"sketch": lines} if as_json else in_words(numbers), as_json)


def keys(
    folder: Annotated[Path, typer.Argument(help="Folder for the keys; it is made if it is missing.")],
    as_json: JsonOption = False,
) -> None:
    """Make keys for a document proxy with CurveZMQ and for its clients, among them the service."""
    from cdi_stream.documents.curve import make_keys

    names = ("server_public", "server_secret", "client_public", "client_secret")
    files = dict(zip(names, map(str, make_keys(folder)), strict=True))
    show(files, as_json)
    if not as_json:
        console.print(
            "The proxy gets server_secret and the folder of client_public; the service gets client_secret and "
            "server_public as documents.curve_secret and documents.curve_server; a profile gets the same two files."
        )


def _pair(option: str, text: str) -> tuple[str, float]:
    """Return name and number of a text NAME=NUMBER."""
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not name or not math.isfinite(value):
        raise InputError(f"{option}: expected NAME=NUMBER, such as theta=0.004, got {text!r}")
    return name, value


def _shape(text: str) -> tuple[int, int, int]:
    """Return the shape of a text FRAMESxROWSxCOLS."""
    if re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5}){2}", text) is None:
        raise InputError(f"--shape: expected FRAMESxROWSxCOLS, such as 64x128x128, got {text!r}")
    frames, rows, cols = map(int, text.split("x"))
    return frames, rows, cols


def plugins(as_json: JsonOption = False) -> None:
    """List the installed plugins by group, and the motor names that each beamline reads."""
    names: dict[str, Any] = {
        group.removeprefix("cdi_stream."): list(registry.names(group)) for group in registry.GROUPS
    }
    names["readings"] = {name: _readings(name) for name in names["beamline"]}
    show(names, as_json)


def _readings(beamline: str) -> dict[str, list[str]] | str:
    """Return the names that a beamline reads, or the error of a broken plugin."""
    try:
        return readings_of(registry.load("cdi_stream.beamline", beamline))
    except PluginError as error:
        return str(error)


def check(config: NeededConfig, as_json: JsonOption = False) -> None:
    """Check a configuration: plugins, files, endpoints, Tiled and geometry; report each problem with its remedy."""
    from cdi_stream.config import read_config
    from cdi_stream.config.geometry_report import sketch
    from cdi_stream.live.check import check_config

    settings = read_config(config)
    findings = check_config(settings)
    if not as_json:
        print_lines(sketch(settings.geometry.value()))
    if as_json:
        show({"ok": all(f.is_ok for f in findings), "checks": [f.as_dict() for f in findings]}, as_json)
    else:
        show({f.name: ("ok: " if f.is_ok else "PROBLEM: ") + f.text for f in findings}, as_json)
    if not all(finding.is_ok for finding in findings):
        raise typer.Exit(2)


def export(
    source: Annotated[Path, typer.Argument(help="Result file of cdi-stream, or checkpoint folder of a training.")],
    target: Annotated[
        Path,
        typer.Argument(help="File to write: .cxi (silx, PyNX, cdiutils) or .vti (ParaView); .pt for a network."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Export a crystal for other programs, with lab axes and voxel size, or the network of a training."""
    if source.is_dir():
        from cdi_stream.training.run import export_training

        export_training(source, target)
    else:
        from cdi_stream.files.exports import export_result

        export_result(source, target)
    show({"file": str(target.resolve())}, as_json)


def train(
    out: Annotated[Path, typer.Option("--out", help="Network file to write.")],
    name: Annotated[
        str,
        typer.Argument(
            help="Network: unrolled, wu2021, wu2021-small, wu2021-2d, chan2021, chan2021-small, masto2025 "
            "or masto2025-small."
        ),
    ] = DEFAULT,
    minutes: Annotated[
        float,
        typer.Option(help="Time limit of the training, in minutes; it holds with --steps, --resume too.", min=0.01),
    ] = 20.0,
    steps: Annotated[
        int | None, typer.Option(help="Number of training steps; default: as many as --minutes allows.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulated crystals.", min=0)] = 1,
    crystals: Annotated[
        Path | None,
        typer.Option(help="File of crystals made by 'cdi-stream atoms', to train on instead of simulated shapes."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="Network (file or name) whose weights are fine-tuned by the last stage."),
    ] = None,
    device: DeviceOption = Device.CPU,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint.")] = False,
) -> None:
    """Train a network on simulated crystals and export it."""
    from cdi_stream.networks.packaged import network_file
    from cdi_stream.training.run import train as run

    require(device)

    def report(line: str) -> None:
        """Print one line of the training log."""
        console.print(line, highlight=False)

    run(
        name,
        out,
        minutes=minutes,
        steps=steps,
        seed=seed,
        device=device,
        is_resumed=resume,
        report=report,
        crystals=crystals,
        start=None if start is None else network_file(start),
    )


def calibrate(
    network: Annotated[Path, typer.Argument(help="Network file; its contract is updated.")],
    count: Annotated[int, typer.Option(help="Number of simulated crystals.", min=100)] = 400,
    device: DeviceOption = Device.CPU,
    as_json: JsonOption = False,
) -> None:
    """Determine at which agreement of its answers a network is reliable, and write that into its file."""
    from cdi_stream.training.calibration import calibrate as run

    require(device)
    limit = run(network, count, device).sure_from
    show({"file": str(network.resolve()), "sure_from": "never" if limit is None and not as_json else limit}, as_json)


def atoms(
    out: Annotated[Path, typer.Option("--out", help="HDF5 file for the crystals; an existing file is continued.")],
    count: Annotated[int, typer.Option(help="Number of crystals in the file.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the crystals.", min=0)] = 1,
) -> None:
    """Simulate gold crystals for training atom by atom, relaxed by LAMMPS."""
    from cdi_stream.training.atom_sets import write_set

    write_set(out, count, seed)
