"""How far counting noise alone moves a crystal: a parametric bootstrap.

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
from cdi_stream.phasing.recipe import parse_recipe

_AGAIN = parse_recipe("SUPPORT[fixed]+60*ER")


def bootstrap_nmse(
    data: Measurement, found: Batch, seed: int = 0, is_over: Callable[[], bool] = lambda: False
) -> float:
    """`nmse` between the first crystal of a batch and what becomes of it with other counts of the same expectation.

    Counts are drawn from what the crystal makes one expect, as many as were measured, and it is refined to them in its
    support.  NaN if that `is_over` too soon, or nothing is expected.
    """
    if is_over():
        return math.nan
    crystal = found.result[:1]
    expected = expected_counts(reciprocal(crystal, data.n_axes), data)[0]
    measured, total = data.magnitude.square()[data.valid].sum(), expected[data.valid].sum()
    if not (torch.isfinite(total) and total > 0):
        return math.nan
    rates = (expected * (measured / total)).cpu()
    counts = torch.poisson(rates, torch.Generator().manual_seed(seed)).to(expected.device)
    again = run_to_end(_AGAIN, replace(data, magnitude=counts.sqrt()), found.select([0]), is_over=is_over)
    return math.nan if is_over() else float(nmse(crystal[0], again.result[0]))
