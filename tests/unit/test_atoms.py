"""Crystals atom by atom: what a detector would see of the atoms, and that the potential holds them together."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import h5py
import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cdi_stream.errors import ConfigError
from cdi_stream.training import atoms
from cdi_stream.training.atom_sets import write_set

HALF_A = 16.0


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_the_crystal_diffracts_like_its_atoms(rng):
    """F(Q + q) = sum exp(i (Q + q).r), summed over the atoms one by one, at Q = 111 of the ideal lattice."""
    sites = atoms.cut(rng, 30.0)
    bent = sites + 0.3 * np.sin(sites[:, [1, 2, 0]] / 12)
    rotation = Rotation.random(rng=rng).as_matrix()
    n, voxel_a = 16, 7.5
    crystal = atoms.crystal_of(atoms.Atoms(initial_a=sites, final_a=bent), rotation, n, voxel_a)
    field = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(crystal)))
    bragg = 2 * np.pi / atoms.LATTICE_A * np.ones(3)
    ideal = sites - sites[0]  # whole lattice vectors from one another: exp(i Q.site) is 1 for all
    assert np.allclose(np.exp(1j * ideal @ bragg), 1, atol=1e-6)
    shift = (bent - sites).mean(0)
    ratios = []
    for index in [(8, 8, 8), (9, 8, 8), (8, 7, 8), (8, 8, 10), (7, 9, 7)]:
        q = rotation.T @ (2 * np.pi * (np.array(index) - n // 2) / n / voxel_a)
        amplitudes = np.exp(1j * ((bent - sites - shift + ideal) @ bragg + (bent - bent.mean(0)) @ q))
        ratios.append(amplitudes.sum() / field[index])
    assert np.abs(np.angle(np.array(ratios) / ratios[0])).max() < 0.02
    assert np.abs(np.abs(ratios) / abs(ratios[0]) - 1).max() < 0.08, "the sharing among voxels smooths"


def test_crystals_are_convex_pieces_of_the_lattice(rng):
    sites = atoms.cut(rng, HALF_A)
    assert 100 < len(sites) < 4 * (2 * HALF_A / atoms.LATTICE_A + 1) ** 3
    nearest = cKDTree(sites).query(sites, k=2)[0][:, 1]
    assert np.allclose(nearest, atoms.LATTICE_A / 2**0.5)


def test_a_corner_that_reaches_out_of_the_voxels_is_drawn_again(rng, monkeypatch):
    monkeypatch.setattr(atoms, "FARTHEST_A", HALF_A)
    for _ in range(20):
        assert np.linalg.norm(atoms.cut(rng, HALF_A), axis=1).max() < HALF_A
    assert atoms.FARTHEST_A + atoms.MAX_STRAIN * atoms.FARTHEST_A < (atoms.N_VOXELS // 2 - 1) * atoms.VOXEL_A


def test_one_too_large_for_its_voxels_is_refused(rng):
    sites = atoms.cut(rng, HALF_A)
    with pytest.raises(ValueError, match=r"less than 4 voxels of 7\.5 angstrom"):
        atoms.crystal_of(atoms.Atoms(initial_a=sites, final_a=sites), np.eye(3), 4)


def bonds_of_the_core(positions_a):
    """Distances of the inner atoms from their twelve neighbours, over the metal's."""
    core = positions_a[np.linalg.norm(positions_a, axis=1) < 9]
    return cKDTree(positions_a).query(core, k=13)[0][:, 1:] / (atoms.LATTICE_A / 2**0.5)


def test_the_potential_holds_gold_together_and_takes_strain_out(rng):
    initial = atoms.relax(atoms.cut(rng, 24.0))
    assert abs(bonds_of_the_core(initial).mean() - 1) < 0.01
    strained = initial * (1.03, 1.0, 0.97)
    assert bonds_of_the_core(atoms.relax(strained)).std() < 0.8 * bonds_of_the_core(strained).std()


def test_a_set_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(atoms, "HALF_BLOCK_A", (9.0, 11.0))
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    write_set(whole, 2, seed=1)
    for count in (1, 2):
        write_set(parts, count, seed=1)
    with h5py.File(whole) as first, h5py.File(parts) as second:
        assert first["crystal"].shape == (2, 32, 32, 32)
        assert np.array_equal(first["crystal"][:], second["crystal"][:])
        assert not np.array_equal(first["crystal"][0], first["crystal"][1])
    with pytest.raises(ConfigError, match="seed 1"):
        write_set(whole, 3, seed=2)


def test_what_a_set_lacks_is_told(tmp_path, monkeypatch):
    (tmp_path / "text.h5").write_text("hello")
    for file in (tmp_path / "text.h5", tmp_path / "nowhere" / "gold.h5"):
        with pytest.raises(ConfigError, match="expected an HDF5 file of crystals"):
            write_set(file, 1, seed=1)

    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(atoms, "version", absent)
    with pytest.raises(ConfigError, match=r"install cdi-stream\[training\]"):
        write_set(tmp_path / "gold.h5", 1, seed=1)
