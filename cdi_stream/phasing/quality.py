"""How well a crystal explains the counts, and how well it could.

All over valid voxels, one fitted scale, modelled magnitude = gain * |F|.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cdi_stream.messages import Verdict
from cdi_stream.phasing.measures import chi2, chi2_floor, poisson_llk, r_p
from cdi_stream.phasing.projections import Measurement, expected_counts, reciprocal


def misfit(crystal: Tensor, data: Measurement) -> dict[str, float]:
    """Return ``chi2``, ``r_p`` and ``chi2_floor`` of a crystal in Fourier order.

    They are those of `cdi_stream.phasing.measures`.
    """
    model = expected_counts(reciprocal(crystal, data.n_axes), data).sqrt()[data.valid]
    measured = data.magnitude[data.valid]
    return {
        "chi2": float(chi2(model, measured)),
        "r_p": float(r_p(model, measured)),
        "chi2_floor": float(chi2_floor(model, measured)),
    }


def free_llk(crystal: Tensor, data: Measurement, held: Tensor) -> tuple[float, float]:
    """Free Poisson log-likelihood of a crystal ``shape`` over ``held`` voxels, and what counting noise leaves of it.

    The crystal must not have been fitted to the held voxels; its scale is the likeliest over the others.
    """
    expected, counts = expected_counts(reciprocal(crystal, data.n_axes), data), data.magnitude.square()
    seen = data.valid & ~held
    scale = counts[seen].double().sum() / expected[seen].double().sum().clamp_min(1e-30)
    expected = scale * expected.double()
    floor = np.interp(expected[held].cpu().numpy(), *_llk_table()).mean() if bool(held.any()) else math.nan
    return float(poisson_llk(expected, counts, held)), float(floor)


@lru_cache(maxsize=1)
def _llk_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of lambda - n + n ln(n / lambda) for Poisson n of mean lambda; it tends to 1/2."""
    mean = np.concatenate(([1e-9], np.geomspace(1e-4, 60, 100)))
    n = np.arange(200)
    log_p = n * np.log(mean)[:, None] - mean[:, None] - np.cumsum(np.log(np.maximum(n, 1)))
    deviance = mean[:, None] - n + n * np.log(np.maximum(n, 1) / mean[:, None])
    return mean, (np.exp(log_p) * deviance).sum(1)


def judge(scalars: dict[str, float], reasons: tuple[str, ...] = ()) -> Verdict:
    """Turn misfit and support into a verdict; ``reasons`` already known make it doubtful at least.

    Never from chi2 alone: a wrong crystal can fit below the noise floor with a support that is too loose.
    """
    found = list(reasons)
    if not (math.isfinite(scalars["chi2"]) and scalars["r_p"] >= 0.7):
        return Verdict(grade="failed", reasons=(*found, f"r_p {scalars['r_p']:.3f} < 0.7: the data are not explained"))
    if scalars["chi2"] > 2 * scalars["chi2_floor"] + 0.02:
        found.append(f"chi2 {scalars['chi2']:.4f} is far above the counting noise {scalars['chi2_floor']:.4f}")
    if scalars["r_p"] < 0.97:
        found.append(f"r_p {scalars['r_p']:.3f} < 0.97")
    if scalars["support_fraction"] > 0.2:
        found.append(f"the support fills {scalars['support_fraction']:.0%} of the array: it cannot be unique")
    return Verdict(grade="doubtful" if found else "good", reasons=tuple(found))
