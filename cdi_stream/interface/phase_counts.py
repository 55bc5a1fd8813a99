"""Phase intensities and judge the result: the common code path of ``cdi_stream.phase`` and of the command ``phase``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cdi_stream.files.intensities.objects import LabObject, lab_object
from cdi_stream.files.intensities.volume import Bools, Intensities, in_counts
from cdi_stream.files.intensities.window import Window, WorkingVolume, window_of
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.inversion.methods import METHODS, MethodSettings, Problem
from cdi_stream.messages import PreparedVolume, Verdict, read_only
from cdi_stream.metrics import Metrics
from cdi_stream.networks.packaged import DEFAULT, network_file
from cdi_stream.numerics.fourier import from_fourier_order, to_reciprocal
from cdi_stream.phasing.autocorrelation import oversampling, weights
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.frames import along_first, frame_matrix
from cdi_stream.phasing.judge import judge
from cdi_stream.phasing.measures import chi2, poisson_llk, r_p
from cdi_stream.phasing.ranking import Solution, metrics_of
from cdi_stream.phasing.tuning import TUNING

MAX_WINDOW = {2: 2048, 3: 160}
"""Longest axis that is phased [voxels], by the number of axes; longer axes are cropped about the peak."""

DEFAULT_RECIPE = "wu2021-2d"
"""Name of the default recipe of the methods ``recipe`` and ``hybrid``."""

NETWORK_RECIPE = "SW[every=10,after=0,threshold=0.2,relative=rms,sigma=1.0]+SUPPORT[border]+100*RAAR+50*ER"
"""Recipe of the method ``network``, run from the crystal of the network after its weights were refined."""

NETWORK_STEPS = 100_000
"""Largest number of weight updates of the method ``network``; the time runs out long before."""

_VOXEL_M = 1e-9
"""Voxel size [m] of a network's input where the voxel size is unknown; no published number depends on it."""


