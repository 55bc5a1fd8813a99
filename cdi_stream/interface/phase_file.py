"""The command ``phase``: intensities of one file in, the object on the file's grid out, with how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdi_stream.files.intensities.objects import (
    LabObject,
    free_name,
    lab_object,
    require_npz,
    require_writable,
    write_object,
)
from cdi_stream.files.intensities.read import read_intensities
from cdi_stream.files.intensities.scans import Placement
from cdi_stream.files.intensities.volume import Bools, Intensities, in_counts
from cdi_stream.files.intensities.window import Window, WorkingVolume, window_of
from cdi_stream.files.plot import Picture, lab_picture, plot, require_matplotlib, voxel_picture
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.inversion.describe import box_vox
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.inversion.methods import METHODS, MethodSettings, Problem
from cdi_stream.messages import PreparedVolume, Verdict, read_only
from cdi_stream.metrics import Metrics
from cdi_stream.numerics.fourier import from_fourier_order, to_reciprocal
from cdi_stream.phasing.autocorrelation import oversampling, weights
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.judge import judge
from cdi_stream.phasing.measures import chi2, poisson_llk, r_p
from cdi_stream.phasing.ranking import Solution, metrics_of

MAX_WINDOW = {2: 2048, 3: 160}
"""Longest axis [voxels] that is phased, by the number of axes; what lies beyond is cropped about the peak."""

DRAWING_S = 2.0
"""Time [s] that a picture may take, on a busy machine."""

PHASED = (
    *("chi2", "r_p", "chi2_floor", "free_llk", "free_llk_floor", "amplitude_spread", "support_fraction"),
    *("support_over_box", "agreement", "first_mode", "resolution_m", "resolution_vox", "bootstrap_nmse"),
    *("is_truncated", "starts", "cycles"),
)
"""Metrics that the command prints."""

_VOXEL_M = 1e-9
"""Voxel size that stands for an unknown one, so that a network can be asked; nothing that is published has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to phase, how, and within what time.

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
        Is told what is being done.
    """

    file: Path
    mask: Path | None
    method: str
    settings: MethodSettings
    deadline: Deadline
    scan: int | None = None
    device: str = "cpu"
    out: Path | None = None
    plot: Path | None = None
    cleans: bool = True
    placement: Placement | None = None
    report: Callable[[str], None] = lambda line: None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Phased:
    """A solution in the working frame, origin at N//2, and what it was made from."""

    found: Intensities
    window: Window
    volume: WorkingVolume
    solution: Solution
    metrics: Metrics
    verdict: Verdict
    phasing_s: float

    @property
    def crystal(self) -> Tensor:
        """The crystal about its own peak."""
        return from_fourier_order(self.solution.crystal)

    @property
    def support(self) -> Tensor:
        """Its support."""
        return from_fourier_order(self.solution.support)


def phase_file(request: Request) -> dict[str, Any]:
    """Phase one file; write its object and draw it; return the numbers of the command's last line.

    Raises
    ------
    InputError
        If file, mask, recipe or outputs cannot be used.
    """
    out = _writable_out(request)
    request.report(f"reading {request.file.name}")
    found = in_counts(
        read_intensities(request.file, request.mask, request.scan, cleans=request.cleans, placement=request.placement)
    )
    phased = _phased(found, request)
    request.report(f"writing {out.name}")
    on_file = phased.window.undo(phased.crystal)
    affine = phased.volume.affine
    lab = None if affine is None else lab_object(phased.crystal, phased.support, affine)
    write_object(out, on_file, phased.window.undo_support(phased.support), lab)
    numbers = _numbers(phased, request) | _misfit_of_file(on_file, found) | _sizes(found, lab)
    if request.plot is not None:
        request.report(f"drawing {request.plot.name}")
        title = f"{phased.verdict.grade}: chi2 {numbers['chi2_cleaned']:.2g}, r_p {phased.metrics.r_p:.4f}"
        plot(_picture(phased, lab), request.plot, title)
    return numbers | {"seconds": request.deadline.passed_s, "file": str(out.resolve())}


