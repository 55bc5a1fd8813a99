"""Training that begins with the weights of a network that is there."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from torch import nn

from cdi_stream.errors import NetworkFileError
from cdi_stream.networks.torchscript import load_trainable
from cdi_stream.training.task import Task


def begun_from(task: Task, file: Path) -> Task:
    """The last stage of a training, from the weights in a network file of the same kind.

    Raises
    ------
    NetworkFileError
        If it is no network file, or one of other weights.
    """
    weights = load_trainable(file).script.state_dict()

    def network() -> nn.Module:
        made = task.network()
        try:
            task.exported(made).load_state_dict(weights)
        except RuntimeError as error:
            raise NetworkFileError(f"{file}: expected weights of {task.name}, got others: {error}") from error
        return made

    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    plan = task.plan.model_copy(update={"stages": task.plan.stages[-1:]})
    return replace(task, network=network, plan=plan, data=f"{task.data}, begun with other weights (sha256 {sha256})")
