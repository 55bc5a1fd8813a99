"""A training from its name to an exported network: it goes on where it stopped, and says how it came about."""

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
from cdi_stream.networks.torchscript import NetworkContract, export, rounded
from cdi_stream.training import chan2021, checkpoint, masto2025, unrolled, wu2021
from cdi_stream.training.atom_sets import AtomSet, on_set
from cdi_stream.training.fine_tuning import begun_from
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
Report = Callable[[str], None]
PLANNED = 0.92
"""Share of the minutes that steps are planned for; looks at held-out crystals and saving take the rest."""


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
    """Train the network of this name for at most ``minutes`` and export it to ``out``.

    Beside it go the curve, ``.curve.jsonl``, the card, ``.card.json``, and what a resumed training needs,
    ``.checkpoint``.  Without ``steps`` the plan is made as long as the minutes allow; with a file of ``crystals`` those
    are trained on, see `AtomSet`; ``start`` is a network file whose weights it begins with.

    Raises
    ------
    ConfigError
        If ``out`` is no .pt or cannot be written, there is no such network or no such crystals, or a checkpoint is
        there that nobody asked to go on from, or none is, or one of other crystals or another beginning.
    NetworkFileError
        If ``start`` is no network of this name.
    """
    begin_s = clock()
    _require_network_file(out)
    task = _task(name) if crystals is None else on_set(_task(name), AtomSet.read(crystals))
    task = task if start is None else begun_from(task, start)
    training = _begun(task, _folder(out), minutes, steps, seed, device, is_resumed)
    report(f"{name}: {training.plan.steps} steps on {device}, from step {training.step}")
    training.run(
        lambda progress: report(_line(progress)),
        lambda training: _saved(training, out),
        lambda: clock() - begin_s > 60 * minutes,
        clock,
    )
    if not training.is_done:  # else it has been
        _saved(training, out)
    _exported(training, out)
    report(_end(training, out))
    return training


def export_training(folder: Path, out: Path) -> None:
    """Export the network of a training, as far as its newest checkpoint in ``folder`` is, with its card.

    Raises
    ------
    ConfigError
        If there is no checkpoint, or ``out`` is no .pt or cannot be written.
    """
    _require_network_file(out)
    there = checkpoint.newest(folder)
    if there is None:
        raise ConfigError(f"expected a training's checkpoint in {folder}, found none")
    state = checkpoint.load(there)
    task = replace(_task(state["task"]), data=state["data"])
    training = Training.resumed(task, state, device="cpu")
    training.device = state["device"]  # that it was trained on, for its card
    _exported(training, out)


def _require_network_file(out: Path) -> None:
    if out.suffix != ".pt":
        raise ConfigError(f"{out}: expected a network file that ends in .pt, by which others know it")
    require_writable(out)


def _exported(training: Training, out: Path) -> None:
    network = rounded(training.network.to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]
    contract = training.task.contract(network, described(training))
    export(training.task.exported(network), contract, out)
    _write_curve(training, out)  # again: a training may have been killed before it was written
    out.with_suffix(".card.json").write_text(json.dumps(card(training, contract), indent=1) + "\n")


def card(training: Training, contract: NetworkContract) -> dict[str, Any]:
    """How a network came to be: what it is for, on what and how long it was trained, and how well it did."""
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


def described(training: Training) -> str:
    """One sentence on how a network came to be."""
    held_out = f"{training.curve[-1].validation_loss:.3f}" if training.curve else "not yet known"
    return (
        f"{training.step} of {training.plan.steps} steps of {training.plan.batch} crystals, {training.task.data}; "
        f"{training.minutes:.1f} minutes on {training.device}, seed {training.seed}; held-out loss {held_out}"
    )


def _end(training: Training, out: Path) -> str:
    """What there is now, and what to do if the time ended it before its plan."""
    done = f"{out} written after step {training.step} of {training.plan.steps}"
    return done if training.is_done else f"{done}: the time is over; go on with --resume and more --minutes"


def _task(name: str) -> Task:
    if name not in TASKS:
        raise ConfigError(f"network: expected one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]


def _begun(
    task: Task, folder: Path, minutes: float, steps: int | None, seed: int, device: str, is_resumed: bool
) -> Training:
    """The training that is there, or a new one."""
    there = checkpoint.newest(folder)
    if is_resumed and there is None:
        raise ConfigError(f"--resume: expected a checkpoint in {folder}, found none; train without it first")
    if there is not None and not is_resumed:
        raise ConfigError(f"{folder} holds a training at {there.name}: go on with --resume, or remove the folder")
    if there is not None:
        state = checkpoint.load(there)
        if state["task"] != task.name:
            raise ConfigError(f"--resume: expected a checkpoint of {task.name}, got one of {state['task']} in {there}")
        if state["data"] != task.data:
            raise ConfigError(
                f"--resume: expected crystals {state['data']}, got {task.data}; say --crystals, --from as before"
            )
        return Training.resumed(task, state, device=device)
    n_steps = steps or max(1, int(PLANNED * 60 * minutes / step_s(task, task.plan, device)))
    return Training(task, task.plan.lasting(n_steps), seed=seed, device=device)


def _saved(training: Training, out: Path) -> None:
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
