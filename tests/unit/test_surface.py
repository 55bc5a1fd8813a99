"""Meshes and facets of crystals whose shape and strain are formulas."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cdi_stream.errors import CurveError
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.messages import Crystal, Verdict
from cdi_stream.metrics import Metrics
from cdi_stream.numerics.fourier import twin
from cdi_stream.physics.facets import facets_of
from cdi_stream.physics.lattice import lattice_of
from cdi_stream.physics.surface import surface_of

SHAPE = (46, 44, 45)
VOXEL_M = 5e-9
Q0 = np.array([0.9e10, -2.1e10, 1.3e10])
Q_HAT = Q0 / np.linalg.norm(Q0)
LAB = np.eye(3)[:, ::-1] * VOXEL_M
SKEW = np.array([[4.4, 1.0, -0.8], [0.5, 5.0, 0.9], [-0.9, 0.4, 4.7]]) * 1e-9
GRIDS = {"lab": LAB, "skew": SKEW, "skew and left-handed": SKEW[:, ::-1], "mirrored columns": LAB * (1, 1, -1)}
TILT = Rotation.from_rotvec([0.3, -0.4, 0.5]).as_matrix()
ALL_SIGNS = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) / 3**0.5


def places(br) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) - np.array(SHAPE) // 2
    return index @ br.T


def lattice(density, br=LAB):
    bq = 2 * np.pi * np.linalg.inv(br).T / np.array(SHAPE)
    affine = AffineMap(shape=SHAPE, q0=Q0, bq=bq, sample_to_lab=np.eye(3), coordinates="lab")
    support = np.abs(density) > 0.01
    density = density.astype(np.complex64)
    return lattice_of(
        Crystal(density=density, support=support, affine=affine, metrics=Metrics(), verdict=Verdict(grade="good"))
    )


def soft(depth_m) -> np.ndarray:
    """Amplitude that falls from 1 to 0 within two voxels, one half where ``depth_m`` is zero."""
    return np.clip(0.5 + depth_m / (2 * VOXEL_M), 0, 1)


def ball(r, centre_m=(0.0, 0.0, 0.0), radius_m=70e-9) -> np.ndarray:
    return soft(radius_m - np.linalg.norm(r - centre_m, axis=-1))


def cube(r, half_m=50e-9, rotation=TILT) -> np.ndarray:
    return soft(half_m - np.abs(r @ rotation).max(axis=-1))


def strained(amplitude, r, gradient) -> np.ndarray:
    """Displacement whose strain is the scalar field gradient.r, for a gradient along Q: u = g (Qhat.r)^2 / 2."""
    u = gradient * (r @ Q_HAT) ** 2 / 2
    return amplitude * np.exp(1j * np.linalg.norm(Q0) * u)


def angle_deg(a, b) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))


@pytest.mark.parametrize("grid", GRIDS)
def test_a_ball_has_its_volume_area_place_and_outward_normals(grid):
    centre = np.array([6e-9, -4e-9, 3e-9])
    surface = surface_of(lattice(ball(places(GRIDS[grid]), centre), GRIDS[grid]))
    assert surface.volume_m3 == pytest.approx(4 / 3 * np.pi * 70e-9**3, rel=0.015)
    assert surface.area_m2 == pytest.approx(4 * np.pi * 70e-9**2, rel=0.015)
    outwards = surface.vertices_m - centre
    radius = np.linalg.norm(outwards, axis=1)
    np.testing.assert_allclose(radius, 70e-9, atol=0.15 * VOXEL_M)
    assert np.degrees(np.arccos((outwards * surface.normals).sum(1) / radius)).max() < 9
    assert ((surface.vertices_m[surface.triangles].mean(1) - centre) * surface.area_vectors_m2).sum(1).min() > -1e-30


def test_each_edge_belongs_to_two_triangles_that_run_it_opposite_ways():
    triangles = surface_of(lattice(ball(places(LAB)))).triangles
    edges = Counter((int(a), int(b)) for t in triangles for a, b in zip(t, np.roll(t, -1), strict=True))
    assert set(edges.values()) == {1}
    assert all((b, a) in edges for a, b in edges)


def test_lengths_lie_along_the_lab_axes():
    r = places(LAB)
    surface = surface_of(lattice(soft(40e-9 * (1 - np.linalg.norm(r / (80e-9, 60e-9, 40e-9), axis=-1)))))
    np.testing.assert_allclose(np.ptp(surface.vertices_m, axis=0), (160e-9, 120e-9, 80e-9), atol=VOXEL_M)


def test_a_crystal_that_fills_its_array_is_closed_at_the_edge():
    surface = surface_of(lattice(np.ones(SHAPE)))
    assert surface.volume_m3 == pytest.approx(np.prod(SHAPE) * VOXEL_M**3, rel=0.01)
    np.testing.assert_allclose(surface.area_vectors_m2.sum(axis=0), 0, atol=1e-6 * surface.area_m2)


@pytest.mark.parametrize("grid", GRIDS)
def test_strain_and_displacement_are_those_just_beneath(grid):
    gradient, r = 1.5e4, places(GRIDS[grid])
    crystal = lattice(strained(ball(r), r, gradient), GRIDS[grid])
    surface = surface_of(crystal)
    voxel_m = np.cbrt(crystal.affine.voxel_volume_m3)
    s = (surface.vertices_m - voxel_m * surface.normals) @ Q_HAT
    np.testing.assert_allclose(surface.strain, gradient * s, atol=0.05 * gradient * 70e-9)
    u = gradient * s**2 / 2
    offset = np.mean(surface.displacement_m - u)
    np.testing.assert_allclose(surface.displacement_m - offset, u, atol=0.02 * gradient * 70e-9**2)
    assert np.ptp(u) * np.linalg.norm(Q0) > np.pi / 4


def test_nothing_has_no_surface():
    with pytest.raises(CurveError, match="check the support"):
        surface_of(lattice(np.zeros(SHAPE)))


@pytest.mark.parametrize("grid", GRIDS)
def test_a_cube_has_six_facets_each_with_its_strain(grid):
    gradient, r = 2e4, places(GRIDS[grid])
    crystal = lattice(strained(cube(r), r, gradient), GRIDS[grid])
    facets = facets_of(surface_of(crystal))
    assert len(facets) == 6
    depth_m = 50e-9 - np.cbrt(crystal.affine.voxel_volume_m3)
    faces = np.concatenate((TILT.T, -TILT.T))
    for face in faces:
        facet = max(facets, key=lambda facet: facet.normal @ face)
        assert angle_deg(facet.normal, face) < 1.5
        assert 0.6 * 100e-9**2 < facet.area_m2 < 100e-9**2
        # The mean of g Qhat.r over a face is that at its middle, seen one voxel beneath.
        assert facet.strain == pytest.approx(gradient * depth_m * Q_HAT @ face, abs=4e-5)
        across = np.linalg.norm(Q_HAT - (Q_HAT @ face) * face)
        assert facet.strain_spread == pytest.approx(gradient * across * 100e-9 / 12**0.5, rel=0.25, abs=4e-5)
    assert len({int(i) for facet in facets for i in facet.triangles}) == sum(len(f.triangles) for f in facets)
    assert list(facets) == sorted(facets, key=lambda facet: -facet.area_m2)


def test_a_shifted_facet_shows_its_displacement():
    r = places(LAB)
    face = TILT[:, 0]
    lifted = 2e-11 * np.tanh(r @ face / 20e-9)
    facets = facets_of(surface_of(lattice(cube(r) * np.exp(1j * np.linalg.norm(Q0) * lifted))))
    # The mean slope goes into Q: what remains is symmetric but for it.
    top = max(facets, key=lambda facet: facet.normal @ face)
    bottom = min(facets, key=lambda facet: facet.normal @ face)
    u = np.where(cube(r) > 0.5, lifted, np.nan)
    slope = np.nanmean(2e-11 / 20e-9 / np.cosh(r @ face / 20e-9) ** 2 * np.where(np.isnan(u), np.nan, 1))
    expected = 2e-11 * np.tanh(45 / 20) - slope * 45e-9
    assert top.displacement_m == pytest.approx(expected, abs=2e-12)
    assert bottom.displacement_m == pytest.approx(-expected, abs=2e-12)


def test_a_truncated_octahedron_has_eight_facets_and_six():
    r = places(LAB) @ TILT
    depth = np.minimum(70e-9 - np.abs(r).max(axis=-1), 68e-9 - np.abs(r).sum(axis=-1) / 3**0.5)
    facets = facets_of(surface_of(lattice(soft(depth))))
    assert len(facets) == 14
    for directions in (ALL_SIGNS @ TILT.T, np.concatenate((TILT.T, -TILT.T))):
        for direction in directions:
            assert min(angle_deg(facet.normal, direction) for facet in facets) < 2.5


def test_a_ball_has_no_facets():
    assert facets_of(surface_of(lattice(ball(places(LAB))))) == ()


def test_faces_that_do_not_touch_are_facets_of_their_own():
    r = places(LAB)
    pair = np.maximum(cube(r - (45e-9, 0, 0), 30e-9, np.eye(3)), cube(r - (-45e-9, 0, 0), 30e-9, np.eye(3)))
    facets = facets_of(surface_of(lattice(pair)))
    assert len(facets) == 12
    assert sum(facet.normal[0] > 0.99 for facet in facets) == 2


def test_the_twin_has_the_same_facets_mirrored():
    r = places(LAB)
    density = strained(cube(r), r + 15e-9, 2e4).astype(np.complex64)
    one = facets_of(surface_of(lattice(density)))
    other = facets_of(surface_of(lattice(twin(torch.from_numpy(density)).numpy())))
    assert len(other) == 6
    for facet in one:
        mirrored = min(other, key=lambda candidate: candidate.normal @ facet.normal)
        assert angle_deg(mirrored.normal, -facet.normal) < 0.5
        assert mirrored.strain == pytest.approx(facet.strain, abs=1e-5)
        assert mirrored.displacement_m == pytest.approx(-facet.displacement_m, abs=3e-13)  # 1 % of its range
