"""Shear correction against the direct sum on the lab grid, and crystals there and back."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from cdi_stream.geometry.affine import AffineMap, lab_grid
from cdi_stream.inversion.correct import centre_of_mass, crystal_to, fitting_lab_grid, to_lab
from cdi_stream.inversion.prepare import detector_map
from cdi_stream.messages import PreparedVolume
from cdi_stream.numerics.fourier import to_crystal
from sim_beamline.cases import simulated_scan
from sim_beamline.diffract import direct_sum, q_sample
from tests.builders import geometry_of


@cache
def diffraction(name: str, size_m: float | None = None, phase_range_rad: float = 2.8):
    """Complex diffraction of a simulated case, its map, its crystal and the crystal's extent along lab (x, y, z)."""
    scan = simulated_scan(name)
    crystal = replace(scan.crystal, size_m=size_m or scan.crystal.size_m, phase_range_rad=phase_range_rad)
    pitch = crystal.size_m / 44
    field = np.stack(
        [direct_sum(crystal, q_sample(scan.experiment, f), pitch) for f in range(scan.experiment.shape[0])]
    )
    affine = detector_map(geometry_of(scan.experiment), (0, 0, 0), scan.experiment.shape)
    axis = np.linspace(-0.75, 0.75, 91) * crystal.size_m
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    inside = grid[crystal.density(grid) > 0.5] @ affine.sample_to_lab.T
    return field, affine, crystal, inside


@pytest.mark.parametrize(("name", "size_m"), [("plain", 440e-9), ("mirrored_columns", 440e-9), ("rectangular", 330e-9)])
def test_intensities_on_the_lab_grid_equal_the_direct_sum_there(name, size_m):
    field, affine, crystal, inside = diffraction(name, size_m)
    extent = np.ptp(inside, axis=0)
    in_voxels = np.ptp(inside @ np.linalg.inv(affine.br).T, axis=0)
    assert (np.array(affine.shape) / in_voxels).min() < 2.6, "the data must be no better than oversampling 2.5"
    counts = np.round(np.abs(field) ** 2 / np.abs(field).max() ** 2 * 4e9).astype(np.uint32)
    volume = PreparedVolume(
        counts=counts,
        valid_pixels=np.ones(counts.shape, dtype=bool),
        expected_scale=np.ones(counts.shape, dtype=np.float32),
        affine=affine,
        crystal_extent_m=tuple(extent),
        oversampling=(2.5, 2.5, 2.5),
    )
    lab = to_lab(volume, 48, 2.5)
    index = np.stack(np.meshgrid(*[np.arange(0, 48, 2)] * 3, indexing="ij"), -1)  # every second voxel of each axis
    truth = np.abs(direct_sum(crystal, lab.affine.q(index) @ affine.sample_to_lab, crystal.size_m / 44))
    magnitude, valid = lab.magnitude[::2, ::2, ::2], lab.valid_pixels[::2, ::2, ::2]
    model, data = magnitude[valid].astype(float), truth[valid].astype(float)
    scale = (model @ data) / (model @ model)
    assert lab.valid_pixels.mean() > 0.2
    assert ((scale * model - data) ** 2).sum() / (data**2).sum() < 1e-3


def relative_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float((result - expected).abs().square().sum() / expected.abs().square().sum())


@pytest.mark.parametrize("name", ["plain", "mirrored_columns"])
def test_crystal_there_and_back(name):
    field, affine, _, _ = diffraction(name)
    weight = np.prod(np.meshgrid(*[np.hanning(n + 2)[1:-1] for n in field.shape], indexing="ij"), axis=0)
    crystal = to_crystal(torch.from_numpy((field * weight).astype(np.complex64)))
    target = lab_grid(affine, (96, 96, 96), float(np.linalg.norm(affine.br, axis=0).min()) * 0.8)
    lab = crystal_to(crystal, affine, target)
    assert relative_error(crystal_to(lab, target, affine), crystal) < 1e-3


def test_crystal_on_the_lab_grid_equals_the_fourier_sum_there():
    field, affine, _, _ = diffraction("plain")
    crystal = to_crystal(torch.from_numpy(field))
    target = lab_grid(affine, (10, 10, 10), 40e-9)
    lab = crystal_to(crystal, affine, target).numpy()
    index = np.stack(np.meshgrid(*[np.arange(10)] * 3, indexing="ij"), -1) - 5
    r = (index @ target.br.T).reshape(-1, 3)
    voxel = np.stack(np.meshgrid(*[np.arange(n) for n in affine.shape], indexing="ij"), -1).reshape(-1, 3)
    q = affine.q(voxel) - affine.q0
    # rho(r) = sum F(q) exp(-i q.r): evaluated term by term, factorised along the detector's axes
    steps = np.linalg.inv(affine.br) @ r.T
    waves = [np.exp(-2j * np.pi * np.outer(steps[k], np.arange(n) - n // 2) / n) for k, n in enumerate(affine.shape)]
    direct = np.einsum("rf,fij,ri,rj->r", waves[0], field, waves[1], waves[2], optimize=True)
    direct = direct.reshape(10, 10, 10) / np.sqrt(np.prod(affine.shape))
    assert np.allclose(
        q[:5] @ r[:7].T, (2 * np.pi * ((voxel - np.array(affine.shape) // 2)[:5] / affine.shape) @ steps[:, :7])
    )
    assert np.linalg.norm(lab - direct) ** 2 / np.linalg.norm(direct) ** 2 < 1e-3


def test_centred_on_its_mass():
    field, affine, _, _ = diffraction("plain")
    crystal = np.roll(to_crystal(torch.from_numpy(field)).numpy(), (3, -4, 5), (0, 1, 2))
    target = fitting_lab_grid(np.abs(crystal) > 0.3 * np.abs(crystal).max(), affine, (64, 64, 64))
    lab = crystal_to(torch.from_numpy(crystal), affine, target, centre_of_mass(crystal)).numpy()
    np.testing.assert_allclose(centre_of_mass(lab), [32, 32, 32], atol=0.1)


def test_a_support_too_large_for_the_grid_makes_larger_voxels():
    affine = AffineMap(
        shape=(64, 64, 64),
        q0=np.array([0, 2e10, 0.0]),
        bq=np.eye(3) * 5e6,
        sample_to_lab=np.eye(3),
        coordinates="detector",
    )
    support = np.ones((64, 64, 64), dtype=bool)
    target = fitting_lab_grid(support, affine, (32, 32, 32))
    assert np.linalg.norm(target.br[:, 0]) * 32 > np.linalg.norm(affine.br[:, 0]) * 64