def _writable_out(request: Request) -> Path:
    """Where the object goes; refused before the work if it, or the picture, cannot be written after it."""
    if request.plot is not None:
        require_matplotlib()
        require_writable(request.plot, "--plot")
    if request.out is not None:
        require_npz(request.out)
    stem = request.file.resolve().stem if request.file.is_file() else request.file.resolve().name
    out = request.out or free_name(Path.cwd(), stem)
    require_writable(out)
    return out


def _phased(found: Intensities, request: Request) -> _Phased:
    """Phase intensities in the working frame, and judge the crystal by the voxels that were phased."""
    window = window_of(found, (MAX_WINDOW[found.counts.ndim],) * found.counts.ndim)
    volume = window.take(found, request.device)
    data = measurement_of(volume)
    began_s = request.deadline.passed_s
    deadline = request.deadline.part(1 - _reserve_s(request, found) / request.deadline.budget_s)
    request.report(f"phasing {' x '.join(map(str, window.shape))} voxels by {request.method}")
    problem = Problem(
        data=data,
        settings=request.settings,
        deadline=deadline,
        volume=_asked_for(volume, request),
        report=request.report,
    )
    solution = METHODS[request.method](problem)
    phasing_s = request.deadline.passed_s - began_s
    metrics = metrics_of(solution, data, None if volume.affine is None else volume.affine.bq)
    return _Phased(
        found=found,
        window=window,
        volume=volume,
        solution=solution,
        metrics=metrics,
        verdict=judge(metrics, found.doubts),
        phasing_s=phasing_s,
    )


def _numbers(phased: _Phased, request: Request) -> dict[str, Any]:
    """What is known of the solution, the verdict, and what it took."""
    held_out = {"free_llk", "free_llk_floor"}
    effort = phased.solution.effort
    return {
        **{f"held_out_{name[5:]}" if name in held_out else name: getattr(phased.metrics, name) for name in PHASED},
        "verdict": phased.verdict.grade,
        "reasons": [*phased.verdict.reasons, *phased.found.notes, *_left_out(phased.found, phased.volume)],
        "ms_per_cycle": 1e3 * phased.phasing_s / max(effort.cycles, 1),
        "method": request.method,
        "recipe": effort.recipe,
        "seed": request.settings.seed,
        "device": request.device,
    }


def _sizes(found: Intensities, lab: LabObject | None) -> dict[str, Any]:
    """Sides of a voxel of the object on the file's grid and on the lab grid, and the crystal's lab box [nm]."""
    if found.affine is None or lab is None:
        return {"voxel_size_nm": None, "voxel_size_lab_nm": None, "size_lab_nm": None}
    lab_nm = float(np.linalg.norm(lab.affine.br[:, 0])) * 1e9
    return {
        "voxel_size_nm": (np.linalg.norm(found.affine.br, axis=0) * 1e9).tolist(),
        "voxel_size_lab_nm": lab_nm,
        "size_lab_nm": (box_vox(np.abs(lab.density))[::-1] * lab_nm).tolist(),
    }


def _picture(phased: _Phased, lab: LabObject | None) -> Picture:
    """The crystal in lab axes where the geometry is known, else as it was phased."""
    if lab is not None:
        return lab_picture(lab.density, float(np.linalg.norm(lab.affine.br[:, 0])))
    return voxel_picture(phased.crystal.cpu().numpy(), phased.found.axes)


def _left_out(found: Intensities, volume: WorkingVolume) -> tuple[str, ...]:
    """Say so if the working array does not hold all counts of the file."""
    total = float(found.counts[found.valid_pixels].sum(dtype=np.float64))
    share = 1 - float(volume.counts[volume.valid_pixels].sum(dtype=torch.float64)) / max(total, 1e-30)
    if share < 1e-6:
        return ()
    shape = " x ".join(map(str, volume.counts.shape))
    return (
        f"{share:.1%} of the counts lie outside of the {shape} voxels that were phased: the object is blind to them",
    )


