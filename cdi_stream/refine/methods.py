"""Kinds of refinement, one interface: a phased volume in, a better crystal on the same voxels out.

Each is stoppable between steps through ``wait_turn``, and gives the same result for the same input.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from cdi_stream.live.chain import starting_point
from cdi_stream.live.correct import to_lab
from cdi_stream.live.infer import crystal_of
from cdi_stream.live.polish import Start, polish
from cdi_stream.messages import Crystal, PhasedVolume
from cdi_stream.networks.torchscript import load, load_trainable
from cdi_stream.networks.unsupervised import UnsupervisedSchedule, refine_weights
from cdi_stream.phasing.recipe import Recipe, SupportUpdate, parse_recipe

WaitTurn = Callable[[], None]


class MethodSettings(BaseModel):
    """What the methods need beside the volume; texts and numbers only, so that a job can carry them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


def refine(method: str, phased: PhasedVolume, settings: MethodSettings, wait_turn: WaitTurn = lambda: None) -> Crystal:
    """Refine by the method of this name; the result is on the measured voxels, judged there."""
    return METHODS[method](phased, settings, wait_turn)


def described(method: str, settings: MethodSettings) -> dict[str, str]:
    """Method and schedule, as they are published."""
    if method == "network":
        schedule = f"{settings.network_steps} steps of {settings.network_file.name}, then {settings.network_recipe}"
        return {"method": method, "recipe": schedule}
    return {"method": method, "recipe": settings.recipe}


def by_recipe(phased: PhasedVolume, settings: MethodSettings, wait_turn: WaitTurn) -> Crystal:
    """Go on from the live crystal with a longer schedule of projections."""
    start = Start(
        density=torch.from_numpy(phased.crystal.density.copy()),
        support=torch.from_numpy(phased.crystal.support.copy()),
        affine=phased.volume.affine,
    )
    return polish(phased.volume, start, settings.schedule(settings.recipe), phased.doubts, wait_turn)


def by_network(phased: PhasedVolume, settings: MethodSettings, wait_turn: WaitTurn) -> Crystal:
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
    start = starting_point(crystal_of(refined.crystal, lab), phased.volume, "cpu")
    return polish(phased.volume, start, settings.schedule(settings.network_recipe), phased.doubts, wait_turn)


METHODS: dict[str, Callable[[PhasedVolume, MethodSettings, WaitTurn], Crystal]] = {
    "recipe": by_recipe,
    "network": by_network,
}
