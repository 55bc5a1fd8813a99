"""Random choices of a batch, each crystal for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor

Draws = Mapping[str, Callable[[Tensor, int, Generator], Tensor]]
"""Ways to draw a batch by one tensor of its sizes and the voxels along an axis."""


def uniform(shape: tuple[int, ...], bounds: tuple[float, float], generator: Generator) -> Tensor:
    """Evenly between the bounds."""
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(shape, generator=generator, device=generator.device)


def among(names: Sequence[str], ways: Draws, sizes: Tensor, n: int, generator: Generator) -> Tensor:
    """Draw each of a batch in a way of its own, chosen from the names."""
    chosen = torch.randint(len(names), (sizes.shape[0],), generator=generator, device=generator.device)
    found: Tensor | None = None
    for name in dict.fromkeys(names):
        places = torch.tensor([k for k, other in enumerate(names) if other == name], device=sizes.device)
        rows = torch.isin(chosen, places).nonzero()[:, 0]
        if len(rows):
            drawn = ways[name](sizes[rows], n, generator)
            found = drawn.new_empty((sizes.shape[0], *drawn.shape[1:])) if found is None else found
            found[rows] = drawn
    assert found is not None
    return found
