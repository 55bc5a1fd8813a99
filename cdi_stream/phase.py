"""The command ``phase``: intensities of one file in, the object on the file's grid out, with how far to trust it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdi_stream.affine import AffineMap
from cdi_stream.fourier import from_fourier_order, to_reciprocal
from cdi_stream.intensities.objects import lab_object, require_writable, write_object
from cdi_stream.intensities.read import read_intensities
from cdi_stream.intensities.volume import Bools, Intensities, in_counts
from cdi_stream.intensities.window import WorkingVolume, window_of
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.messages import PreparedVolume, read_only
from cdi_stream.phasing.autocorrelation import oversampling, weights
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.measures import chi2, poisson_llk, r_p
from cdi_stream.phasing.quality import judge
from cdi_stream.phasing.ranking import scalars_of
from cdi_stream.refine.methods import METHODS, MethodSettings, Problem

MAX_WINDOW = {2: 2048, 3: 160}
"""Longest axis [voxels] that is phased, by the number of axes; what lies beyond is cropped about the peak."""

_VOXEL_M = 1e-9
"""Voxel size that stands for an unknown one, so that a network can be asked; nothing that is published has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to phase, how, and within what time."""

    file: Path
    mask: Path | None
    method: str
    settings: MethodSettings
    deadline: Deadline
    scan: int | None = None
    device: str = "cpu"
    out: Path | None = None
    cleans: bool = True


def phase_file(request: Request) -> dict[str, Any]:
    """Phase one file; write its object if asked to; return the numbers of the command's last line.

    Raises
    ------
    InputError
        If file, mask or recipe cannot be used.
    """
    if request.out is not None:
        require_writable(request.out)
    found = in_counts(read_intensities(request.file, request.mask, request.scan, cleans=request.cleans))
    window = window_of(found, (MAX_WINDOW[found.counts.ndim],) * found.counts.ndim)
    volume = window.take(found, request.device)
    notes = (*found.notes, *_left_out(found, volume))
    data = measurement_of(volume)
    began_s = request.deadline.passed_s
    deadline = request.deadline.part(1 - _reserve_s(request.deadline, found) / request.deadline.budget_s)
    problem = Problem(data=data, settings=request.settings, deadline=deadline, volume=_asked_for(volume, request))
    solution = METHODS[request.method](problem)
    phased_s = request.deadline.passed_s - began_s
    crystal, support = from_fourier_order(solution.crystal), from_fourier_order(solution.support)
    on_file = window.undo(crystal)
    bq = None if volume.affine is None else volume.affine.bq
    scalars = scalars_of(solution, data, bq)
    verdict = judge(scalars, found.doubts)  # by the voxels that were phased: what was left out is told besides
    held_out = {f"held_out_{name}": scalars.pop(f"free_{name}") for name in ("llk", "llk_floor")}
    if request.out is not None:
        lab = None if volume.affine is None else lab_object(crystal, support, volume.affine)
        write_object(request.out, on_file, window.undo_support(support), lab)
    effort = solution.effort
    return {
        **scalars,
        **held_out,
        **_misfit_of_file(on_file, found),
        "verdict": verdict.grade,
        "reasons": [*verdict.reasons, *notes],
        "seconds": request.deadline.passed_s,
        "ms_per_cycle": 1e3 * phased_s / max(effort.cycles, 1),
        "method": request.method,
        "recipe": effort.recipe,
        "seed": request.settings.seed,
        "device": request.device,
        "file": None if request.out is None else str(request.out.resolve()),
    }


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


def _reserve_s(deadline: Deadline, found: Intensities) -> float:
    """Time to keep for the way back and the file: as long as reading took where the file is large, half at most."""
    is_large = found.counts.size > 1_000_000
    return min(0.5 * deadline.budget_s, 1.2 + 0.05 * deadline.budget_s + (deadline.passed_s if is_large else 0.0))


def _misfit_of_file(density: Tensor, found: Intensities) -> dict[str, float]:
    """Misfit of an object over all voxels that its file takes for valid, with one fitted scale.

    ``chi2_cleaned`` is over those that cleaning left; it is what the object was made to explain.
    """
    cleaned = _misfit(density, found, found.valid_pixels)
    whole = cleaned if found.blemishes is None else _misfit(density, found, found.own_valid_pixels)
    return {**whole, "chi2_cleaned": cleaned["chi2"]}


def _misfit(density: Tensor, found: Intensities, valid_pixels: Bools) -> dict[str, float]:
    counts = torch.from_numpy(found.counts.astype(np.float32)).to(density.device)
    valid = torch.from_numpy(np.array(valid_pixels)).to(density.device)
    gain = 1.0 if found.expected_scale is None else torch.from_numpy(np.sqrt(found.expected_scale)).to(density.device)
    model, counts = (gain * to_reciprocal(density, density.ndim).abs())[valid], counts[valid]
    expected = model.square().double()
    expected = expected * counts.double().sum() / expected.sum().clamp_min(1e-30)
    return {
        "chi2": float(chi2(model, counts.sqrt())),
        "r_p": float(r_p(model, counts.sqrt())),
        "free_llk": float(poisson_llk(expected, counts)),
    }


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
