"""Run a training from its name to an exported network with model card, training curve and checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from cdi_stream.errors import ConfigError
from cdi_stream.files.intensities.objects import require_writable
from cdi_stream.networks.torchscript import NetworkContract, export, round_to_half
from cdi_stream.training import chan2021, checkpoint, masto2025, unrolled, wu2021
from cdi_stream.training.atom_sets import AtomSet, train_on_atoms
from cdi_stream.training.fine_tuning import fine_tune
from cdi_stream.training.task import Task
from cdi_stream.training.trainer import Progress, Training, step_s

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        unrolled.TASK,
        wu2021.SMALL,
        wu2021.WHOLE,
        wu2021.PLANE,
        chan2021.SMALL,
        chan2021.TASK,
        masto2025.SMALL,
        masto2025.TASK,
    )
}
"""Trainings by name."""

Report = Callable[[str], None]
STEPS_SHARE = 0.92
"""Share of the minutes that is planned for steps; validation and checkpoints take the rest."""


def train(
    name: str,
    out: Path,
    *,
    minutes: float,
    steps: int | None,
    seed: int,
    device: str,
    is_resumed: bool,
    report: Report,
    crystals: Path | None = None,
    start: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Training:
    """Train a network, export it to ``out``, and return the training.

    Training curve (``.curve.jsonl``), model card (``.card.json``) and ``.checkpoint`` are written next to ``out``.

    Parameters
    ----------
    name, out
        Name of the training in `TASKS`, and network file, ending in ``.pt``.
    minutes, steps
        Longest time [min], and number of steps; None: as many as the minutes allow.
    seed, device
        Seed of weights and crystals, and device of the training.
    is_resumed
        Whether the training continues from its newest checkpoint.
    report
        Called with a line of text at every validation.
    crystals, start
        File of an `AtomSet` to train on, and network file with the initial weights; None: simulated, and random.
    clock
        Time in seconds.

    Raises
    ------
    ConfigError
        If ``out`` does not end in .pt or cannot be written; if network or crystals do not exist; if there is a
        checkpoint and ``is_resumed`` is false, or none and it is true; if the checkpoint belongs to another training.
    NetworkFileError
        If ``start`` is no network of this name.
    """
    begin_s = clock()
    _require_network_file(out)
    task = _task(name) if crystals is None else train_on_atoms(_task(name), AtomSet.read(crystals))
    task = task if start is None else fine_tune(task, start)
    training = _open_training(task, _folder(out), minutes, steps, seed, device, is_resumed)
    report(f"{name}: {training.plan.steps} steps on {device}, from step {training.step}")
    training.run(
        lambda progress: report(_line(progress)),
        lambda training: _save(training, out),
        lambda: clock() - begin_s > 60 * minutes,
        clock,
    )
    if not training.is_done:  # a finished training has been saved
        _save(training, out)
    _export(training, out)
    report(_end(training, out))
    return training


def export_training(folder: Path, out: Path) -> None:
    """Export the network in the newest checkpoint of a training, with its model card and training curve.

    Raises
    ------
    ConfigError
        If there is no checkpoint, or if ``out`` does not end in .pt or cannot be written.
    """
    _require_network_file(out)
    latest = checkpoint.newest(folder)
    if latest is None:
        raise ConfigError(
            f"expected a training's checkpoint in {folder}, got none; name the folder that ends in .checkpoint"
        )
    state = checkpoint.load(latest)
    task = replace(_task(state["task"]), data=state["data"])
    training = Training.resume(task, state, device="cpu")
    training.device = state["device"]  # device of the training, for the model card
    _export(training, out)


def _require_network_file(out: Path) -> None:
    if out.suffix != ".pt":
        raise ConfigError(f"{out}: expected a network file that ends in .pt, got {out.suffix!r}; change the ending")
    require_writable(out)


def _export(training: Training, out: Path) -> None:
    network = round_to_half(training.network.to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]
    contract = training.task.contract(network, training_summary(training))
    export(training.task.wrap_for_export(network), contract, out)
    _write_curve(training, out)  # again, since a training may have been killed before the curve was written
    out.with_suffix(".card.json").write_text(json.dumps(card(training, contract), indent=1) + "\n")


def card(training: Training, contract: NetworkContract) -> dict[str, Any]:
    """Return the model card of a network: contract, training data, plan, duration and last losses."""
    last = asdict(training.curve[-1]) if training.curve else None
    return {
        "network": contract.model_dump(),
        "weights": sum(weight.numel() for weight in training.network.parameters()),
        "data": f"crystals {training.task.data}",
        "plan": training.plan.model_dump(),
        "seed": training.seed,
        "steps": training.step,
        "crystals": training.step * training.plan.batch,
        "minutes": round(training.minutes, 2),
        "device": training.device,
        "torch": torch.__version__,
        "last": last,
    }


def training_summary(training: Training) -> str:
    """Return one sentence on the training of a network."""
    held_out = f"{training.curve[-1].validation_loss:.3f}" if training.curve else "not yet known"
    return (
        f"{training.step} of {training.plan.steps} steps of {training.plan.batch} crystals, {training.task.data}; "
        f"{training.minutes:.1f} minutes on {training.device}, seed {training.seed}; held-out loss {held_out}"
    )


def _end(training: Training, out: Path) -> str:
    """Return a line on the exported network, with the way to continue if the time ended the training."""
    line = f"{out} written after step {training.step} of {training.plan.steps}"
    return line if training.is_done else f"{line}: the time is over; go on with --resume and more --minutes"


def _task(name: str) -> Task:
    if name not in TASKS:
        raise ConfigError(f"network: expected one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]


def _open_training(
    task: Task, folder: Path, minutes: float, steps: int | None, seed: int, device: str, is_resumed: bool
) -> Training:
    """Return the training of the newest checkpoint if it is resumed, else a new training."""
    latest = checkpoint.newest(folder)
    if is_resumed and latest is None:
        raise ConfigError(f"--resume: expected a checkpoint in {folder}, got none; train without --resume first")
    if latest is not None and not is_resumed:
        raise ConfigError(f"{folder} holds a training at {latest.name}: go on with --resume, or remove the folder")
    if latest is not None:
        state = checkpoint.load(latest)
        if state["task"] != task.name:
            raise ConfigError(
                f"--resume: expected a checkpoint of {task.name}, got one of {state['task']} in {latest}; "
                "give the network's name as before"
            )
        if state["data"] != task.data:
            raise ConfigError(
                f"--resume: expected crystals {state['data']}, got {task.data}; say --crystals, --from as before"
            )
        return Training.resume(task, state, device=device)
    n_steps = steps or max(1, int(STEPS_SHARE * 60 * minutes / step_s(task, task.plan, device)))
    return Training(task, task.plan.with_steps(n_steps), seed=seed, device=device)


def _save(training: Training, out: Path) -> None:
    checkpoint.save(_folder(out), training.step, training.state())
    _write_curve(training, out)


def _write_curve(training: Training, out: Path) -> None:
    lines = "".join(json.dumps(asdict(line)) + "\n" for line in training.curve)
    out.with_suffix(".curve.jsonl").write_text(lines)


def _folder(out: Path) -> Path:
    return out.with_suffix(".checkpoint")


def _line(progress: Progress) -> str:
    return (
        f"step {progress.step}, {progress.minutes:.1f} min: loss {progress.training_loss:.4f}, "
        f"held out {progress.validation_loss:.4f}"
    )
