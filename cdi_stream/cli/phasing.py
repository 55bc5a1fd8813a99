"""The command ``phase``: phase retrieval of a file."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cdi_stream.cli.device import Device, DeviceOption, require
from cdi_stream.cli.output import JsonOption, PlotOption, budget_bar, show
from cdi_stream.networks.packaged import DEFAULT

BEGIN_S = time.monotonic() - time.process_time()
"""Start of the command on the monotonic clock [s]; the imports before this line count in the time limit."""

ORDER = (
    "verdict", "reasons", "chi2_cleaned", "chi2_floor", "r_p_cleaned", "chi2", "r_p", "agreement", "amplitude_spread",
    "support_fraction", "support_over_box", "size_lab_nm", "voxel_size_nm", "voxel_size_lab_nm", "resolution_m",
    "resolution_vox", "method", "starts", "cycles", "ms_per_cycle", "seconds", "file",
)  # fmt: skip
"""Names that the table shows, in this order; the JSON output holds all names."""


class Method(StrEnum):
    """Methods of phase retrieval."""

    AUTO = "auto"
    RECIPE = "recipe"
    OBJECT = "object"
    NETWORK = "network"
    HYBRID = "hybrid"


FileArgument = Annotated[
    Path,
    typer.Argument(
        help="Intensities, 2D or 3D: npy, npz (arrays data and mask), CXI, TIFF (a file, or a folder of numbered "
        "files), a scan recorded by cdi-stream, a BLISS file of ID01, or a SPEC scan of 34-ID-C."
    ),
]
StartsOption = Annotated[
    int,
    typer.Option(
        help="Number of random starts (method recipe), or of mirrored network answers, at most 8 (method hybrid).",
        min=1,
        max=10_000,
    ),
]
CleaningOption = Annotated[
    bool, typer.Option("--cleaning/--no-cleaning", help="Mask hot voxels and alien peaks of other grains.")
]
GeometryOption = Annotated[
    Path | None, typer.Option(help="Configuration (TOML) whose geometry replaces that of the scan.")
]
ObjectOption = Annotated[
    Path | None,
    typer.Option(help="File for the object (npz).  [default: NAME_object.npz here; existing files are kept]"),
]
BudgetOption = Annotated[float, typer.Option(help="Time limit for the whole command, in seconds.", min=1.0, max=1e6)]


def phase(
    file: FileArgument,
    method: Annotated[Method, typer.Option(help="Method; auto is the recommended one.")] = Method.AUTO,
    recipe: Annotated[
        str, typer.Option(help="Schedule of projections, or the name of one (methods recipe, hybrid).")
    ] = "wu2021-2d",
    starts: StartsOption = 1,
    seed: Annotated[int, typer.Option(help="Seed of the random starts.", min=0, max=2**32 - 1)] = 1,
    budget: BudgetOption = 60.0,
    scan: Annotated[
        str | None,
        typer.Option(help="Number or name of the scan, such as 54 or 20.1, if the file or folder holds several."),
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Mask file: true or 1 = use the voxel (CXI: 0 = good).")] = None,
    cleaning: CleaningOption = True,
    config: GeometryOption = None,
    device: DeviceOption = Device.CPU,
    out: ObjectOption = None,
    plot: PlotOption = None,
    network: Annotated[str, typer.Option(help="Network file, or name of a packaged network.")] = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Reconstruct the crystal from a file of intensities; report its misfit and how reliable it is."""
    from cdi_stream.interface.phase_counts import method_settings
    from cdi_stream.interface.phase_file import Request, phase_file
    from cdi_stream.interface.placement import configured_placement
    from cdi_stream.phasing.deadline import Deadline
    from cdi_stream.phasing.recipe import parse_recipe

    parse_recipe(recipe)  # a wrong recipe is refused before the file is read
    require(device)
    settings = method_settings(recipe=recipe, network=network, starts=starts, seed=seed, budget_s=budget)
    deadline = Deadline(budget, begin_s=BEGIN_S)
    with budget_bar(lambda: deadline.passed_s, budget) as report:
        request = Request(
            file=file,
            mask=mask,
            method=method,
            settings=settings,
            deadline=deadline,
            scan=scan,
            device=device,
            out=out,
            plot=plot,
            cleans=cleaning,
            placement=None if config is None else configured_placement(config),
            report=report,
        )
        result = phase_file(request)
    is_cleaned = result["chi2"] != result["chi2_cleaned"]
    show(result, as_json, [name for name in ORDER if is_cleaned or not name.endswith("_cleaned")])
    if result["verdict"] == "failed":
        raise typer.Exit(3)
