"""How well a crystal explains the counts, and how well it could.

All over valid voxels, one fitted scale, modelled magnitude = gain * |F|.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cdi_stream.messages import Verdict
from cdi_stream.phasing.projections import Measurement, reciprocal


def misfit(crystal: Tensor, data: Measurement) -> dict[str, float]:
    """Return ``chi2``, ``r_p`` and ``chi2_floor`` of a crystal in Fourier order.

    chi2 = sum (s |F| - sqrt(I))^2 / sum I, with s fitted (Wu et al. 2021, L4); r_p is the ordinary
    correlation of magnitudes; the floor is what counting noise alone leaves of chi2.
    """
    model = (data.gain * reciprocal(crystal, data.n_axes).abs())[data.valid].double()
    measured = data.magnitude[data.valid].double()
    power = measured.square().sum().clamp_min(1e-30)
    scale = (model * measured).sum() / model.square().sum().clamp_min(1e-30)
    chi2 = (scale * model - measured).square().sum() / power
    r_p = torch.corrcoef(torch.stack((model, measured)))[0, 1] if model.std() > 0 else torch.tensor(math.nan)
    floor = np.interp((scale * model).square().cpu().numpy(), *_noise_table()).sum() / float(power)
    return {"chi2": float(chi2), "r_p": float(r_p), "chi2_floor": float(floor)}


@lru_cache(maxsize=1)
def _noise_table() -> tuple[np.ndarray, np.ndarray]:
    """Mean of (sqrt(n) - sqrt(I))^2 for Poisson n of mean I; it tends to 1/4."""
    mean = np.concatenate(([0.0], np.geomspace(1e-3, 60, 80)))
    n = np.arange(200)
    log_factorial = np.cumsum(np.log(np.maximum(n, 1)))
    log_p = n * np.log(np.maximum(mean, 1e-300))[:, None] - mean[:, None] - log_factorial
    return mean, (np.exp(log_p) * (np.sqrt(n) - np.sqrt(mean[:, None])) ** 2).sum(1)


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
