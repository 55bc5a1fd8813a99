"""Kinds of refinement, one interface: a phased volume in, a better crystal on the same voxels out.

Each is stoppable between steps through ``wait_turn``, and gives the same result for the same input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cdi_stream.live.chain import starting_point
from cdi_stream.live.correct import to_lab
from cdi_stream.live.infer import crystal_of
from cdi_stream.live.polish import Start, polish
from cdi_stream.messages import Crystal, PhasedVolume
from cdi_stream.networks.torchscript import load, load_trainable
from cdi_stream.networks.unsupervised import UnsupervisedSchedule, refine_weights
from cdi_stream.phasing.recipe import Recipe, SupportUpdate, parse_recipe

WaitTurn = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSettings:
    """What the methods need beside the volume; texts and numbers only, so that a job can carry them."""

    recipe: str
    network_file: Path
    network_steps: int
    network_recipe: str
    support_threshold: float
    support_every: int
    support_sigma_vox: float

    def schedule(self, text: str) -> Recipe:
        """Read a recipe with the support update of these settings."""
        update = SupportUpdate(
            every=self.support_every,
            threshold=self.support_threshold,
            sigma_vox=self.support_sigma_vox,
            border_only=True,
        )
        return parse_recipe(text, update)


def refine(
    method: str, phased: PhasedVolume, settings: MethodSettings, reasons: tuple[str, ...], wait_turn: WaitTurn
) -> Crystal:
    """Refine by the method of this name; the result is on the measured voxels, judged there."""
    return METHODS[method](phased, settings, reasons, wait_turn)


def by_recipe(phased: PhasedVolume, settings: MethodSettings, reasons: tuple[str, ...], wait_turn: WaitTurn) -> Crystal:
    """Go on from the live crystal with a longer schedule of projections."""
    start = Start(
        density=torch.from_numpy(phased.crystal.density.copy()),
        support=torch.from_numpy(phased.crystal.support.copy()),
        affine=phased.volume.affine,
    )
    return polish(phased.volume, start, settings.schedule(settings.recipe), reasons, wait_turn)


def by_network(
    phased: PhasedVolume, settings: MethodSettings, reasons: tuple[str, ...], wait_turn: WaitTurn
) -> Crystal:
    """Change the network's weights for this volume (Wu et al. 2021, equations 7-8), then polish its crystal.

    The network sees interpolated magnitudes on the lab grid; the polish holds its crystal against the measured
    voxels, as the live path does.
    """
    contract = load(settings.network_file).contract
    lab = to_lab(phased.volume, contract.input_shape[0], contract.oversampling)
    refined = refine_weights(
        load_trainable(settings.network_file),
        torch.from_numpy(lab.magnitude.copy()),
        torch.from_numpy(lab.valid_pixels.copy()),
        UnsupervisedSchedule(steps=settings.network_steps),
        wait_turn,
    )
    start = starting_point(crystal_of(refined.crystal, lab, reasons), phased.volume, "cpu")
    return polish(phased.volume, start, settings.schedule(settings.network_recipe), reasons, wait_turn)


METHODS: dict[str, Callable[[PhasedVolume, MethodSettings, tuple[str, ...], WaitTurn], Crystal]] = {
    "recipe": by_recipe,
    "network": by_network,
}
