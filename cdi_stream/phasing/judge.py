"""Verdict on a crystal: a table of rules over its metrics.

Each rule holds one number against one limit.  A crystal that breaks no rule is ``good``; a crystal that breaks a rule
is ``doubtful``, with the reason of each broken rule; a crystal that does not explain the data is ``failed``.  No rule
goes by chi2 alone: a wrong crystal fits below the counting noise where its support is too loose.  The limits were found
on the simulated crystals of ``make bench-phasing``.  A number that is not known (NaN) breaks no rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cdi_stream.messages import Verdict
from cdi_stream.metrics import Metrics

LEAST_CORRELATION = 0.7
"""Smallest r_p of a crystal that explains the data at all."""

GOOD_CORRELATION = 0.97
"""Smallest r_p of a good crystal, unless counting noise alone explains a lower value."""

NOISY_CORRELATION, NOISY_FACTOR = 0.93, 1.7
"""Smallest r_p of a good crystal whose chi2 is at most this factor times the floor: few counts lower r_p too."""

NOISE_FACTOR, NOISE_OFFSET = 2.0, 0.02
"""Largest chi2 of a good crystal: this factor times the counting-noise floor, and this offset."""

OFFSET_WITH_KERNEL = 0.01
"""The same offset where a coherence kernel belongs to the model: a right kernel leaves no blur to explain.

Of the zoo's trial samples with a kernel the right ones have 0.005 at most, three wrong ones 0.013 to 0.018.
"""

OVER_BOOTSTRAP = 5.0
"""Distance of a crystal to the truth over the NMSE by which counting noise alone moves the crystal, about."""

LARGEST_EXPECTED_NMSE = 0.09
"""Largest NMSE to the truth that is expected of a good crystal, see `expected_nmse`; a crystal is wrong from 0.1 on.

Of 71 simulated crystals of the zoo's trial set, the right ones that no other rule doubts have 0.084 at most, the wrong
one has 0.106.
"""

NMSE_OF_KERNEL = 0.015
"""What the uncertainty of a coherence kernel adds to the expected NMSE: all starts share one kernel."""

LARGEST_NOISE_SHARE = 0.033
"""Largest share of counting noise in chi2 where `Metrics.bootstrap_nmse` is not known."""

LARGEST_FILLING = 0.2
"""Largest share of the array that a support may fill; beyond, the crystal is not unique."""

LARGEST_OVER_BOX = 2.5
"""Largest volume of a support over the slanted box of the autocorrelation.

Right crystals have 0.3 to 0.9 where the strain is weak, and 2.2 at most at a phase range of 5 pi.
"""

LEAST_AGREEMENT = 0.97
"""Mean correlation of the crystals of other starts with the chosen crystal, below which a search goes on."""

GOOD_AGREEMENT = 0.955
"""Smallest such correlation of a good crystal."""

LARGEST_OVERFIT = 2.0
"""Largest ratio of the free log-likelihood over its floor to chi2 over its floor."""

LEAST_COUNTED = 0.003
"""Smallest chi2 floor at which overfitting is judged; below, small faults of the model outweigh the noise."""

WITHOUT_NOISE = 0.1
"""Share of its floor below which chi2 shows that the data have no counting noise.

A support of a fifth of the array cannot reach that by overfitting.  Rules about counting noise then do not apply.
"""

LARGEST_AMPLITUDE_SPREAD = 0.26
"""Largest spread of the amplitude inside a crystal of one material, over its mean."""

LARGEST_KNOWN_SPREAD = 0.36
"""Largest spread of a crystal that is well known: its expected NMSE is `WELL_KNOWN_NMSE` at most.

Core and shell, two materials or uneven light make the amplitude of a right crystal uneven: 0.27 to 0.34 on simulated
crystals.  A wrong crystal is uneven too, but starts rarely agree on it.
"""

WELL_KNOWN_NMSE = 0.06
"""Largest `expected_nmse` of a crystal that is well known.

