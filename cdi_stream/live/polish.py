"""Polish: a few projections on the measured, uninterpolated voxels, from the network's crystal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cdi_stream.affine import AffineMap
from cdi_stream.fourier import from_fourier_order, to_fourier_order
from cdi_stream.messages import Crystal, PreparedVolume, Verdict, read_only
from cdi_stream.phasing.engine import run
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.quality import judge, misfit
from cdi_stream.phasing.recipe import Recipe
from cdi_stream.phasing.starts import start_from


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Crystal and support to start from, in the detector voxels of the volume, origin at N//2."""

    density: Tensor
    support: Tensor
    affine: AffineMap


def measurement(volume: PreparedVolume, device: str = "cpu") -> Measurement:
    """Measured magnitudes in Fourier order, with the expected scale as the model's gain."""

    def order(array: np.ndarray) -> Tensor:
        return to_fourier_order(torch.from_numpy(np.array(array)).to(device)).contiguous()

    return Measurement(
        magnitude=order(volume.counts.astype(np.float32)).sqrt(),
        gain=order(volume.expected_scale).sqrt(),
        valid=order(volume.valid_pixels),
    )


def polish(
    volume: PreparedVolume,
    start: Start,
    recipe: Recipe,
    reasons: tuple[str, ...] = (),
    wait_turn: Callable[[], None] = lambda: None,
) -> Crystal:
    """Run the recipe on the measured voxels; the result is in detector coordinates.

    ``wait_turn`` is called before every cycle and may hold it up.
    """
    data = measurement(volume, str(start.density.device))
    cycles = run(recipe, data, start_from(to_fourier_order(start.density), to_fourier_order(start.support)))
    for _ in range(recipe.cycles):
        wait_turn()
        next(cycles)
    end = next(cycles)
    crystal, support = end.crystal[0], end.support[0]
    scalars = misfit(crystal, data)
    scalars["support_fraction"] = float(support.float().mean())
    scalars["cycles"] = recipe.cycles
    return crystal_from(crystal, support, start.affine, scalars, judge(scalars, reasons))


def crystal_from(
    crystal: Tensor, support: Tensor, affine: AffineMap, scalars: dict[str, float], verdict: Verdict
) -> Crystal:
    """Message of a crystal and a support in Fourier order."""
    return Crystal(
        density=read_only(from_fourier_order(crystal).cpu().numpy()),
        support=read_only(from_fourier_order(support).cpu().numpy()),
        affine=affine,
        scalars=scalars,
        verdict=verdict,
    )
