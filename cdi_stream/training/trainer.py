"""Supervised training on crystals that are simulated for each step, without a data set on disk.

Every step has its own seed, for its crystals and for the random numbers of the network.  A training that is stopped and
resumed therefore takes the same steps as a training without interruption.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, nn

from cdi_stream.errors import CdiStreamError
from cdi_stream.training.plan import Plan, Stage
from cdi_stream.training.task import Draw, Task

HELD_OUT_SEED = 1 << 31
"""Smallest seed of validation crystals; seeds of training steps are smaller, see `seed_of`."""
HELD_OUT_BATCHES = 4
"""Number of batches of a validation."""
_TRIAL_STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One line of the training curve."""

    step: int
    minutes: float
    training_loss: float
    validation_loss: float


class Training:
    """State of a training: network, optimiser, step and training curve."""

    def __init__(self, task: Task, plan: Plan, *, seed: int, device: str) -> None:
        torch.manual_seed(seed)
        self.task, self.plan, self.seed, self.device = task, plan, seed, device
        self.network = task.network().to(device)
        self.step, self.minutes, self.curve = 0, 0.0, list[Progress]()
        self._optimizer = plan.at(0)[0].make_optimizer(self.network)
        self._mean = math.nan

    @classmethod
    def resume(cls, task: Task, state: dict[str, Any], *, device: str) -> Training:
        """Return the training whose `state` was saved."""
        training = cls(task, Plan.model_validate_json(state["plan"]), seed=state["seed"], device=device)
        training.network.load_state_dict(state["network"])
        training.step, training.minutes, training._mean = state["step"], state["minutes"], state["mean"]
        training.curve = [Progress(**line) for line in state["curve"]]
        if training.step < training.plan.steps:
            training._optimizer = training.plan.at(training.step)[0].make_optimizer(training.network)
            if state["optimizer"] is not None:
                training._optimizer.load_state_dict(state["optimizer"])
        return training

    def state(self) -> dict[str, Any]:
        """Return the state from which the training can be resumed, in tensors, numbers and texts."""
        is_new_stage = self.is_done or self.plan.at(self.step)[1] == 0
        return {
            "task": self.task.name,
            "data": self.task.data,
            "plan": self.plan.model_dump_json(),
            "seed": self.seed,
            "step": self.step,
            "minutes": self.minutes,
            "device": str(self.device),  # the command line passes an enumeration
            "mean": self._mean,
            "curve": [asdict(line) for line in self.curve],
            "network": self.network.state_dict(),
            "optimizer": None if is_new_stage else self._optimizer.state_dict(),
        }

    @property
    def is_done(self) -> bool:
        """Whether all steps of the plan are done."""
        return self.step >= self.plan.steps

    def run(
        self,
        report: Callable[[Progress], None],
        save: Callable[[Training], None],
        is_over: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Train to the end of the plan or until ``is_over``.

        Parameters
        ----------
        report
            Called after every validation.
        save
            Called after every validation; it writes a checkpoint.
        is_over
            Called before every step; True ends the training.
        clock
            Time in seconds.
        """
        self.network.train()
        begin_s, before = clock(), self.minutes
        while not self.is_done and not is_over():
            self.advance()
            self.minutes = before + (clock() - begin_s) / 60
            if self.step % self.plan.validate_every == 0 or self.is_done:
                if math.isnan(self._mean):
                    raise CdiStreamError(
                        f"{self.task.name}: expected finite gradients, got none in the first {self.step} steps; "
                        "try another seed or device"
                    )
                self.curve.append(self._progress())
                report(self.curve[-1])
                save(self)

    def advance(self) -> None:
        """Train on one batch; the weights stay unchanged if a gradient is not finite."""
        stage, k = self.plan.at(self.step)
        if k == 0 and self.step > 0:
            self._optimizer = stage.make_optimizer(self.network)
        for group in self._optimizer.param_groups:
            group["lr"] = stage.rate_at(k)
        seed = seed_of(self.seed, self.step)
        torch.manual_seed(seed)  # for random numbers of the network, such as dropout
        batch = self.task.draw(self.plan.batch, Generator(self.device).manual_seed(seed))
        self._optimizer.zero_grad()
        loss = self._loss(batch, stage, in_half=True)
        if loss is None:  # bfloat16 convolutions on CPU return a gradient of NaN now and then
            self._optimizer.zero_grad()
            loss = self._loss(batch, stage, in_half=False)
        if loss is not None:
            self._optimizer.step()
            self._mean = loss if math.isnan(self._mean) else 0.98 * self._mean + 0.02 * loss
        self.step += 1

    def _loss(self, batch: Draw, stage: Stage, *, in_half: bool) -> float | None:
        """Compute the clipped gradients of a batch and return the loss, or None if gradients are not finite."""
        with torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=in_half):
            loss = self.task.loss(self.network, batch, stage)
        loss.backward()
        weights = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        norm = nn.utils.clip_grad_norm_(weights, 1.0)
        return loss.item() if torch.isfinite(norm) else None

    def _progress(self) -> Progress:
        held_out = validate(self.task, self.network, self.plan, self.device)
        return Progress(step=self.step, minutes=self.minutes, training_loss=self._mean, validation_loss=held_out)


def seed_of(seed: int, step: int) -> int:
    """Return the seed of one step, of 31 bits, since torch's CPU generator uses the lowest 32 bits of a seed alone."""
    return (2_654_435_761 * seed + step) % HELD_OUT_SEED


@torch.no_grad()
def validate(task: Task, network: nn.Module, plan: Plan, device: str) -> float:
    """Return the mean loss over held-out crystals in evaluation mode, with the terms of the last stage.

    The crystals are the same on every machine.
    """
    was_training = network.training
    network.eval()
    total = 0.0
    for index in range(HELD_OUT_BATCHES):
        batch = task.draw_held_out(plan.batch, Generator().manual_seed(HELD_OUT_SEED + index))
        total += task.loss(network, tuple(tensor.to(device) for tensor in batch), plan.stages[-1]).item()
    network.train(was_training)
    return total / HELD_OUT_BATCHES


def step_s(task: Task, plan: Plan, device: str, clock: Callable[[], float] = time.monotonic) -> float:
    """Return the mean duration of a step over all stages [s], measured by short trial trainings."""
    each_s = (_stage_s(task, plan, stage, device, clock) * stage.steps for stage in plan.stages)
    return sum(each_s) / plan.steps


def _stage_s(task: Task, plan: Plan, stage: Stage, device: str, clock: Callable[[], float]) -> float:
    trial = Training(task, plan.model_copy(update={"stages": (stage,)}), seed=0, device=device)
    trial.advance()
    begin_s = clock()
    for _ in range(_TRIAL_STEPS):
        trial.advance()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return (clock() - begin_s) / _TRIAL_STEPS
