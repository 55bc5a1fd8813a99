"""Training crystals made of relaxed ones, against the atoms that they come from."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
from torch import Generator

from cdi_stream.errors import ConfigError
from cdi_stream.training import atom_sets, atoms, chan2021, run
from cdi_stream.training.atom_sets import AtomSet, train_on_atoms, write_set
from cdi_stream.training.shapes import random_rotations


def bent(rng):
    """Atoms of a block, moved by waves that no rotation or reflection leaves as they are."""
    sites = atoms.cut(rng, 60.0)
    wave = np.sin(sites @ rng.normal(size=(3, 3)) / 60) * (0.5, 0.8, 0.3)
    return atoms.Atoms(initial_a=sites, final_a=sites + wave)


def set_of(*simulated):
    fields = [[torch.from_numpy(one).float() for one in atoms.fields_of(each)] for each in simulated]
    density, displacement_a = (torch.stack(part) for part in zip(*fields, strict=True))
    return AtomSet(density=density, displacement_a=displacement_a, description="made for a test")


def overlap(first, second):
    first, second = first.flatten(), second.flatten()
    return float(abs(torch.vdot(first, second)) / first.norm() / second.norm())


def test_a_drawn_crystal_is_that_of_the_turned_atoms(monkeypatch):
    """The phase of 111, the rotation and the sign, against `crystal_of`, which adds atom by atom."""
    monkeypatch.setattr(atom_sets, "REFLECTIONS", ((1, 1, 1),))
    monkeypatch.setattr(atom_sets, "SCALES", (1.0, 1.0))
    monkeypatch.setattr(atom_sets, "UNSTRAINED_SHARE", 0.0)
    rotations = []
    monkeypatch.setattr(
        atom_sets, "random_rotations", lambda *given: rotations.append(random_rotations(*given)) or rotations[-1]
    )
    simulated = bent(np.random.default_rng(2))
    drawn = set_of(simulated).crystals(3, Generator().manual_seed(4))
    for crystal, rotation in zip(drawn, rotations[0].double().numpy(), strict=True):
        wanted = torch.from_numpy(atoms.crystal_of(simulated, rotation))
        assert overlap(crystal, wanted) > 0.985, "turned once more by interpolation, which smooths"
        assert overlap(crystal, wanted.conj()) < 0.9
        assert overlap(crystal, torch.from_numpy(atoms.crystal_of(simulated, rotation.T))) < 0.9


def test_half_are_without_strain_and_no_two_alike():
    drawn = set_of(bent(np.random.default_rng(2))).crystals(24, Generator().manual_seed(1))
    inside = drawn.abs() > 0.5
    ranges = [float(np.ptp(one.angle()[solid].numpy())) for one, solid in zip(drawn, inside, strict=True)]
    flat = sum(span < 1e-3 for span in ranges)
    assert 6 <= flat <= 18
    assert max(ranges) > 1
    assert max(overlap(drawn[0], other) for other in drawn[1:]) < 0.99
    mean = (drawn.angle() * drawn.abs()).sum((1, 2, 3)) / drawn.abs().sum((1, 2, 3))
    assert mean.abs().max() < 0.1


def test_held_out_crystals_are_others():
    rng = np.random.default_rng(2)
    whole = set_of(*(bent(rng) for _ in range(10)))
    task = train_on_atoms(chan2021.SMALL, whole)
    known, held_out = task.crystals.__self__, task.held_out.__self__
    assert (len(known.density), len(held_out.density)) == (9, 1)
    assert torch.equal(torch.cat((known.density, held_out.density)), whole.density)
    first, second = (draw(2, Generator().manual_seed(1))[1] for draw in (task.draw, task.draw_held_out))
    assert not torch.allclose(first, second)
    with pytest.raises(ConfigError, match="ten crystals or more to train on, got 4"):
        train_on_atoms(chan2021.SMALL, whole.part(0, 0.4))


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(atoms, "HALF_BLOCK_A", (9.0, 11.0))
    made = tmp_path / "gold.h5"
    write_set(made, 10, seed=1)
    return made


def test_what_was_written_is_read(file):
    read = AtomSet.read(file)
    assert read.density.shape == (10, 32, 32, 32)
    assert read.displacement_a.shape == (10, 3, 32, 32, 32)
    assert read.description.startswith("made of 10 of gold")
    assert read.part(0, 0.5).displacement_a.shape[0] == 5


def test_a_set_that_no_memory_could_hold_is_refused(file, monkeypatch):
    monkeypatch.setattr(atom_sets, "MOST_CRYSTALS", 9)
    with pytest.raises(ConfigError, match=r"expected 1 to 9 crystals .*, got \(10, 32, 32, 32\)"):
        AtomSet.read(file)


@pytest.mark.parametrize("broken", ["no file", "no HDF5", "other shape", "no density", "empty"])
def test_what_is_no_set_is_refused_by_name(tmp_path, broken):
    file = tmp_path / "set.h5"
    if broken == "no HDF5":
        file.write_text("gold")
    elif broken != "no file":
        n = 0 if broken == "empty" else 2
        with h5py.File(file, "w") as out:
            out["crystal"] = np.zeros((n, 32, 32, 32), np.complex64)
            out["displacement_a"] = np.zeros((n, 3, 32, 32, 32), np.float32)
            if broken != "no density":
                out["density"] = np.zeros((n, 8 if broken == "other shape" else 32, 32, 32), np.float32)
    with pytest.raises(ConfigError, match=r"set\.h5"):
        AtomSet.read(file)


def test_a_training_says_what_it_was_of_and_goes_on_with_nothing_else(file, tmp_path):
    out, lines = tmp_path / "gold.pt", []

    def trained(crystals, is_resumed=False):
        settings = {"minutes": 0.5, "steps": 2, "seed": 1, "device": "cpu"}
        return run.train(
            "chan2021-small", out, **settings, is_resumed=is_resumed, report=lines.append, crystals=crystals
        )

    trained(file)
    card = json.loads(out.with_suffix(".card.json").read_text())
    assert card["data"] == f"crystals {AtomSet.read(file).description}"
    assert "made of 10 of gold" in card["network"]["training"]
    with pytest.raises(
        ConfigError, match=r"expected crystals made of 10 of gold .*, got simulated .*--crystals, --from"
    ):
        trained(None, is_resumed=True)
    again = tmp_path / "again.pt"
    run.export_training(out.with_suffix(".checkpoint"), again)
    assert "made of 10 of gold" in json.loads(again.with_suffix(".card.json").read_text())["data"]
