"""Training plans: stages of steps, each with its optimiser, its learning rate and the weights that it changes."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import nn

WARM_UP_STEPS = 50
"""Number of steps in which the learning rate of a stage rises to its full value."""


class Stage(BaseModel):
    """Steps of one optimiser, whose learning rate warms up and then falls.

    Parameters
    ----------
    steps
        Number of steps.
    optimizer
        Kind of optimiser.
    rate
        Learning rate after the warm-up.
    fall
        Shape of the fall of the learning rate.
    last
        Learning rate at the end, as a share of ``rate``.
    trained
        Prefixes of the names of the weights that change.
    terms
        Weights of the terms of the loss, where it has several.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: PositiveInt
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    rate: float = 2e-3
    fall: Literal["cosine", "geometric"] = "cosine"
    last: float = 0.02
    trained: tuple[str, ...] = ("",)
    terms: tuple[float, ...] = ()

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step of this stage, counted from 0."""
        progress = step / self.steps
        if self.fall == "geometric":
            share = self.last**progress
        else:
            share = self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * progress))
        result: float = self.rate * share * min(1.0, (step + 1) / min(WARM_UP_STEPS, self.steps))
        return result

    def make_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return a new optimiser of the weights that this stage changes; all other weights are fixed."""
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(self.trained))
        weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
        match self.optimizer:
            case "adamw":
                return torch.optim.AdamW(weights, lr=self.rate, weight_decay=1e-4)
            case "adam":
                return torch.optim.Adam(weights, lr=self.rate)
            case "sgd":
                return torch.optim.SGD(weights, lr=self.rate)


class Plan(BaseModel):
    """Stages in their order, number of crystals for each step, and number of steps between two validations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: tuple[Stage, ...]
    batch: PositiveInt = 16
    validate_every: PositiveInt = 100

    @property
    def steps(self) -> int:
        """Number of steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def at(self, step: int) -> tuple[Stage, int]:
        """Return the stage of a step, and the number of the step within that stage."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise IndexError(f"expected a step below {self.steps}, got {self.steps + step}")

    def with_steps(self, steps: int) -> Plan:
        """Return the plan with about ``steps`` steps in all, distributed over the stages as before."""
        share = steps / self.steps
        stages = (stage.model_copy(update={"steps": max(1, round(share * stage.steps))}) for stage in self.stages)
        return self.model_copy(update={"stages": tuple(stages)})
