"""Numbers that tell how well a crystal explains the counts, and the values that counting noise alone leaves.

All numbers are over valid voxels and with one fitted scale of the model.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cdi_stream.phasing.autocorrelation import Box
from cdi_stream.phasing.coherence import GaussianKernel, coherence_lengths_m
from cdi_stream.phasing.measures import chi2, chi2_floor, poisson_llk, r_p, voxel_pair
from cdi_stream.phasing.projections import Measurement, likeliest_counts, modelled_magnitude
from cdi_stream.phasing.support import grow, smooth
from cdi_stream.phasing.tuning import TUNING


class Explained(TypedDict):
    """Misfit and correlation of a crystal, and the share of its intensity in voxels that were not measured."""

    chi2: float
    r_p: float
    dark_share: float


class Misfit(Explained):
    """The misfit that counting noise alone leaves, and the share of the counts that is background, as well."""

    chi2_floor: float
    background_share: float


class SupportSize(TypedDict):
    """Volume of a support as a share of the array, and of the box of the autocorrelation."""

    support_fraction: float
    support_over_box: float


class Blur(TypedDict, total=False):
    """Metrics of a coherence kernel, see `cdi_stream.metrics.Metrics`."""

    blur_frame_vox: float
    blur_row_vox: float
    blur_col_vox: float
    coherence_lab_x_nm: float
    coherence_lab_y_nm: float
    coherence_lab_z_nm: float
    coherence_error: float


def misfit(crystal: Tensor, data: Measurement) -> Misfit:
    """Return `explained` of a crystal in Fourier order, ``chi2_floor`` and ``background_share``.

    The latter is the share of the counts that is background; NaN without background.
    """
    magnitude = modelled_magnitude(crystal, data)
    model, measured = voxel_pair(magnitude, data.magnitude, data.valid)
    share = math.nan
    if data.background is not None:
        ground = data.background.clamp_max(magnitude.square())[data.valid].sum()
        share = float(ground) / max(float(measured.square().sum()), 1e-30)
    return {
        **_explained(magnitude, model, measured, data),
        "chi2_floor": float(chi2_floor(model, measured)),
        "background_share": share,
    }


def explained(crystal: Tensor, data: Measurement) -> Explained:
    """Return ``chi2`` and ``r_p`` of a crystal in Fourier order, see `cdi_stream.phasing.measures`, and ``dark_share``.

    ``dark_share`` is the share of the crystal's intensity in voxels that were not measured.
    """
    magnitude = modelled_magnitude(crystal, data)
    return _explained(magnitude, *voxel_pair(magnitude, data.magnitude, data.valid), data)


def _explained(magnitude: Tensor, model: Tensor, measured: Tensor, data: Measurement) -> Explained:
    """Return `explained` for the modelled magnitude; ``model`` and ``measured`` are magnitudes of the valid voxels."""
    return {
        "chi2": float(chi2(model, measured)),
        "r_p": float(r_p(model, measured)),
        "dark_share": _dark_share(magnitude, data),
    }


def _dark_share(magnitude: Tensor, data: Measurement) -> float:
    """Return the share of the crystal's intensity in voxels that were not measured, for the modelled magnitude."""
    of_crystal = magnitude.square()
    if data.background is not None:
        of_crystal = of_crystal - data.background.clamp_max(of_crystal)
    intensity = of_crystal / data.magnitude_scale.square().clamp_min(1e-24)
    total, dark = float(intensity.sum()), float(torch.where(data.valid, 0.0, intensity).sum())
    return dark / total if total > 0 else math.nan


def size_of(support: Tensor, box: Box) -> SupportSize:
    """Return the size of a support: as a share of the array, and over the box of the autocorrelation."""
    n = float(support.count_nonzero())
    return {"support_fraction": n / support.numel(), "support_over_box": n / box.volume_vox}


def blur_of(kernel: GaussianKernel | None, bq: ArrayLike | None) -> Blur:
    """Return the metrics of a coherence kernel: no lengths without ``bq`` [1/m], no metrics without kernel."""
    if kernel is None:
        return {}
    widths = (math.nan,) * (3 - len(kernel.widths_vox)) + kernel.widths_vox
    x, y, z = (math.nan,) * 3 if bq is None else (1e9 * coherence_lengths_m(widths, bq)).tolist()
    return {
        "blur_frame_vox": widths[0],
        "blur_row_vox": widths[1],
        "blur_col_vox": widths[2],
        "coherence_lab_x_nm": x,
        "coherence_lab_y_nm": y,
        "coherence_lab_z_nm": z,
        "coherence_error": math.hypot(kernel.relative_noise, TUNING.coherence_error),
    }


def free_llk(crystal: Tensor, data: Measurement, held: Tensor) -> tuple[float, float]:
    """Return the free log-likelihood of a crystal ``(*shape)``, and the value that counting noise alone leaves.

    The free log-likelihood is `poisson_llk` over the held-out voxels ``held``, to which the crystal was not fitted.
    The scale of the model is the likeliest scale over the other valid voxels.
    """
    expected, counts = likeliest_counts(crystal, data, data.valid & ~held), data.magnitude.square()
    floor = np.interp(expected[held].cpu().numpy(), *_llk_table()).mean() if bool(held.any()) else math.nan
    return float(poisson_llk(expected, counts, held)), float(floor)


@lru_cache(maxsize=1)
def _llk_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means lambda and E[lambda - n + n ln(n / lambda)] of Poisson n; the latter tends to 1/2."""
    mean = np.concatenate(([1e-9], np.geomspace(1e-4, 60, 100)))
    n = np.arange(200)
    log_p = n * np.log(mean)[:, None] - mean[:, None] - np.cumsum(np.log(np.maximum(n, 1)))
    deviance = mean[:, None] - n + n * np.log(np.maximum(n, 1) / mean[:, None])
    return mean, (np.exp(log_p) * deviance).sum(1)


def amplitude_spread(crystal: Tensor, support: Tensor, sigma_vox: float = 1.0) -> float:
    """Return standard deviation over mean of the blurred amplitude, one voxel and more inside the support.

    A crystal of one material has an even amplitude, so a small value.  NaN if no voxel lies that deep, and for two
    axes: a plane of the diffraction belongs to a projection of the crystal, whose amplitude follows the thickness.
    """
    if crystal.ndim < 3:
        return math.nan
    inside = smooth(crystal.abs(), sigma_vox)[~grow(~support)].double()
    return float(inside.std() / inside.mean()) if inside.numel() > 1 else math.nan
