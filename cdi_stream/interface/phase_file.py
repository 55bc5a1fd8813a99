"""The command ``phase``: intensities of one file in, the object on the file's grid out, with its verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cdi_stream.files.intensities.objects import free_name, require_npz, require_writable, write_object
from cdi_stream.files.intensities.read import read_intensities
from cdi_stream.files.intensities.scans import Placement
from cdi_stream.files.plot import Picture, lab_picture, plot, require_matplotlib, voxel_picture
from cdi_stream.interface.phase_counts import PhasedCounts, PhaseOptions, phase_counts
from cdi_stream.inversion.describe import box_vox
from cdi_stream.inversion.methods import MethodSettings
from cdi_stream.phasing.deadline import Deadline

DRAWING_S = 2.0
"""Time [s] that a picture may take, on a busy machine."""

PHASED = (
    *("chi2", "r_p", "chi2_floor", "free_llk", "free_llk_floor", "amplitude_spread", "support_fraction"),
    *("support_over_box", "agreement", "first_mode", "resolution_m", "resolution_vox", "bootstrap_nmse"),
    *("blur_frame_vox", "blur_row_vox", "blur_col_vox"),
    *("coherence_lab_x_nm", "coherence_lab_y_nm", "coherence_lab_z_nm", "coherence_error"),
    *("uneven_steps", "dark_share", "background_share", "is_truncated", "starts", "cycles"),
)
"""Metrics that the command prints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """File, method, time limit and outputs of one phasing.

    Parameters
    ----------
    file, mask, scan
        Intensities, a further mask, and which scan of several.
    method, settings, device
        How to phase, and where to compute.
    deadline
        Time for all of it, reading and drawing included.
    out
        File for the object, npz; None takes the first free name in the current folder.
    plot
        Picture to draw.
    cleans
        Whether hot voxels and islands of other grains are masked.
    placement
        Geometry of a scan, instead of its own.
    report
        Function that is called with a line of text at each stage.
    """

    file: Path
    mask: Path | None
    method: str
    settings: MethodSettings
    deadline: Deadline
    scan: int | str | None = None
    device: str = "cpu"
    out: Path | None = None
    plot: Path | None = None
    cleans: bool = True
    placement: Placement | None = None
    report: Callable[[str], None] = lambda line: None


def phase_file(request: Request) -> dict[str, Any]:
    """Phase one file; write its object and draw it; return the numbers of the command's last line.

    Raises
    ------
    InputError
        If file, mask, recipe or outputs cannot be used.
    """
    out = _writable_out(request)
    request.report(f"reading {request.file.name}")
    intensities = read_intensities(
        request.file, request.mask, request.scan, cleans=request.cleans, placement=request.placement
    )
    options = PhaseOptions(
        method=request.method,
        settings=request.settings,
        deadline=request.deadline,
        device=request.device,
        picture_s=0.0 if request.plot is None else DRAWING_S,
        report=request.report,
    )
    phased = phase_counts(intensities, options)
    request.report(f"writing {out.name}")
    write_object(out, phased.density, phased.density_support, phased.lab)
    numbers = _numbers(phased, request) | phased.misfit | _sizes(phased)
    if request.plot is not None:
        request.report(f"drawing {request.plot.name}")
        title = f"{phased.verdict.grade}: chi2 {numbers['chi2_cleaned']:.2g}, r_p {phased.metrics.r_p:.4f}"
        plot(_picture(phased), request.plot, title)
    return numbers | {"seconds": request.deadline.passed_s, "file": str(out.resolve())}


def _writable_out(request: Request) -> Path:
    """Return the file of the object; raises `ConfigError` if the file or the picture cannot be written."""
    if request.plot is not None:
        require_matplotlib()
        require_writable(request.plot, "--plot")
    if request.out is not None:
        require_npz(request.out)
    stem = request.file.resolve().stem if request.file.is_file() else request.file.resolve().name
    out = request.out or free_name(Path.cwd(), stem)
    require_writable(out)
    return out


def _numbers(phased: PhasedCounts, request: Request) -> dict[str, Any]:
    """Return numbers of the solution, the verdict, and the effort, by the names of the JSON output."""
    held_out = {"free_llk", "free_llk_floor"}
    effort = phased.solution.effort
    return {
        **{f"held_out_{name[5:]}" if name in held_out else name: getattr(phased.metrics, name) for name in PHASED},
        "verdict": phased.verdict.grade,
        "reasons": phased.reasons,
        "ms_per_cycle": 1e3 * phased.phasing_s / max(effort.cycles, 1),
        "method": request.method,
        "recipe": effort.recipe,
        "seed": request.settings.seed,
        "device": request.device,
    }


def _sizes(phased: PhasedCounts) -> dict[str, Any]:
    """Return the sides of a voxel on the file's grid and on the lab grid, and the crystal's box in the lab [nm]."""
    affine, lab = phased.intensities.affine, phased.lab
    if affine is None or lab is None:
        return {"voxel_size_nm": None, "voxel_size_lab_nm": None, "size_lab_nm": None}
    lab_nm = float(np.linalg.norm(lab.affine.br[:, 0])) * 1e9
    return {
        "voxel_size_nm": (np.linalg.norm(affine.br, axis=0) * 1e9).tolist(),
        "voxel_size_lab_nm": lab_nm,
        "size_lab_nm": (box_vox(np.abs(lab.density))[::-1] * lab_nm).tolist(),
    }


def _picture(phased: PhasedCounts) -> Picture:
    """Return the picture of the crystal in lab axes, or in the working array where the geometry is unknown."""
    if phased.lab is not None:
        return lab_picture(phased.lab.density, float(np.linalg.norm(phased.lab.affine.br[:, 0])))
    return voxel_picture(phased.crystal.cpu().numpy(), phased.intensities.axes)
