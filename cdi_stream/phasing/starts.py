"""Starts of phase retrieval: random phases on the measured magnitudes, or a crystal that is known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cdi_stream.phasing.autocorrelation import autocorrelation
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.projections import Measurement, direct
from cdi_stream.phasing.support import box_support
from cdi_stream.phasing.tuning import TUNING


def random_starts(data: Measurement, seeds: Sequence[int], support: Tensor | None = None) -> Batch:
    """Return starts with random phases on the measured magnitudes, one per seed.

    A seed gives the same start in every batch.  ``support`` is ``(*shape)`` for all starts or ``(starts, *shape)``; by
    default it is a box of half the array along each axis, as in Wu et al. (2021), npj Comput. Mater. 7, 175,
    doi:10.1038/s41524-021-00644-z.
    """
    shape = tuple(data.magnitude.shape)
    device = data.magnitude.device
    magnitude = data.target.clamp_min(0)
    crystals = []
    for seed in seeds:
        phase = 2 * torch.pi * torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        crystals.append(direct(torch.polar(magnitude, phase.to(device, magnitude.dtype)), data.n_axes))
    mask = (box_support(shape) if support is None else support).to(device)
    return Batch(crystal=torch.stack(crystals), support=mask.expand(len(seeds), *shape).contiguous())


def autocorrelation_starts(
    data: Measurement, seeds: Sequence[int], thresholds: tuple[float, float] = TUNING.start_thresholds
) -> Batch:
    """Return starts with random phases, each with its own region of the autocorrelation as its support.

    The thresholds of the regions go from the first to the second of ``thresholds`` in even steps: Masto et al. (2025),
    arXiv:2507.06644, doi:10.48550/arXiv.2507.06644.
    """
    modulus, levels = autocorrelation(data), torch.linspace(*thresholds, max(len(seeds), 2))
    return random_starts(data, seeds, torch.stack([modulus > level for level in levels[: len(seeds)]]))


def start_from(crystal: Tensor, support: Tensor) -> Batch:
    """Return the batch of one crystal and its support, ``(*shape)`` both, in Fourier order."""
    return Batch(crystal=(crystal * support)[None], support=support[None])
