"""Where phasing begins: random phases on the measured magnitudes, or a crystal that is there already."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cdi_stream.phasing.autocorrelation import autocorrelation
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.projections import Measurement, direct
from cdi_stream.phasing.support import box_support


def random_starts(data: Measurement, seeds: Sequence[int], support: Tensor | None = None) -> Batch:
    """Random phases on the measured magnitudes, one start a seed, the same however they are batched.

    ``support`` is one for all or one each; by default a box of half the array (Wu et al. 2021).
    """
    shape = tuple(data.magnitude.shape)
    device = data.magnitude.device
    magnitude = data.target.clamp_min(0)
    crystals = []
    for seed in seeds:
        turn = 2 * torch.pi * torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        crystals.append(direct(torch.polar(magnitude, turn.to(device, magnitude.dtype)), data.n_axes))
    mask = (box_support(shape) if support is None else support).to(device)
    return Batch(crystal=torch.stack(crystals), support=mask.expand(len(seeds), *shape).contiguous())


def autocorrelation_starts(
    data: Measurement, seeds: Sequence[int], thresholds: tuple[float, float] = (0.05, 0.15)
) -> Batch:
    """Random phases in the autocorrelation's region, its threshold another for each start (Masto et al. 2025)."""
    modulus, levels = autocorrelation(data), torch.linspace(*thresholds, max(len(seeds), 2))
    return random_starts(data, seeds, torch.stack([modulus > level for level in levels[: len(seeds)]]))


def start_from(crystal: Tensor, support: Tensor) -> Batch:
    """Begin with one crystal and its support, ``shape`` both, in Fourier order."""
    return Batch(crystal=(crystal * support)[None], support=support[None])
