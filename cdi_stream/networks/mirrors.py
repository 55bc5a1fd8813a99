"""Run a network on mirror images of a volume: further starts, and a measure of how reliable its answer is.

The mirror image of a crystal has the mirror image of its diffraction, but the networks are not built to respect this.
Answers that agree are seldom all wrong.  The agreement that a network needs stands in its contract, determined by
`cdi_stream.training.calibration`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, combinations

import torch
from torch import Tensor

from cdi_stream.networks.losses import overlaps
from cdi_stream.networks.torchscript import Network
from cdi_stream.numerics.fourier import mirror

VIEWS = tuple(chain.from_iterable(combinations((-3, -2, -1), k) for k in range(4)))
"""Axes along which each of the eight views of a volume is mirrored; the first view is the volume itself."""


def mirrored_answers(network: Callable[[Tensor], Tensor], magnitude: Tensor, n: int = 4) -> Tensor:
    """Return a network's crystals ``(n, ...)`` for ``n`` of the 8 views of a volume, mirrored back."""
    return torch.stack([mirror(network(mirror(magnitude, axes)), axes) for axes in VIEWS[:n]])


def is_sure(network: Network, magnitude: Tensor) -> bool:
    """Return whether the answers to four views agree as its contract requires; False for an uncalibrated network."""
    contract = network.contract
    return contract.sure_from is not None and contract.is_sure(agreement(mirrored_answers(network, magnitude)))


def agreement(answers: Tensor) -> float:
    """Return the mean overlap of all pairs of answers, in [0, 1], at the best shift and up to the twin."""
    pairs = list(combinations(range(len(answers)), 2))
    first, second = (answers[list(side)] for side in zip(*pairs, strict=True))
    return min(1.0, float(overlaps(first, second)[0].mean()))
