"""A network asked again about mirror images of what it saw: other starts, and how far its answer is to be trusted.

The mirror image of a crystal has the mirror image of its diffraction, but no network here is built to know that.  Where
its answers agree all the same they are seldom wrong together; from which agreement on, its contract says, as
`cdi_stream.training.calibration` finds it.
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
"""Axes along which each is mirrored; the first is as measured."""


def mirrored_answers(network: Callable[[Tensor], Tensor], magnitude: Tensor, n: int = 4) -> Tensor:
    """Crystals ``(n, ...)``, all the right way round, that a network answers to ``n`` of the 8 views of a volume."""
    return torch.stack([mirror(network(mirror(magnitude, axes)), axes) for axes in VIEWS[:n]])


def is_sure(network: Network, magnitude: Tensor) -> bool:
    """Whether a network answers to the mirror images of a volume as much alike as its contract asks for; else never."""
    contract = network.contract
    return contract.sure_from is not None and contract.is_sure(agreement(mirrored_answers(network, magnitude)))


def agreement(answers: Tensor) -> float:
    """Mean overlap of each two answers, in [0, 1], wherever they lie and twin or not."""
    pairs = list(combinations(range(len(answers)), 2))
    first, second = (answers[list(side)] for side in zip(*pairs, strict=True))
    return min(1.0, float(overlaps(first, second)[0].mean()))
