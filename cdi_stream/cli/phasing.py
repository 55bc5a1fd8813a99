"""Command that phases a file: ``phase``."""

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
"""When the command was started: its imports, all the work until here, count in the budget."""

ORDER = (
    "verdict", "reasons", "chi2_cleaned", "chi2_floor", "r_p_cleaned", "chi2", "r_p", "agreement", "amplitude_spread",
    "support_fraction", "support_over_box", "size_lab_nm", "voxel_size_nm", "voxel_size_lab_nm", "resolution_m",
    "resolution_vox", "method", "starts", "cycles", "ms_per_cycle", "seconds", "file",
)  # fmt: skip
"""What people are shown, in this order; the rest is in the JSON."""


class Method(StrEnum):
    """Ways to phase."""

    AUTO = "auto"
    RECIPE = "recipe"
    OBJECT = "object"
    NETWORK = "network"
    HYBRID = "hybrid"


FileArgument = Annotated[
    Path,
    typer.Argument(
        help="Intensities, 2D or 3D: npy, npz (data, mask), CXI, TIFF (one file, or a folder of numbered ones), "
        "our own scan file, or a folder of 34-ID-C."
    ),
]
StartsOption = Annotated[
    int,
    typer.Option(
        help="Random starts of recipe; answers to mirror images, eight at most, of hybrid.", min=1, max=10_000
    ),
]
CleaningOption = Annotated[
    bool, typer.Option("--cleaning/--no-cleaning", help="Mask hot voxels and islands of other grains.")
]
GeometryOption = Annotated[
    Path | None, typer.Option(help="Configuration of the service, in TOML: its geometry places a scan's frames.")
]
ObjectOption = Annotated[
    Path | None,
    typer.Option(help="File for the object, npz.  [default: NAME_object.npz in this folder, never an old one]"),
]
BudgetOption = Annotated[float, typer.Option(help="Seconds of wall time, for the whole command.", min=1.0, max=1e6)]


def phase(
    file: FileArgument,
    method: Annotated[Method, typer.Option(help="auto is the one we stand behind.")] = Method.AUTO,
    recipe: Annotated[str, typer.Option(help="Recipe, or the name of one.")] = "wu2021-2d",
    starts: StartsOption = 1,
    seed: Annotated[int, typer.Option(help="Seed of the random starts.", min=0, max=2**32 - 1)] = 1,
    budget: BudgetOption = 60.0,
    scan: Annotated[int | None, typer.Option(help="Which scan of a file or folder that holds several.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Mask: true or 1 = use (CXI: 0 = good).")] = None,
    cleaning: CleaningOption = True,
    config: GeometryOption = None,
    device: DeviceOption = Device.CPU,
    out: ObjectOption = None,
    plot: PlotOption = None,
    network: Annotated[str, typer.Option(help="Network file, or the name of a packaged one.")] = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Phase the intensities of a file: the crystal, its misfit, and how far to trust it."""
    from cdi_stream.interface.phase_counts import method_settings
    from cdi_stream.interface.phase_file import Request, phase_file
    from cdi_stream.interface.placement import configured_placement
    from cdi_stream.phasing.deadline import Deadline
    from cdi_stream.phasing.recipe import parse_recipe

    parse_recipe(recipe)  # refused now, not when the file is read
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