def _reserve_s(request: Request, found: Intensities) -> float:
    """Time to keep for the way back, the file and the picture: half of all at most, 0.7 with a picture.

    Of large files the way back takes as long as reading did.
    """
    budget_s, is_large = request.deadline.budget_s, found.counts.size > 1_000_000
    wanted_s = 1.2 + 0.05 * budget_s + (request.deadline.passed_s if is_large else 0.0)
    if request.plot is None:
        return min(0.5 * budget_s, wanted_s)
    return min(0.7 * budget_s, wanted_s + DRAWING_S)


def _misfit_of_file(density: Tensor, found: Intensities) -> dict[str, float]:
    """Misfit of an object over all voxels that its file takes for valid, with one fitted scale.

    ``chi2_cleaned`` and ``r_p_cleaned`` are over those that cleaning left, which the object was made to explain.
    """
    counts = torch.from_numpy(found.counts.astype(np.float32)).to(density.device)
    gain = 1.0 if found.expected_scale is None else torch.from_numpy(np.sqrt(found.expected_scale)).to(density.device)
    model = gain * to_reciprocal(density, density.ndim).abs()
    whole = _misfit(model, counts, found.own_valid_pixels)
    is_cleaned = found.blemishes is not None and bool(found.blemishes.any())
    cleaned = _misfit(model, counts, found.valid_pixels) if is_cleaned else whole
    return {**whole, "free_llk": _llk(model, counts, found.own_valid_pixels)} | {
        f"{name}_cleaned": value for name, value in cleaned.items()
    }


def _misfit(model: Tensor, counts: Tensor, valid_pixels: Bools) -> dict[str, float]:
    valid = torch.from_numpy(np.array(valid_pixels)).to(model.device)
    model, magnitude = model[valid], counts[valid].sqrt()
    return {"chi2": float(chi2(model, magnitude)), "r_p": float(r_p(model, magnitude))}


def _llk(model: Tensor, counts: Tensor, valid_pixels: Bools) -> float:
    valid = torch.from_numpy(np.array(valid_pixels)).to(model.device)
    expected, counts = model[valid].square().double(), counts[valid]
    return float(poisson_llk(expected * (counts.double().sum() / expected.sum().clamp_min(1e-30)), counts))


def _asked_for(volume: WorkingVolume, request: Request) -> PreparedVolume | None:
    has_network = volume.counts.ndim == 3 and request.method in ("network", "hybrid")
    return prepared(volume) if has_network else None


def prepared(volume: WorkingVolume) -> PreparedVolume:
    """The volume as a network's way in takes it; a file without geometry is taken for one with cubic voxels."""
    first, second, third = volume.counts.shape
    affine = volume.affine or AffineMap(
        shape=(first, second, third),
        q0=np.array([0.0, 0.0, 1e10]),
        bq=np.fliplr(np.diag([2 * math.pi / (n * _VOXEL_M) for n in (third, second, first)])),
        sample_to_lab=np.eye(3),
        coordinates="detector",
    )
    ratios = oversampling(volume.counts, weights(volume.valid_pixels, volume.expected_scale))
    extents = np.linalg.norm(affine.br, axis=0) * np.array(affine.shape) / np.array(ratios)
    return PreparedVolume(
        counts=read_only(volume.counts.cpu().numpy()),
        valid_pixels=read_only(volume.valid_pixels.cpu().numpy()),
        expected_scale=read_only(volume.expected_scale.cpu().numpy()),
        affine=affine,
        crystal_extent_m=(float(extents[0]), float(extents[1]), float(extents[2])),
        oversampling=(ratios[0], ratios[1], ratios[2]),
    )
