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
from cdi_stream.phasing.autocorrelation import box_of
from cdi_stream.phasing.measures import chi2, chi2_floor, poisson_llk, r_p
from cdi_stream.phasing.projections import Measurement, expected_counts, modelled_magnitude, reciprocal
from cdi_stream.phasing.support import grow, smooth


def misfit(crystal: Tensor, data: Measurement) -> dict[str, float]:
    """Return ``chi2``, ``r_p`` and ``chi2_floor`` of a crystal in Fourier order.

    They are those of `cdi_stream.phasing.measures`.
    """
    model = modelled_magnitude(crystal, data)[data.valid]
    measured = data.magnitude[data.valid]
    return {
        "chi2": float(chi2(model, measured)),
        "r_p": float(r_p(model, measured)),
        "chi2_floor": float(chi2_floor(model, measured)),
    }


def size_of(support: Tensor, data: Measurement) -> dict[str, float]:
    """Return ``support_fraction``, of the array, and ``support_over_box``, of the box that the counts tell of."""
    n = float(support.sum())
    return {"support_fraction": n / support.numel(), "support_over_box": n / box_of(data).volume_vox}


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


def amplitude_spread(crystal: Tensor, support: Tensor, sigma_vox: float = 1.0) -> float:
    """Spread over mean of the blurred amplitude one voxel inside the support; a crystal of one material is even.

    NaN if nothing is that deep, and in two axes: a plane of the diffraction is that of a projection, thick and thin.
    """
    if crystal.ndim < 3:
        return math.nan
    inside = smooth(crystal.abs(), sigma_vox)[~grow(~support)].double()
    return float(inside.std() / inside.mean()) if inside.numel() > 1 else math.nan


def judge(scalars: dict[str, float], reasons: tuple[str, ...] = ()) -> Verdict:
    """Turn what is known of a crystal into a verdict; ``reasons`` already known make it doubtful at least.

    Never from chi2 alone: a wrong crystal can fit below the noise floor with a support that is too loose.  Numbers
    that are not there, or NaN, are not judged; limits are from the simulated crystals of ``make bench-phasing``.
    """
    if not (math.isfinite(scalars["chi2"]) and scalars["r_p"] >= 0.7):
        name, limit = ("r_p", " < 0.7") if math.isfinite(scalars["chi2"]) else ("chi2", "")
        text = f"{name} {scalars[name]:.3f}{limit}: the data are not explained"
        return Verdict(grade="failed", reasons=(*reasons, text))
    found = [*reasons, *(text for is_bad, text in _doubts(scalars) if is_bad)]
    return Verdict(grade="doubtful" if found else "good", reasons=tuple(found))


def _doubts(s: dict[str, float]) -> tuple[tuple[bool, str], ...]:
    """Each rule: whether it is broken, and what to say then; comparisons with NaN are false."""
    agreement, uneven = s.get("agreement", math.nan), s.get("amplitude_spread", math.nan)
    noise = s.get("bootstrap_nmse", math.nan)
    free = s.get("free_llk", math.nan) / max(s.get("free_llk_floor", math.nan), 1e-12)
    overfit = free / max(s["chi2"] / max(s["chi2_floor"], 1e-12), 1e-12)
    outside = s.get("support_over_box", math.nan)
    is_counted = s["chi2"] > WITHOUT_NOISE * s["chi2_floor"]
    return (
        (
            s["chi2"] > 2 * s["chi2_floor"] + 0.02,
            f"chi2 {s['chi2']:.4f} is far above the counting noise {s['chi2_floor']:.4f}",
        ),
        (
            math.isnan(noise) and s["chi2_floor"] > FAINT,
            f"counting noise is {s['chi2_floor']:.3f} of the counts: count longer",
        ),
        (
            noise > NOISY and is_counted,
            f"counting noise alone would move the crystal by NMSE {noise:.3f} > {NOISY}: count longer",
        ),
        (s["r_p"] < 0.97, f"r_p {s['r_p']:.3f} < 0.97"),
        (
            s["support_fraction"] > 0.2,
            f"the support fills {s['support_fraction']:.0%} of the array: it cannot be unique",
        ),
        (
            outside > OUTSIDE,
            f"the support is {outside:.1f} times the box that the counts say the crystal lies in",
        ),
        ("agreement" in s and math.isnan(agreement), _why_alone(int(s.get("starts", 1)))),
        (s.get("is_truncated", 0.0) > 0, "the time ran out before the refinement was done: give a larger budget"),
        (agreement < AGREEING, f"other starts gave other crystals: mean correlation {agreement:.3f} < {AGREEING}"),
        (
            overfit > OVERFITTED and s["chi2_floor"] > COUNTED and is_counted,
            f"voxels it never saw are explained {overfit:.1f} times worse than the others, against counting noise",
        ),
        (
            "amplitude_spread" in s and math.isnan(uneven),
            "the support is too thin to say whether the amplitude is even",
        ),
        (uneven > UNEVEN, f"the amplitude is uneven inside: {uneven:.2f} of its mean, more than {UNEVEN}"),
    )


def _why_alone(n_starts: int) -> str:
    """Why there is no other crystal to compare with."""
    if n_starts < 2:
        return "a single start: there is no other to compare with"
    return f"only one of {n_starts} starts was carried to its end: there is no other to compare with; give more time"


NOISY = 0.018
"""Largest `bootstrap_nmse`: crystals of the bench are about five times as far from the truth."""
FAINT = 0.033
"""Share of the counts that may be noise, where that is not known."""
OUTSIDE = 2.5
"""Support over the slanted box of the autocorrelation: 0.3 to 0.9 of weakly strained crystals, 2.2 at most at 5 pi."""
AGREEING = 0.97
"""Least mean correlation of other starts' crystals with the one that was chosen."""
OVERFITTED = 2.0
"""Free likelihood over its floor, against chi2 over its floor ..."""
COUNTED = 0.003
"""... where counting noise is at least this share of the counts; where it is less, the model's small faults rule.
"""
WITHOUT_NOISE = 0.1
"""Share of its floor to which chi2 falls only for data without counting noise: a support of a fifth of the array could
not do that by overfitting.  What counting noise does to crystals is not asked then."""
UNEVEN = 0.26
"""Largest `amplitude_spread` of a crystal."""
