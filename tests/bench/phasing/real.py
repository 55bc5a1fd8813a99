"""Measured crystals: a whole scan of 34-ID-C and the gold of Chan et al. (2021), by the command; and many starts.

The starts repeat figure 5 of Wu et al. (2021), npj Comput. Mater. 7, 175, on a crystal of the same beamline.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from rich.table import Table

from cdi_stream.files.intensities.read import read_intensities
from cdi_stream.files.intensities.window import window_of
from cdi_stream.interface.phase_counts import MAX_WINDOW
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.numerics.workers import side_by_side
from cdi_stream.phasing.auto import solve
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import run_to_end
from cdi_stream.phasing.projections import reciprocal
from cdi_stream.phasing.recipe import parse_recipe
from cdi_stream.phasing.shells import prtf, resolution, shells
from cdi_stream.phasing.starts import random_starts
from tests.bench.phasing.command import phase
from tests.bench.record import Case, Line, SkippedError, median, plain_table
from tests.bench.volumes import misfits
from tests.conftest import SHARED

BUDGET_S = 60.0
PARTS = {64: [range(k, k + 20) for k in range(0, 100, 20)], 128: [range(k, k + 1) for k in range(5)]}
"""Seeds of the starts at each size, as they are measured."""


def cases() -> Iterator[Case]:
    """Both crystals."""
    for name, make in SOURCES.items():
        yield Case(key=f"real/{name}", measure=partial(by_command, make))


def by_command(make: Callable[[Path], Path]) -> Line:
    """Numbers of the command, and the resolution of what it finds."""
    with tempfile.TemporaryDirectory() as folder:
        file = make(Path(folder))
        return phase(file, "--budget", f"{BUDGET_S:g}") | resolved(file)


def resolved(file: Path) -> Line:
    """Where the PRTF of the automatic method's finalists falls below 1/e; in voxels where no geometry is known."""
    found = read_intensities(file)
    volume = window_of(found, (MAX_WINDOW[3],) * 3).take(found)
    data = measurement_of(volume)
    finalists = solve(data, 1, Deadline(BUDGET_S)).finalists
    over = shells(data.magnitude.shape, None if volume.affine is None else volume.affine.bq)
    curve = prtf(data.magnitude_scale * reciprocal(finalists, data.n_axes), data.magnitude, over, data.valid)
    is_known = volume.affine is not None
    found_at = resolution(curve) * (1e9 if is_known else 1.0)
    limit = 2 * np.pi / float(over.q[over.q.isfinite()].max()) * (1e9 if is_known else 1.0)
    return {
        "finalists": len(finalists),
        "resolution": found_at,
        "resolution_limit": limit,
        "resolution_unit": "nm" if is_known else "voxels",
        "prtf": curve.value.tolist(),
    }


def scan_54(folder: Path | None = None) -> Path:
    """The scan of 34-ID-C, as it was recorded."""
    return _there("34idc_staff20_s54")


def cdinn_au(folder: Path) -> Path:
    """The gold of 3D-CDI-NN; its file holds magnitudes, in units of their own: the faintest counts one."""
    intensity = np.load(_there("cdinn_au/ft_crop_64.npy")).astype(float) ** 2
    file = folder / "counts.npy"
    np.save(file, (intensity / intensity[intensity > 0].min()).astype(np.float32))
    return file


def _there(name: str) -> Path:
    path = SHARED / "data" / name
    if not path.exists():
        raise SkippedError(f"{name} is not there: real data are not part of the project")
    return path


SOURCES: dict[str, Callable[[Path], Path]] = {"scan 54": scan_54, "cdinn_au": cdinn_au}


def start_cases() -> Iterator[Case]:
    """Random starts of the 600-cycle recipe on cuts of the scan about its peak."""
    for n, parts in PARTS.items():
        for seeds in parts:
            yield Case(key=f"real-starts/{n}/{seeds.start}-{seeds.stop - 1}", measure=partial(started, n, seeds))


def started(n: int, seeds: range) -> Line:
    """Chi2 and r_p of each start; half of the starts in each thread."""
    found = read_intensities(scan_54())
    data, recipe = measurement_of(window_of(found, (n, n, n)).take(found)), parse_recipe("wu2021-2d")

    def run_some(some: range) -> tuple[list[float], list[float]]:
        return misfits(run_to_end(recipe, data, random_starts(data, some)), data)

    parts = [seeds[k : k + 5] for k in range(0, len(seeds), 5)]
    done = side_by_side(run_some, parts) if len(parts) > 1 else [run_some(seeds)]
    return {"n": n, "chi2": [v for one in done for v in one[0]], "r_p": [v for one in done for v in one[1]]}


def table(lines: list[Line]) -> Table:
    """Numbers of the command, and the resolution."""
    columns = ("crystal", "chi2", "r_p", "held-out llk", "its floor", "resolution", "verdict", "starts", "wall s")
    result = plain_table("Real crystals", *columns)
    for line in lines:
        fits = (f"{line['chi2']:.4f}", f"{line['r_p']:.4f}")
        held_out = (f"{line['held_out_llk']:.3f}", f"{line['held_out_llk_floor']:.3f}")
        where = f"{line['resolution']:.3g} (limit {line['resolution_limit']:.3g}) {line['resolution_unit']}"
        name = line["key"].removeprefix("real/")
        result.add_row(name, *fits, *held_out, where, line["verdict"], str(line["starts"]), f"{line['wall_s']:.1f}")
    return result


def start_table(lines: list[Line]) -> Table:
    """Mean, spread and histogram over the starts."""
    columns = ("starts", "measure", "mean", "std", "best", "median", "histogram: from, counts in 10 bins, to")
    result = plain_table("Random starts on scan 54", *columns)
    for n in PARTS:
        for name, best in (("chi2", min), ("r_p", max)):
            values = [value for line in lines if line["n"] == n for value in line[name]]
            if values:
                heights, edges = np.histogram(values, bins=10)
                bins = f"{edges[0]:.4f}: {' '.join(map(str, heights))} :{edges[-1]:.4f}"
                numbers = (np.mean(values), np.std(values), best(values), median(values))
                result.add_row(f"{len(values)} at {n}^3", name, *(f"{v:.4f}" for v in numbers), bins)
    return result
