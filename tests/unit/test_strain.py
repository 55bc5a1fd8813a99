"""Strain, displacement and spacing of crystals whose displacement is a formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdi_stream.errors import GeometryError
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.messages import Crystal, Verdict
from cdi_stream.metrics import Metrics
from cdi_stream.numerics.fourier import to_crystal, to_reciprocal, twin
from cdi_stream.physics.lattice import displacement, lattice_of
from cdi_stream.physics.strain import phase_gradient, remove_phase_ramp, significant_voxels, strain

SHAPE = (32, 34, 35)
Q0 = np.array([0.9e10, -2.1e10, 1.3e10])
Q_HAT = Q0 / np.linalg.norm(Q0)
LAB = np.eye(3)[:, ::-1] * 8e-9
SKEW = np.array([[7.0, 1.6, -1.2], [0.8, 8.0, 1.5], [-1.4, 0.7, 7.5]]) * 1e-9
GRIDS = {"lab": LAB, "skew": SKEW, "skew and left-handed": SKEW[:, ::-1]}
RADIUS_M = 80e-9


def map_of(br, q0=Q0, shape=SHAPE) -> AffineMap:
    bq = 2 * np.pi * np.linalg.inv(br).T / np.array(shape)
    return AffineMap(shape=shape, q0=q0, bq=bq, sample_to_lab=np.eye(3), coordinates="lab")


def places(affine) -> np.ndarray:
    """Position of every voxel in lab axes (x, y, z) [m]."""
    index = np.stack(np.meshgrid(*map(np.arange, affine.shape), indexing="ij"), -1) - np.array(affine.shape) // 2
    return index @ affine.br.T


def ball(affine) -> np.ndarray:
    return np.linalg.norm(places(affine), axis=-1) < RADIUS_M


def interior(support) -> np.ndarray:
    inside = support.copy()
    for axis in range(3):
        inside &= np.roll(support, 1, axis) & np.roll(support, -1, axis)
    return inside


def displaced(affine, u_m, support=None) -> np.ndarray:
    """Unit amplitude with the phase +Q.u of a displacement along Q."""
    inside = ball(affine) if support is None else support
    return (inside * np.exp(1j * np.linalg.norm(affine.q0) * u_m)).astype(np.complex64)


def crystal_of(density, support, affine) -> Crystal:
    return Crystal(density=density, support=support, affine=affine, metrics=Metrics(), verdict=Verdict(grade="good"))


def bowl(affine, phase_range_rad):
    """Displacement a (s^2 + s t)/2 along Q with s along Q and t across it, and its strain a (s + t/2)."""
    across = np.cross(Q_HAT, (0.0, 0.0, 1.0))
    s, t = places(affine) @ Q_HAT, places(affine) @ (across / np.linalg.norm(across))
    u = (s**2 + s * t) / 2
    a = phase_range_rad / np.linalg.norm(affine.q0) / np.ptp(u[ball(affine)])
    return a * u, a * (s + t / 2)


def spacing(q) -> float:
    return 2 * np.pi / float(np.linalg.norm(q))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("q0", [*np.diag([2e10, -2e10, 2e10]), Q0, -Q0], ids=["x", "-y", "z", "skew", "-skew"])
@pytest.mark.parametrize("value", [2e-3, -2e-3, 5e-5])
def test_an_even_stretch_is_the_strain_of_every_voxel(grid, q0, value):
    affine = map_of(GRIDS[grid], q0)
    support = ball(affine)
    density = displaced(affine, value * places(affine) @ q0 / np.linalg.norm(q0))
    found = strain(density.astype(complex), support, affine)
    np.testing.assert_allclose(found[support], value, rtol=1e-5, atol=1e-8)
    assert np.isnan(found[~support]).all()


def test_wider_planes_are_a_positive_strain_and_a_larger_spacing():
    """Atoms one by one: F(q) = sum exp(i q.r), at spacings wider than the detector was set to."""
    affine, wider = map_of(LAB, np.array([0.0, 0.0, 2.7e10])), 1.0015
    q = affine.q(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1))
    atoms = np.arange(-400, 401) * spacing(affine.q0)
    along_z = np.exp(1j * np.multiply.outer(q[:, 0, 0, 2], atoms * wider)).sum(-1)
    along_y, along_x = (np.exp(1j * np.multiply.outer(line, atoms)).sum(-1) for line in (q[0, :, 0, 1], q[0, 0, :, 0]))
    field = torch.from_numpy(along_z[:, None, None] * along_y[:, None] * along_x)
    density = to_crystal(field).numpy()
    lattice = lattice_of(crystal_of(density, np.ones(SHAPE, dtype=bool), affine))
    assert lattice.mean_spacing_m == pytest.approx(spacing(affine.q0) * wider, rel=2e-6)
    inside = interior(lattice.is_significant)
    assert np.median(strain(density, lattice.is_significant, affine)[inside]) == pytest.approx(0.0015, rel=2e-3)
    assert lattice.delta_q[2] < 0


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("turns", [3, 5])
def test_a_bowl_of_many_turns_has_its_strain_and_displacement(grid, turns):
    affine = map_of(GRIDS[grid])
    u, expected = bowl(affine, turns * np.pi)
    support, scale = ball(affine), np.abs(expected[ball(affine)]).max()
    lattice = lattice_of(crystal_of(displaced(affine, u), support, affine))
    np.testing.assert_allclose(lattice.delta_q, 0, atol=1e-5 * np.linalg.norm(affine.bq))
    inside = interior(support)
    np.testing.assert_allclose(lattice.strain[inside], expected[inside], atol=1e-3 * scale)
    border = support & ~inside  # there one-sided: half a voxel further in
    np.testing.assert_allclose(lattice.strain[border], expected[border], atol=0.15 * scale)
    assert np.abs(lattice.strain[border] - expected[border]).mean() < 0.04 * scale
    np.testing.assert_allclose(lattice.displacement_m[support], (u - u[support].mean())[support], atol=1e-15)
    np.testing.assert_allclose(lattice.spacing_m[inside], spacing(Q0) * (1 + expected[inside]), rtol=1e-6)
    np.testing.assert_allclose(lattice.voxel_m, np.linalg.norm(GRIDS[grid], axis=0))


@pytest.mark.parametrize("shift_vox", [(0.3, -1.7, 2.2), (-5.5, 4.0, 0.1), (14.0, -15.0, 13.0)])
def test_a_ramp_goes_into_q_and_nothing_else_changes(shift_vox):
    affine = map_of(SKEW)
    u, _ = bowl(affine, 2 * np.pi)
    plain = displaced(affine, u)
    delta_q = affine.bq @ shift_vox
    ramped = (plain * np.exp(-1j * places(affine) @ delta_q)).astype(np.complex64)
    lattice = lattice_of(crystal_of(ramped, ball(affine), affine))
    np.testing.assert_allclose(lattice.delta_q, delta_q, atol=1e-5 * np.linalg.norm(affine.bq))
    np.testing.assert_allclose(lattice.affine.q0, Q0 + delta_q, rtol=1e-7)
    assert lattice.mean_spacing_m == pytest.approx(spacing(Q0 + delta_q), rel=1e-8)
    same = (lattice.density * plain.conj())[ball(affine)]
    np.testing.assert_allclose(same, same[0], atol=1e-4)


def test_the_mean_q_is_the_centroid_of_the_diffraction():
    affine = map_of(SKEW)
    r = places(affine)
    amplitude = np.exp(-((np.linalg.norm(r, axis=-1) / 45e-9) ** 2))
    s = r @ Q_HAT / 45e-9
    density = amplitude * np.exp(1j * (0.8 * s**3 + 1.5 * s**2 - 0.6 * s * r[..., 0] / 45e-9 + 0.3 * s))
    intensity = to_reciprocal(torch.from_numpy(density)).abs().square().numpy()
    q = affine.q(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1))
    centroid = np.tensordot(intensity, q, axes=3) / intensity.sum()
    _, mean = remove_phase_ramp(density, np.ones(SHAPE, dtype=bool), affine)
    shift = centroid - Q0
    assert np.linalg.norm(mean.q0 - centroid) < 0.03 * np.linalg.norm(shift)


def test_twins_have_the_same_strain_mirrored():
    affine = map_of(LAB)
    u, _ = bowl(affine, 3 * np.pi)
    off_centre = ball(affine) & (places(affine)[..., 0] > -30e-9)
    stretched = u + 1e-3 * places(affine) @ Q_HAT
    one = lattice_of(crystal_of(displaced(affine, stretched, off_centre), off_centre, affine))
    other_density = twin(torch.from_numpy(displaced(affine, stretched, off_centre))).numpy()
    other = lattice_of(crystal_of(other_density, np.abs(other_density) > 0, affine))
    np.testing.assert_allclose(other.delta_q, one.delta_q, atol=1e-5 * np.linalg.norm(affine.bq))

    def mirrored(array):
        return np.roll(array[::-1, ::-1, ::-1], [1 - n % 2 for n in SHAPE], (0, 1, 2))

    np.testing.assert_allclose(other.strain, mirrored(one.strain), atol=1e-7)
    np.testing.assert_allclose(other.displacement_m, -mirrored(one.displacement_m), atol=1e-14)


def test_the_other_fourier_sign_holds_the_conjugate_of_the_same_lattice():
    affine = map_of(SKEW)
    density = displaced(affine, bowl(affine, 3 * np.pi)[0] + 1e-3 * places(affine) @ Q_HAT)
    one = lattice_of(crystal_of(density, ball(affine), affine))
    other = lattice_of(crystal_of(density.conj(), ball(affine), replace(affine, fourier_sign=-1)))
    np.testing.assert_allclose(other.affine.q0, one.affine.q0, rtol=1e-7)
    np.testing.assert_allclose(other.strain, one.strain, atol=1e-7)
    np.testing.assert_allclose(other.displacement_m, one.displacement_m, atol=1e-15)


def test_a_displacement_that_varies_across_q_only_is_no_strain():
    affine = map_of(SKEW)
    density = displaced(affine, 2e-3 * places(affine) @ np.cross(Q_HAT, (0.0, 0.0, 1.0)))
    np.testing.assert_allclose(strain(density, ball(affine), affine)[ball(affine)], 0, atol=1e-7)


@pytest.mark.parametrize("share_of_half_turn", [0.45, 0.55, 0.95])
def test_neighbours_may_differ_by_up_to_half_a_turn(share_of_half_turn):
    affine = map_of(LAB, np.array([0.0, 0.0, 2.5e10]))
    value = share_of_half_turn * np.pi / (2.5e10 * 8e-9)
    density = displaced(affine, value * places(affine)[..., 2])
    np.testing.assert_allclose(strain(density, ball(affine), affine)[ball(affine)], value, rtol=1e-5)


def test_a_dislocation_has_no_cut():
    """Around a line the phase grows by 2 pi: the cut of the angle is no strain."""
    affine = map_of(LAB, np.array([2.5e10, 0.0, 0.0]))
    x, y = places(affine)[..., 0] + 4e-9, places(affine)[..., 1] + 4e-9
    support = ball(affine)
    density = (support * np.exp(1j * np.arctan2(y, x))).astype(np.complex64)
    far = interior(support) & (np.hypot(x, y) > 30e-9)
    expected = -y / (x**2 + y**2) / 2.5e10
    np.testing.assert_allclose(
        strain(density, support, affine)[far], expected[far], atol=0.03 * np.abs(expected[far]).max()
    )


def test_nearly_empty_voxels_of_a_loose_support_do_not_matter():
    affine = map_of(LAB)
    u, _ = bowl(affine, 2 * np.pi)
    random = np.random.default_rng(0)
    noise = 0.05 * np.exp(2j * np.pi * random.random(SHAPE)) * ~ball(affine)
    spoilt = (displaced(affine, u) + noise).astype(np.complex64)
    loose = np.linalg.norm(places(affine), axis=-1) < 1.2 * RADIUS_M
    np.testing.assert_array_equal(significant_voxels(spoilt, loose), ball(affine))
    tight = lattice_of(crystal_of(displaced(affine, u), ball(affine), affine))
    found = lattice_of(crystal_of(spoilt, loose, affine))
    np.testing.assert_allclose(found.strain, tight.strain, atol=1e-9)
    np.testing.assert_allclose(found.displacement_m, tight.displacement_m, atol=1e-16)


def test_the_gradient_at_the_border_is_that_of_the_one_bond_there():
    phase = np.array([0.0, 0.1, 0.4, 0.9, 9.0, 1.7])
    support = np.array([True, True, True, True, False, True])
    found = phase_gradient(np.exp(1j * phase), support)
    np.testing.assert_allclose(found, [[0.1, 0.2, 0.4, 0.5, np.nan, np.nan]], atol=1e-12)


def test_a_spur_one_voxel_thin_is_as_its_neighbours_and_a_lone_voxel_unknown():
    support = np.zeros((5, 9), dtype=bool)
    support[:2, :6] = True
    support[2, 3] = True  # no bond along the second axis
    support[2, 8] = True  # no bond, no neighbour
    phase = np.add.outer(0.2 * np.arange(5), 0.3 * np.arange(9))
    found = phase_gradient(np.exp(1j * phase), support)
    np.testing.assert_allclose(found[:, 2, 3], [0.2, 0.3])
    assert np.isnan(found[:, 2, 8]).all()
    assert np.isfinite(found).sum() == 2 * (support.sum() - 1)


def test_an_empty_crystal_stays_empty():
    affine, nothing = map_of(LAB), np.zeros(SHAPE, dtype=bool)
    lattice = lattice_of(crystal_of(np.zeros(SHAPE, np.complex64), nothing, affine))
    assert np.isnan(lattice.strain).all()
    assert np.isnan(lattice.displacement_m).all()
    assert lattice.mean_spacing_m == pytest.approx(spacing(Q0))
    assert np.isnan(displacement(np.ones(SHAPE, complex), nothing, affine)).all()


def test_without_a_bragg_peak_there_is_no_strain():
    affine = map_of(LAB, np.zeros(3))
    with pytest.raises(GeometryError, match="Q0 = 0"):
        lattice_of(crystal_of(np.ones(SHAPE, np.complex64), ball(affine), affine))
