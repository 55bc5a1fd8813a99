"""Polish: a few projections on the measured, uninterpolated voxels, from the network's crystal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cdi_stream.affine import AffineMap
from cdi_stream.fourier import from_fourier_order, to_fourier_order
from cdi_stream.messages import Crystal, PreparedVolume, read_only
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.quality import judge, misfit
from cdi_stream.phasing.recipe import Recipe, run_recipe


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
    density, support = to_fourier_order(start.density), to_fourier_order(start.support)
    crystal, support = run_recipe(recipe, data, density, support, wait_turn)
    scalars = misfit(crystal, data)
    scalars["support_fraction"] = float(support.float().mean())
    scalars["cycles"] = recipe.cycles
    return Crystal(
        density=read_only(from_fourier_order(crystal).cpu().numpy()),
        support=read_only(from_fourier_order(support).cpu().numpy()),
        affine=start.affine,
        scalars=scalars,
        verdict=judge(scalars, reasons),
    )
