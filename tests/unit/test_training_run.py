"""Trainings that stop and go on: plans, checkpoints, and the same curve whatever happened on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from cdi_stream.cli.device import Device
from cdi_stream.errors import CdiStreamError, ConfigError, NetworkFileError
from cdi_stream.networks.packaged import network_file
from cdi_stream.networks.torchscript import load, weights_sha256
from cdi_stream.networks.wu2021 import small
from cdi_stream.training import checkpoint, run, wu2021
from cdi_stream.training.crystals import CrystalRanges, crystal_source
from cdi_stream.training.diffraction import measure
from cdi_stream.training.fine_tuning import fine_tune
from cdi_stream.training.plan import Plan, Stage
from cdi_stream.training.task import Task
from cdi_stream.training.trainer import Training, step_s, validate

ALONE = partial(torch.set_num_threads, 1)
RANGES = CrystalRanges(longest_vox=(9.0, 13.0))
PLAN = Plan(
    stages=(
        Stage(steps=9, rate=5e-3, trained=("network.encoder", "network.amplitude")),
        Stage(steps=12, optimizer="sgd", fall="geometric"),
    ),
    batch=2,
    validate_every=3,
)


class WithDropout(nn.Module):
    """The network, and randomness of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small((4, 6, 8), (6, 4))
        self.dropout = nn.Dropout(0.1)

    def forward(self, magnitude):
        return self.network(self.dropout(magnitude))


TINY = Task(
    name="tiny",
    network=WithDropout,
    crystals=crystal_source(RANGES, 16),
    observe=measure,
    loss=wu2021.loss,
    plan=PLAN,
    input_shape=(32, 32, 32),
    output_shape=(16, 16, 16),
    oversampling=2.6,
    phase_range_rad=3.2,
)


def losses_of(out: Path) -> list[tuple[float, float, float]]:
    lines = [json.loads(line) for line in out.with_suffix(".curve.jsonl").read_text().splitlines()]
    return [(line["step"], line["training_loss"], line["validation_loss"]) for line in lines]


