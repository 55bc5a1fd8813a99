"""How long and how fast to train: stages of steps, each with its optimiser and the weights that it changes."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import nn

WARM_UP_STEPS = 50


class Stage(BaseModel):
    """Steps of one optimiser; its rate warms up, then falls to ``last`` of itself.

    ``trained`` are beginnings of names: only such weights change.  ``terms`` are weights of the loss's terms, where it
    has several.
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
        """Learning rate of a step of this stage, counted from 0."""
        done = step / self.steps
        if self.fall == "geometric":
            share = self.last**done
        else:
            share = self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * done))
        result: float = self.rate * share * min(1.0, (step + 1) / min(WARM_UP_STEPS, self.steps))
        return result

    def started(self, network: nn.Module) -> torch.optim.Optimizer:
        """Let the weights of this stage change and no others; returns a new optimiser of them."""
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
    """Stages one after the other, crystals a step, and steps between two looks at held-out crystals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: tuple[Stage, ...]
    batch: PositiveInt = 16
    validate_every: PositiveInt = 100

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    def at(self, step: int) -> tuple[Stage, int]:
        """The stage of a step, and which of its steps that is."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise IndexError(f"expected a step below {self.steps}, got {self.steps + step}")

    def lasting(self, steps: int) -> Plan:
        """The same with about so many steps in all."""
        share = steps / self.steps
        stages = (stage.model_copy(update={"steps": max(1, round(share * stage.steps))}) for stage in self.stages)
        return self.model_copy(update={"stages": tuple(stages)})
