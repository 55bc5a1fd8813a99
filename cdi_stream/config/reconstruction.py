"""Sections ``[assemble]``, ``[prepare]``, ``[network]``, ``[phase]`` and ``[refine]``: from frames to crystals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cdi_stream.config.section import Section, require_plugin
from cdi_stream.config.values import (
    Budget,
    Name,
    PossibleFolder,
    RecipeText,
    SchedulerAddress,
    Seconds,
    Threads,
    VolumeAxis,
    within,
)
from cdi_stream.errors import ConfigError
from cdi_stream.networks.packaged import DEFAULT_NETWORK, network_file


class AssembleConfig(Section):
    """Assembly of frames and readings to a rocking curve: waiting times, the monitor, and the folder of open scans."""

    directory: PossibleFolder | None = Field(
        default=None,
        description=(
            "Folder for frames and documents of open scans, from which a restarted service goes on; by default "
            "incoming in publish.directory. It belongs on a fast local disk."
        ),
    )

    late_grace_s: Seconds = Field(
        default=0.5,
        description="Time to wait for late frames after the end of a series, in seconds.",
    )
    reading_timeout_s: Seconds = Field(
        default=10.0,
        description="Time to wait for the run's documents after the last frame, in seconds.",
    )
    idle_timeout_s: Seconds = Field(
        default=120.0,
        description=(
            "Time without any message after which a series is closed as incomplete, in seconds; it must exceed the "
            "longest exposure and the longest pause."
        ),
    )
    monitor: Name | None = Field(
        default=None,
        description=(
            "Name of the monitor counter in the events, which scales the expected counts of each frame; by default "
            "none."
        ),
    )


class PrepareConfig(Section):
    """Limits of the volume that is inverted."""

    max_shape: tuple[VolumeAxis, VolumeAxis, VolumeAxis] = Field(
        default=(128, 128, 128),
        description="Largest window about the peak as (frames, rows, columns), in voxels.",
    )
    min_counts: Annotated[int, within(0, 1e12, "counts")] = Field(
        default=5_000,
        description="Smallest sum of counts in the window; a curve with fewer counts fails.",
    )


class NetworkConfig(Section):
    """Network that gives the first crystal, by file or by name."""

    file: Path = Field(
        default=DEFAULT_NETWORK,
        description=(
            "Network file, or the name of a network that comes with the package: unrolled, wu2021-small, "
            "chan2021-small or masto2025-small. A network file is code."
        ),
    )

    @field_validator("file", mode="before")
    @classmethod
    def _found(cls, value: object) -> object:
        try:
            return network_file(value) if isinstance(value, str) else value
        except ConfigError as error:  # pydantic reports only errors of its own types
            raise ValueError(str(error)) from error


class PhaseConfig(Section):
    """Live phase retrieval on the measured voxels: a search from random starts, or a fixed recipe.

    The network's crystal takes part in the search if the network is sure of it.
    """

    budget_s: Budget = Field(
        default=30.0,
        description="Longest time for the phase retrieval of one curve, in seconds.",
    )
    most_voxels: Annotated[int, within(0, 512**3, "voxels")] = Field(
        default=300_000,
        description=(
            "Largest volume that is searched on all its voxels. A larger volume is searched on a coarse grid, and its "
            "best crystal gets its details on all voxels."
        ),
    )
    recipe: RecipeText | None = Field(
        default=None,
        description=(
            "Fixed schedule of projections from the network's crystal, instead of the search; by default the search."
        ),
    )


class MethodConfig(Section):
    """Settings that the methods of refinement share."""

    budget_s: Budget = Field(
        default=60.0,
        description="Processor time for each refinement, in seconds.",
    )
    recipe: RecipeText = Field(
        default="SW[every=10,after=0]+SUPPORT[border]+150*HIO+150*ER",
        description="Schedule of projections of the methods recipe and hybrid.",
    )
    network_steps: Annotated[int, within(1, 1e6, "steps")] = Field(
        default=150,
        description="Largest number of training steps of the method network.",
    )
    network_recipe: RecipeText = Field(
        default="SW[every=10,after=0]+SUPPORT[border]+30*ER",
        description="Schedule of projections after the training steps of the method network.",
    )


class RefineConfig(MethodConfig):
    """Refinement behind the live path: each reconstruction is queued once for each method.

    ``auto`` searches again and keeps the live crystal as a candidate.  ``recipe`` continues the live crystal by
    projections, ``object`` by gradients.  ``hybrid`` runs the recipe from the network's answer.  ``network`` trains the
    network on the volume of the curve, then runs ``network_recipe``.  The worker process has the lowest priority.
    """

    methods: tuple[Literal["auto", "recipe", "object", "network", "hybrid"], ...] = Field(
        default=("auto",),
        description=(
            "Methods that refine each reconstruction: auto, recipe, object, network or hybrid; an empty list switches "
            "refinement off."
        ),
    )
    threads: Threads = Field(
        default=1,
        description="Number of threads of each refinement job.",
    )
    engine: Name = Field(
        default="local",
        validate_default=True,
        description=(
            "Program that computes the jobs: local, the worker processes of the service; dask, a Dask cluster; or the "
            "name of a plugin."
        ),
    )
    workers: Annotated[int, within(1, 1000, "jobs")] = Field(
        default=1,
        description=(
            "Number of jobs at work at the same time: worker processes of local, or jobs that are sent to the cluster "
            "at once."
        ),
    )
    scheduler: SchedulerAddress | None = Field(
        default=None,
        description=(
            "Address of a running Dask scheduler, for example tls://cluster.example:8786; by default the engine dask "
            "starts a cluster of its own on this machine."
        ),
    )
    resources: dict[Name, Annotated[float, within(0, 1e6, "as an amount")]] = Field(
        default={},
        description=(
            "What each job needs on its Dask worker, for example {GPU = 1}; the workers are started with these names."
        ),
    )
    lease_s: Annotated[float, within(10, 86_400, "s")] = Field(
        default=120.0,
        description=(
            "Time without a sign of life after which a job goes to another worker, in seconds; longer than the longest "
            "step of a method."
        ),
    )
    keep_done_days: Annotated[float, within(0, 36_500, "days")] = Field(
        default=30.0,
        description="Age at which done and cancelled jobs are deleted from the queue, in days; the results stay.",
    )
    keep_done_jobs: Annotated[int, within(0, 1_000_000, "jobs")] = Field(
        default=1000,
        description="Largest number of done and cancelled jobs that the queue keeps; older ones are deleted first.",
    )

    @field_validator("engine")
    @classmethod
    def _installed(cls, name: str) -> str:
        return require_plugin("cdi_stream.engine", name)

    @model_validator(mode="after")
    def _has_scheduler(self) -> RefineConfig:
        """Refuse settings of a cluster for the local engine."""
        if self.engine == "local" and (self.scheduler is not None or self.resources):
            key = "scheduler" if self.scheduler is not None else "resources"
            raise ValueError(f'expected engine = "dask" with {key}, got engine = "local", which has no cluster')
        return self

    @property
    def processes(self) -> int:
        """Number of worker processes: another engine than local has one, which sends the jobs to the cluster."""
        return self.workers if self.engine == "local" else 1
