"""Parametric bootstrap: how far counting noise alone moves a crystal.

Efron (1979), Ann. Statist. 7, 1, doi:10.1214/aos/1176344552.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from cdi_stream.phasing.engine import Batch, run_to_end
from cdi_stream.phasing.measures import nmse
from cdi_stream.phasing.projections import Measurement, expected_counts, reciprocal
from cdi_stream.phasing.steps import Cycles, SupportMode, recipe_of

_REFIT = recipe_of(SupportMode("fixed"), Cycles("ER", 60))
"""Recipe that fits the crystal to other counts, in its own support."""


def bootstrap_nmse(
    data: Measurement, batch: Batch, seed: int = 0, is_over: Callable[[], bool] = lambda: False
) -> float:
    """Return the `nmse` between the first crystal of a batch and the same crystal fitted to other counts.

    The other counts are drawn from the counts that the crystal predicts, scaled to the measured total; the crystal is
    then fitted to them in its own support.  NaN if ``is_over`` becomes true before the end, and if the crystal predicts
    no counts.
    """
    if is_over():
        return math.nan
    crystal = batch.result[:1]
    expected = expected_counts(reciprocal(crystal, data.n_axes), data)[0]
    measured, total = data.magnitude.square()[data.valid].sum(), expected[data.valid].sum()
    if not (torch.isfinite(total) and total > 0):
        return math.nan
    rates = (expected * (measured / total)).cpu()
    counts = torch.poisson(rates, torch.Generator().manual_seed(seed)).to(expected.device)
    refit = run_to_end(_REFIT, replace(data, magnitude=counts.sqrt()), batch.select([0]), is_over=is_over)
    inside = batch.support[0]  # both crystals are zero elsewhere
    return math.nan if is_over() else float(nmse(crystal[0][inside], refit.result[0][inside]))
