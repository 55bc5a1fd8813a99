"""Fine-tune an existing network: a training that starts from the weights of a network file."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from torch import nn

from cdi_stream.errors import NetworkFileError
from cdi_stream.networks.torchscript import load_trainable
from cdi_stream.training.task import Task


def fine_tune(task: Task, file: Path) -> Task:
    """Return the last stage of a training, which starts from the weights of a network file of the same kind.

    Raises
    ------
    NetworkFileError
        If the file is no network file, or its network has other layers.
    """
    weights = load_trainable(file).script.state_dict()

    def network() -> nn.Module:
        """Return the network of the task with the weights of the file."""
        result = task.network()
        try:
            task.wrap_for_export(result).load_state_dict(weights)
        except RuntimeError as error:
            raise NetworkFileError(
                f"{file}: expected weights of {task.name}, got others: {error}; take a network file of {task.name}"
            ) from error
        return result

    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    plan = task.plan.model_copy(update={"stages": task.plan.stages[-1:]})
    return replace(task, network=network, plan=plan, data=f"{task.data}, begun with other weights (sha256 {sha256})")
