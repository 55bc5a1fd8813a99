"""Sections ``[assemble]``, ``[prepare]``, ``[network]``, ``[phase]`` and ``[refine]``: from frames to crystals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import field_validator

from cdi_stream.config.section import Section
from cdi_stream.config.values import (
    Budget,
    Name,
    PossibleFolder,
    RecipeText,
    Seconds,
    Threads,
    VolumeAxis,
    within,
)
from cdi_stream.errors import ConfigError
from cdi_stream.networks.packaged import DEFAULT_NETWORK, network_file


class AssembleConfig(Section):
    """How long to wait for what [s]; ``monitor`` names the events' monitor counter.

    ``directory`` holds frames and documents of scans under way, so that a restarted service goes on with them; it is
    ``incoming`` in the results folder unless it is named, and belongs on a fast local disk.
    """

    directory: PossibleFolder | None = None

    late_grace_s: Seconds = 0.5
    reading_timeout_s: Seconds = 10.0
    idle_timeout_s: Seconds = 120.0
    monitor: Name | None = None


class PrepareConfig(Section):
    """Limits of the volume that is phased."""

    max_shape: tuple[VolumeAxis, VolumeAxis, VolumeAxis] = (128, 128, 128)
    min_counts: Annotated[int, within(0, 1e12, "counts")] = 5_000


class NetworkConfig(Section):
    """The network, by its file or by the name of one that comes with the package."""

    file: Path = DEFAULT_NETWORK

    @field_validator("file", mode="before")
    @classmethod
    def _found(cls, value: object) -> object:
        try:
            return network_file(value) if isinstance(value, str) else value
        except ConfigError as error:  # pydantic wants to be told in its own way
            raise ValueError(str(error)) from error


class PhaseConfig(Section):
    """How the network's crystal is polished: by a short search, in which it competes if sure, or by a recipe if given.

    ``budget_s`` is the most that it may take; volumes of more than ``most_voxels`` voxels are not searched, but go from
    the network's crystal and are compared with others.
    """

    budget_s: Budget = 30.0
    most_voxels: Annotated[int, within(0, 512**3, "voxels")] = 300_000
    recipe: RecipeText | None = None


class RefineConfig(Section):
    """Refinement behind the live path: every reconstruction is queued for each of the methods; none switches it off.

    ``auto`` searches anew and keeps the live crystal as a candidate; ``recipe`` goes on from it, and so does
    ``object``, by gradients; ``hybrid`` runs the recipe from the network's answer; ``network`` changes the network's
    weights for the volume, for ``network_steps``, and polishes by ``network_recipe``.  ``budget_s`` is processor time
    for each.  The worker process is niced and has ``threads``.
    """

    methods: tuple[Literal["auto", "recipe", "object", "network", "hybrid"], ...] = ("auto",)
    budget_s: Budget = 60.0
    recipe: RecipeText = "SW[every=10,after=0]+SUPPORT[border]+150*HIO+150*ER"
    network_steps: Annotated[int, within(1, 1e6, "steps")] = 150
    network_recipe: RecipeText = "SW[every=10,after=0]+SUPPORT[border]+30*ER"
    threads: Threads = 1