def method_settings(
    *,
    budget_s: float,
    seed: int,
    recipe: str = DEFAULT_RECIPE,
    starts: int = 1,
    network: str = DEFAULT,
) -> MethodSettings:
    """Return the settings of all methods, from the settings that a user chooses.

    Raises
    ------
    ConfigError
        If no network of this name comes with the package.
    """
    return MethodSettings(
        recipe=recipe,
        network_file=network_file(network),
        network_steps=NETWORK_STEPS,
        network_recipe=NETWORK_RECIPE,
        starts=starts,
        seed=seed,
        budget_s=budget_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseOptions:
    """Options of a phasing.

    Parameters
    ----------
    method
        Name of a method of `cdi_stream.inversion.methods`.
    settings
        Settings of the method.
    deadline
        Wall time for everything, from reading the intensities to drawing the object.
    device
        ``cpu`` or ``cuda``.
    picture_s
        Time reserved for a picture [s]; 0 without a picture.
    report
        Function that is called with a line of text at each stage.
    """

    method: str
    settings: MethodSettings
    deadline: Deadline
    device: str = "cpu"
    picture_s: float = 0.0
    report: Callable[[str], None] = lambda line: None


@dataclass(frozen=True, kw_only=True)
class PhasedCounts:
    """A solution in the working frame, and the intensities that it explains.

    Parameters
    ----------
    intensities
        Intensities in counts, on the grid of the input.
    window, volume
        Part of the intensities that was phased, with the peak at the origin voxel N//2.
    solution
        Crystal and support in Fourier order.
    metrics
        Numbers by which the solution is judged.
    verdict
        Verdict on the solution; doubts about the intensities are among its reasons.
    phasing_s
        Wall time of the method [s].
    """

    intensities: Intensities
    window: Window
    volume: WorkingVolume
    solution: Solution
    metrics: Metrics
    verdict: Verdict
    phasing_s: float

    @cached_property
    def crystal(self) -> Tensor:
        """Crystal in the working frame, origin at N//2: its phase has no ramp from the place of the peak."""
        return from_fourier_order(self.solution.crystal)

    @cached_property
    def support(self) -> Tensor:
        """Support in the working frame, origin at N//2."""
        return from_fourier_order(self.solution.support)

    @cached_property
    def density(self) -> Tensor:
        """Object on the grid of the input, origin at N//2."""
        return self.window.undo(self.crystal)

    @cached_property
    def density_support(self) -> Tensor:
        """Support of the object on the grid of the input."""
        return self.window.undo_support(self.support)

    @cached_property
    def lab(self) -> LabObject | None:
        """Object on a grid in lab axes; None where the geometry is unknown."""
        affine = self.volume.affine
        return None if affine is None else lab_object(self.crystal, self.support, affine)

    @property
    def reasons(self) -> list[str]:
        """Reasons of the verdict, notes on the intensities, and the share of the counts that was not phased."""
        return [
            *self.verdict.reasons,
            *self.intensities.notes,
            *_left_out(self.intensities, self.volume),
            *_aliens_left_out(self.metrics),
        ]

    @cached_property
    def misfit(self) -> dict[str, float]:
        """Misfit of the object over the valid voxels of the input, with one fitted scale.

        ``chi2``, ``r_p`` and ``free_llk`` are over all voxels that are valid in the input, ``chi2_cleaned`` and
        ``r_p_cleaned`` over the voxels that cleaning left, to which the object was fitted.
        """
        return _misfit_of(self.density, self.intensities)


def phase_counts(intensities: Intensities, options: PhaseOptions) -> PhasedCounts:
    """Return the solution of intensities, phased in the working frame and judged by the voxels that were phased."""
    intensities = in_counts(intensities)
    n_axes = intensities.counts.ndim
    window = window_of(intensities, (MAX_WINDOW[n_axes],) * n_axes)
    volume = window.take(intensities, options.device)
    data = replace(measurement_of(volume), shift_error_steps=_shift_error_steps(volume))
    begin_s = options.deadline.passed_s
    options.report(f"phasing {' x '.join(map(str, window.shape))} voxels by {options.method}")
    solution = METHODS[options.method](
        Problem(
            data=data,
            settings=options.settings,
            deadline=options.deadline.part(1 - _reserve_s(intensities, options) / options.deadline.budget_s),
            volume=_network_input(volume, options.method),
            report=options.report,
        )
    )
    phasing_s = options.deadline.passed_s - begin_s
    metrics = metrics_of(solution, data, None if volume.affine is None else volume.affine.bq)
    return PhasedCounts(
        intensities=intensities,
        window=window,
        volume=volume,
        solution=solution,
        metrics=metrics,
        verdict=judge(metrics, intensities.doubts),
        phasing_s=phasing_s,
    )


def _shift_error_steps(volume: WorkingVolume) -> float:
    """Return the expected error of the places of the frames [steps]: 0 where angles say them, and for two axes."""
    return 0.0 if volume.affine is not None or volume.counts.ndim < 3 else TUNING.angle_error_steps


def _left_out(intensities: Intensities, volume: WorkingVolume) -> tuple[str, ...]:
    """Return a reason if the working array lacks counts of the input; else none."""
    total = float(intensities.counts[intensities.valid_pixels].sum(dtype=np.float64))
    share = 1 - float(volume.counts[volume.valid_pixels].sum(dtype=torch.float64)) / max(total, 1e-30)
    if share < 1e-6:
        return ()
    shape = " x ".join(map(str, volume.counts.shape))
    return (
        f"{share:.1%} of the counts lie outside of the {shape} voxels that were phased: the object is blind to them",
    )


def _aliens_left_out(metrics: Metrics) -> tuple[str, ...]:
    """Return a reason if the search left out alien peaks; else none."""
    if not metrics.alien_voxels:
        return ()
    return (f"{metrics.alien_voxels} voxels with peaks of other grains, which no crystal explains, were left out",)


def _reserve_s(intensities: Intensities, options: PhaseOptions) -> float:
    """Return the time [s] reserved for object, file and picture: at most half of the budget, 0.7 with a picture.

    The transformation of a large crystal to the grid of the input takes as long as reading did.
    """
    budget_s, is_large = options.deadline.budget_s, intensities.counts.size > 1_000_000
    reserve_s = 1.2 + 0.05 * budget_s + (options.deadline.passed_s if is_large else 0.0)
    if options.picture_s == 0:
        return min(0.5 * budget_s, reserve_s)
    return min(0.7 * budget_s, reserve_s + options.picture_s)


def _misfit_of(density: Tensor, intensities: Intensities) -> dict[str, float]:
    counts = torch.from_numpy(intensities.counts.astype(np.float32)).to(density.device)
    scale = intensities.expected_scale
    model_scale = 1.0 if scale is None else torch.from_numpy(np.sqrt(scale)).to(density.device)
    model = model_scale * _magnitude(density, intensities)
    of_all = _misfit(model, counts, intensities.own_valid_pixels)
    is_cleaned = intensities.blemishes is not None and bool(intensities.blemishes.any())
    of_cleaned = _misfit(model, counts, intensities.valid_pixels) if is_cleaned else of_all
    return {**of_all, "free_llk": _llk(model, counts, intensities.own_valid_pixels)} | {
        f"{name}_cleaned": value for name, value in of_cleaned.items()
    }


def _magnitude(density: Tensor, intensities: Intensities) -> Tensor:
    """Return |F| of an object at the places of the frames."""
    magnitude = to_reciprocal(density, density.ndim).abs()
    if intensities.frame_shifts is None:
        return magnitude
    matrix = frame_matrix(torch.from_numpy(np.float32(intensities.frame_shifts))).to(magnitude.device)
    return along_first(matrix, magnitude.square(), density.ndim).clamp_min(0).sqrt()


def _misfit(model: Tensor, counts: Tensor, valid_pixels: Bools) -> dict[str, float]:
    valid = torch.from_numpy(np.array(valid_pixels)).to(model.device)
    model, magnitude = model[valid], counts[valid].sqrt()
    return {"chi2": float(chi2(model, magnitude)), "r_p": float(r_p(model, magnitude))}


def _llk(model: Tensor, counts: Tensor, valid_pixels: Bools) -> float:
    valid = torch.from_numpy(np.array(valid_pixels)).to(model.device)
    expected, counts = model[valid].square().double(), counts[valid]
    return float(poisson_llk(expected * (counts.double().sum() / expected.sum().clamp_min(1e-30)), counts))


def _network_input(volume: WorkingVolume, method: str) -> PreparedVolume | None:
    """Return the volume for methods that use a network; None for other methods, and for two axes."""
    return prepared(volume) if volume.counts.ndim == 3 and method in ("network", "hybrid") else None


def prepared(volume: WorkingVolume) -> PreparedVolume:
    """Return the volume as the input of a network; a volume without geometry gets cubic voxels."""
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
        frame_shifts=None if volume.frame_shifts is None else read_only(volume.frame_shifts.double().cpu().numpy()),
    )