Of the zoo's trial samples with a spread above 0.26, right ones have 0.007 to 0.065, but for few counts; wrong ones have
0.12 and more.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One condition that a good crystal fulfils."""

    name: str
    is_broken: Callable[[Metrics], bool]
    reason: Callable[[Metrics], str]
    """Sentence for the operator: the number, the limit and, where there is one, the remedy."""


RULES = (
    Rule(
        name="misfit",
        is_broken=lambda m: m.chi2 > NOISE_FACTOR * m.chi2_floor + _offset(m),
        reason=lambda m: f"chi2 {m.chi2:.4f} is far above the counting noise {m.chi2_floor:.4f}",
    ),
    Rule(
        name="faint data",
        is_broken=lambda m: math.isnan(m.bootstrap_nmse) and m.chi2_floor > LARGEST_NOISE_SHARE,
        reason=lambda m: f"counting noise is {m.chi2_floor:.3f} of the counts: count longer",
    ),
    Rule(
        name="uncertainty",
        is_broken=lambda m: expected_nmse(m) > LARGEST_EXPECTED_NMSE and _has_noise(m),
        reason=lambda m: (
            f"counting noise and starts leave the crystal uncertain: expected NMSE to the truth {expected_nmse(m):.3f} "
            f"> {LARGEST_EXPECTED_NMSE}: count longer"
        ),
    ),
    Rule(
        name="correlation",
        is_broken=lambda m: m.r_p < _least_correlation(m),
        reason=lambda m: f"r_p {m.r_p:.3f} < {_least_correlation(m)}",
    ),
    Rule(
        name="filling",
        is_broken=lambda m: m.support_fraction > LARGEST_FILLING,
        reason=lambda m: f"the support fills {m.support_fraction:.0%} of the array: it cannot be unique",
    ),
    Rule(
        name="box",
        is_broken=lambda m: m.support_over_box > LARGEST_OVER_BOX,
        reason=lambda m: (
            f"the support is {m.support_over_box:.1f} times the box that the counts say the crystal lies in"
        ),
    ),
    Rule(
        name="lone start",
        is_broken=lambda m: m.starts is not None and math.isnan(m.agreement),
        reason=lambda m: _why_alone(m.starts or 0),
    ),
    Rule(
        name="time",
        is_broken=lambda m: m.is_truncated,
        reason=lambda m: "the time ran out before the refinement was done: give a larger budget",
    ),
    Rule(
        name="agreement",
        is_broken=lambda m: m.agreement < GOOD_AGREEMENT,
        reason=lambda m: f"other starts gave other crystals: mean correlation {m.agreement:.3f} < {GOOD_AGREEMENT}",
    ),
    Rule(
        name="overfitting",
        is_broken=lambda m: _overfit(m) > LARGEST_OVERFIT and m.chi2_floor > LEAST_COUNTED and _has_noise(m),
        reason=lambda m: (
            f"voxels it never saw are explained {_overfit(m):.1f} times worse than the others, against counting noise"
        ),
    ),
    Rule(
        name="thin support",
        is_broken=lambda m: m.is_support_thin,
        reason=lambda m: "the support is too thin to say whether the amplitude is even",
    ),
    Rule(
        name="amplitude",
        is_broken=lambda m: m.amplitude_spread > _largest_spread(m),
        reason=lambda m: (
            f"the amplitude is uneven inside: {m.amplitude_spread:.2f} of its mean, more than {_largest_spread(m)}"
        ),
    ),
)
"""Rules in the order in which their reasons are given."""


def judge(metrics: Metrics, doubts: tuple[str, ...] = ()) -> Verdict:
    """Return the verdict on a crystal.

    Parameters
    ----------
    metrics
        Numbers of the crystal.
    doubts
        Doubts that are known already; any of them makes the verdict ``doubtful`` at best.
    """
    if not (math.isfinite(metrics.chi2) and metrics.r_p >= LEAST_CORRELATION):
        name, limit = ("r_p", f" < {LEAST_CORRELATION}") if math.isfinite(metrics.chi2) else ("chi2", "")
        text = f"{name} {getattr(metrics, name):.3f}{limit}: the data are not explained"
        return Verdict(grade="failed", reasons=(*doubts, text))
    reasons = (*doubts, *(rule.reason(metrics) for rule in RULES if rule.is_broken(metrics)))
    return Verdict(grade="doubtful" if reasons else "good", reasons=reasons)


def expected_nmse(m: Metrics) -> float:
    """Return the NMSE to the truth that is expected of a crystal; NaN if the influence of counting noise is not known.

    The sum of what counting noise, the choice of the start and a coherence kernel do: `OVER_BOOTSTRAP` times
    `Metrics.bootstrap_nmse`, 1 less the correlation with the crystals of other starts, and `NMSE_OF_KERNEL`.
    """
    of_starts = 0.0 if math.isnan(m.agreement) else 1 - m.agreement
    return OVER_BOOTSTRAP * m.bootstrap_nmse + of_starts + (NMSE_OF_KERNEL if _has_kernel(m) else 0.0)


def _offset(m: Metrics) -> float:
    return OFFSET_WITH_KERNEL if _has_kernel(m) else NOISE_OFFSET


def _has_kernel(m: Metrics) -> bool:
    return not math.isnan(m.blur_row_vox)


def _least_correlation(m: Metrics) -> float:
    return NOISY_CORRELATION if m.chi2 < NOISY_FACTOR * m.chi2_floor else GOOD_CORRELATION


def _largest_spread(m: Metrics) -> float:
    is_known = expected_nmse(m) < WELL_KNOWN_NMSE and not m.is_truncated
    return LARGEST_KNOWN_SPREAD if is_known else LARGEST_AMPLITUDE_SPREAD


def _has_noise(m: Metrics) -> bool:
    return m.chi2 > WITHOUT_NOISE * m.chi2_floor


def _overfit(m: Metrics) -> float:
    """Return the free log-likelihood over its floor, divided by chi2 over its floor; NaN if either is not known."""
    free = m.free_llk / max(m.free_llk_floor, 1e-12)
    return free / max(m.chi2 / max(m.chi2_floor, 1e-12), 1e-12)


def _why_alone(n_starts: int) -> str:
    """Say why there is no other crystal to compare with."""
    if n_starts < 2:
        return "a single start: there is no other to compare with"
    return f"only one of {n_starts} starts was carried to its end: there is no other to compare with; give more time"