def trained(out: Path, *, steps: int = 21, is_resumed: bool = False, minutes: float = 10.0, clock=time.monotonic):
    """As the command does it."""
    run.TASKS["tiny"] = TINY
    try:
        return run.train(
            "tiny", out, minutes=minutes, steps=steps, seed=3, device=Device.CPU, is_resumed=is_resumed,
            report=lambda line: print(line, flush=True), clock=clock,
        )  # fmt: skip
    finally:
        del run.TASKS["tiny"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, one_thread) -> Path:
    """A training that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "network.pt"
    trained(out)
    return out


def test_killed_at_any_moment_it_gives_the_same_curve(whole, tmp_path):
    out = tmp_path / "network.pt"
    script = f"from tests.unit.test_training_run import *; ALONE(); trained(Path({str(out)!r}))"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    try:
        assert child.stdout is not None
        while b"step 6" not in child.stdout.readline():
            assert child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.communicate()
    assert not out.exists()
    assert checkpoint.newest(out.with_suffix(".checkpoint"))
    trained(out, is_resumed=True)
    assert losses_of(out) == losses_of(whole)


def test_a_loss_without_gradients_is_not_trained_for_hours(tmp_path):
    def broken(network, drawn, stage):
        return sum(weight.sum() for weight in network.parameters()) * float("nan")

    with pytest.raises(CdiStreamError, match="tiny: expected finite gradients, got none in the first 3 steps"):
        Training(replace(TINY, loss=broken), TINY.plan, seed=1, device="cpu").run(print, lambda training: None)


def test_stopped_for_want_of_time_it_is_exported_and_goes_on(whole, tmp_path, capsys):
    out = tmp_path / "network.pt"
    ticks = iter(range(10_000))
    first = trained(out, minutes=0.2, clock=lambda: float(next(ticks)))
    assert 3 < first.step < 21
    assert f"after step {first.step} of 21: the time is over" in capsys.readouterr().out
    assert out.is_file()
    second = trained(out, is_resumed=True)
    assert second.step == 21
    assert capsys.readouterr().out.endswith("written after step 21 of 21\n")
    assert [line[2] for line in losses_of(out)] == pytest.approx([line[2] for line in losses_of(whole)])
    assert "21 of 21 steps" in run.training_summary(second)
    card = json.loads(out.with_suffix(".card.json").read_text())
    assert (card["steps"], card["crystals"], card["seed"]) == (21, 42, 3)
    assert card["last"]["validation_loss"] == losses_of(out)[-1][2]


def test_minutes_are_planned_for_the_mean_of_all_stages():
    """A clock that goes on by 1 s for each step of the first stage, 5 s for the second."""
    now_s = [0.0]

    def slow(network, drawn, stage):
        now_s[0] += 1.0 if stage.optimizer == "adamw" else 5.0
        return wu2021.loss(network, drawn, stage)

    task = replace(TINY, loss=slow)
    assert step_s(task, PLAN, "cpu", lambda: now_s[0]) == pytest.approx((9 * 1 + 12 * 5) / 21)


def test_a_curve_that_a_kill_prevented_is_written_at_the_end(whole, tmp_path):
    out = tmp_path / "network.pt"
    trained(out)
    out.with_suffix(".curve.jsonl").unlink()
    trained(out, is_resumed=True)
    assert losses_of(out) == losses_of(whole)


def test_a_checkpoint_is_exported_by_itself(whole, tmp_path):
    run.TASKS["tiny"] = TINY
    try:
        run.export_training(whole.with_suffix(".checkpoint"), tmp_path / "again.pt")
    finally:
        del run.TASKS["tiny"]
    first, again = (load(file).contract for file in (whole, tmp_path / "again.pt"))
    assert first == again
    with pytest.raises(ConfigError, match="got none"):
        run.export_training(tmp_path, tmp_path / "no.pt")
    with pytest.raises(ConfigError, match=r"ends in \.pt"):
        run.export_training(whole.with_suffix(".checkpoint"), tmp_path / "no.cxi")


def test_an_exported_checkpoint_says_on_what_it_was_trained(whole, tmp_path, monkeypatch):
    monkeypatch.setitem(run.TASKS, "tiny", TINY)
    there = checkpoint.load(checkpoint.newest(whole.with_suffix(".checkpoint")))
    checkpoint.save(tmp_path / "elsewhere", there["step"], {**there, "device": "cuda"})
    run.export_training(tmp_path / "elsewhere", tmp_path / "new" / "again.pt")
    assert "minutes on cuda" in load(tmp_path / "new" / "again.pt").contract.training
    assert json.loads((tmp_path / "new" / "again.card.json").read_text())["device"] == "cuda"


def test_weights_that_a_stage_does_not_name_stay(one_thread):
    training = Training(TINY, PLAN, seed=1, device="cpu")
    before = {name: value.clone() for name, value in training.network.named_parameters()}
    for _ in range(3):
        training.advance()
    moved = {name for name, value in training.network.named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(("network.encoder", "network.amplitude")) for name in moved)
    for _ in range(9):
        training.advance()
    moved = {name for name, value in training.network.named_parameters() if not torch.equal(value, before[name])}
    assert any(name.startswith("network.phase") for name in moved)


@pytest.mark.parametrize("name", ["chan2021-small", "masto2025-small"])
def test_a_training_begins_with_the_weights_of_a_file_and_its_last_stage(tmp_path, name):
    task = run.TASKS[name]
    tuned = fine_tune(task, network_file(name))
    assert tuned.plan.stages == task.plan.stages[-1:]
    assert weights_sha256(tuned.network()) == load(network_file(name)).contract.weights_sha256
    assert tuned.data.startswith(f"{task.data}, begun with other weights (sha256 ")
    with pytest.raises(NetworkFileError, match=f"expected weights of {name}, got others"):
        fine_tune(task, network_file("wu2021-2d")).network()


def test_a_network_learns(one_thread):
    plan = Plan(stages=(Stage(steps=40, rate=5e-3),), batch=4, validate_every=1000)
    task = replace(TINY, network=lambda: small((8, 16, 24), (16, 8)), plan=plan)
    training = Training(task, task.plan, seed=1, device="cpu")
    before = validate(task, training.network, plan, "cpu")
    lines = []
    training.run(lines.append, lambda training: None)
    assert [line.step for line in lines] == [40]
    assert lines[0].validation_loss < 0.85 * before


def test_rates_warm_up_and_fall():
    for fall in ("cosine", "geometric"):
        stage = Stage(steps=1000, rate=0.1, fall=fall, last=0.01)
        rates = [stage.rate_at(step) for step in range(1000)]
        assert rates[0] == pytest.approx(0.1 / 50)
        assert max(rates) == pytest.approx(0.1, rel=0.25)
        assert rates[60:] == sorted(rates[60:], reverse=True)
        assert rates[-1] == pytest.approx(0.001, rel=0.02)


def test_a_plan_made_longer_keeps_the_shares_of_its_stages():
    longer = PLAN.with_steps(210)
    assert [stage.steps for stage in longer.stages] == [90, 120]
    assert longer.at(89)[1] == 89
    assert longer.at(90) == (longer.stages[1], 0)
    with pytest.raises(IndexError, match="below 210, got 210"):
        longer.at(210)


def test_what_is_asked_for_by_mistake_is_told(whole, tmp_path):
    with pytest.raises(ConfigError, match=r"expected one of .*wu2021-small.*, got 'no'"):
        run.train("no", tmp_path / "n.pt", minutes=1, steps=1, seed=1, device="cpu", is_resumed=False, report=print)
    with pytest.raises(ConfigError, match="train without --resume first"):
        trained(tmp_path / "n.pt", is_resumed=True)
    with pytest.raises(ConfigError, match="go on with --resume"):
        trained(whole)
    with pytest.raises(ConfigError, match="expected a checkpoint of wu2021-small, got one of tiny"):
        run.train("wu2021-small", whole, minutes=1, steps=1, seed=1, device="cpu", is_resumed=True, report=print)


STATE = {"step": 7, "weights": {"a": torch.arange(40_000.0)}, "text": "x"}


class TestCheckpoints:
    def test_parts_are_small_and_come_together_again(self, tmp_path, monkeypatch):
        monkeypatch.setattr(checkpoint, "PART_BYTES", 50_000)
        path = checkpoint.save(tmp_path, 7, STATE)
        assert checkpoint.newest(tmp_path) == path
        parts = sorted(path.glob("part-*"))
        assert len(parts) == 4
        assert max(part.stat().st_size for part in parts) == 50_000
        loaded = checkpoint.load(path)
        assert torch.equal(loaded["weights"]["a"], STATE["weights"]["a"])
        assert loaded["text"] == "x"

    def test_only_the_newest_stays_and_half_written_ones_do_not_count(self, tmp_path):
        for step in (7, 8):
            path = checkpoint.save(tmp_path, step, STATE)
        (tmp_path / "step-00000009.partial").mkdir()
        assert checkpoint.newest(tmp_path) == path
        assert checkpoint.newest(tmp_path / "absent") is None
        checkpoint.save(tmp_path, 9, STATE)
        assert [other.name for other in tmp_path.iterdir()] == ["step-00000009"]

    def test_a_step_that_is_there_is_not_written_again(self, tmp_path, monkeypatch):
        """A kill in between would leave none."""
        path = checkpoint.save(tmp_path, 7, STATE)
        monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: pytest.fail("the only one was removed"))
        assert checkpoint.save(tmp_path, 7, STATE) == path

    @pytest.mark.parametrize("harm", ["cut", "changed", "absent", "manifest", "outside"])
    def test_what_was_harmed_on_the_way_is_refused(self, tmp_path, harm):
        path = checkpoint.save(tmp_path, 7, STATE)
        part, manifest = path / "part-000", path / "manifest.json"
        match harm:
            case "cut":
                part.write_bytes(part.read_bytes()[:-1])
            case "changed":
                part.write_bytes(part.read_bytes()[:-1] + b"\xff")
            case "absent":
                part.unlink()
            case "manifest":
                manifest.write_text("{}")
            case "outside":
                manifest.write_text(manifest.read_text().replace("part-000", "../../../etc/passwd"))
        with pytest.raises(NetworkFileError, match="copy the whole folder again"):
            checkpoint.load(path)

    def test_one_too_large_to_carry_is_not_written(self, tmp_path, monkeypatch):
        monkeypatch.setattr(checkpoint, "MOST_BYTES", 1000)
        with pytest.raises(NetworkFileError, match="at most 1000 bytes"):
            checkpoint.save(tmp_path, 7, STATE)
        assert checkpoint.newest(tmp_path) is None

    def test_what_is_no_plain_data_is_refused(self, tmp_path):
        path = checkpoint.save(tmp_path, 7, {"harm": Path("/")})
        with pytest.raises(NetworkFileError, match="got objects"):
            checkpoint.load(path)
