"""Draw random numbers and kinds independently for each crystal of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor

Draws = Mapping[str, Callable[[Tensor, int, Generator], Tensor]]
"""Functions by name that draw a batch from a tensor of its sizes, the voxels along an axis, and a generator."""


def uniform(shape: tuple[int, ...], bounds: tuple[float, float], generator: Generator) -> Tensor:
    """Return random numbers distributed uniformly between the bounds."""
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(shape, generator=generator, device=generator.device)


def among(names: Sequence[str], ways: Draws, sizes: Tensor, n: int, generator: Generator) -> Tensor:
    """Return a batch in which each element is drawn by a randomly chosen function.

    Parameters
    ----------
    names
        Names of functions; a name that occurs twice is chosen twice as often.
    ways
        Functions by name.
    sizes
        Sizes ``(batch, ...)`` that the functions take.
    n
        Voxels along each axis.
    generator
        Source of random numbers.
    """
    choice = torch.randint(len(names), (sizes.shape[0],), generator=generator, device=generator.device)
    batch: Tensor | None = None
    for name in dict.fromkeys(names):
        places = torch.tensor([k for k, choice_name in enumerate(names) if choice_name == name], device=sizes.device)
        rows = torch.isin(choice, places).nonzero()[:, 0]
        if len(rows):
            elements = ways[name](sizes[rows], n, generator)
            batch = elements.new_empty((sizes.shape[0], *elements.shape[1:])) if batch is None else batch
            batch[rows] = elements
    assert batch is not None
    return batch
