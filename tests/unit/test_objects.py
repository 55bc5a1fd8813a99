"""The file of a phased object: whole or not there, readable without pickle, in lab axes where they are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cdi_stream.errors import ConfigError
from cdi_stream.files.intensities.objects import lab_object, write_object
from cdi_stream.geometry.affine import AffineMap

SHAPE = (16, 18, 20)


def sphere(affine):
    """A ball of 30 nm about the origin with a phase along lab y, on the voxels of a map."""
    index = np.stack(np.indices(affine.shape), axis=-1) - np.array(affine.shape) // 2
    r = index @ affine.br.T
    inside = np.linalg.norm(r, axis=-1) < 30e-9
    return torch.from_numpy((inside * np.exp(2e7j * r[..., 1])).astype(np.complex64)), torch.from_numpy(inside)


def skew_map():
    """Steps of 6 nm or so along three skew axes."""
    br = np.array([[6.0, 1.0, 0.0], [0.5, 5.0, 1.0], [-1.0, 0.0, 5.5]]) * 1e-9
    bq = 2 * np.pi * np.linalg.inv(br * np.array(SHAPE)).T
    return AffineMap(shape=SHAPE, q0=np.array([1e10, 2e10, 0]), bq=bq, sample_to_lab=np.eye(3), coordinates="detector")


def test_an_object_comes_back_without_pickle(tmp_path):
    density, support = sphere(skew_map())
    path = tmp_path / "new" / "out.npz"
    write_object(path, density, support)
    assert [p.name for p in path.parent.iterdir()] == ["out.npz"]
    with np.load(path, allow_pickle=False) as file:
        assert set(file) == {"object", "support", "fourier_sign"}
        assert (file["object"].dtype, file["support"].dtype) == (np.complex64, bool)
        np.testing.assert_array_equal(file["object"], density.numpy())
        np.testing.assert_array_equal(file["support"], support.numpy())
        assert int(file["fourier_sign"]) == 1


def test_a_name_is_taken_as_it_is_and_an_older_file_replaced(tmp_path):
    density, support = sphere(skew_map())
    (tmp_path / "out").write_text("old")
    write_object(tmp_path / "out", density[0], support[0])
    with np.load(tmp_path / "out", allow_pickle=False) as file:
        assert file["object"].shape == SHAPE[1:]


def test_a_lab_object_is_the_same_body_with_its_own_map(tmp_path):
    affine = skew_map()
    density, support = sphere(affine)
    lab = lab_object(torch.roll(density, (1, -2, 1), (0, 1, 2)), torch.roll(support, (1, -2, 1), (0, 1, 2)), affine)
    write_object(tmp_path / "out.npz", density, support, lab)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        found, inside, br = file["object_lab"], file["support_lab"], file["lab_br_m"]
        np.testing.assert_array_equal(file["lab_q0_inv_m"], affine.q0)
        assert str(file["lab_coordinates"]) == "lab"
        np.testing.assert_array_equal(file["lab_sample_to_lab"], affine.sample_to_lab)
        np.testing.assert_allclose(br, 2 * np.pi * np.linalg.inv(file["lab_bq_inv_m"]).T / np.array(found.shape))
    assert found.dtype == np.complex64
    step = abs(br[0, 2])
    np.testing.assert_allclose(br, np.eye(3)[:, ::-1] * step, atol=1e-6 * step)
    index = np.argwhere(inside) - np.array(found.shape) // 2
    assert np.abs(index.mean(axis=0)).max() < 0.6
    assert inside.sum() * step**3 == pytest.approx(4 / 3 * np.pi * 30e-9**3, rel=0.1)
    across = found[:, 1:] * found[:, :-1].conj()
    core = inside[:, 1:] & inside[:, :-1] & (np.abs(across) > 0.5)
    assert np.angle(across[core]).mean() == pytest.approx(2e7 * step, rel=0.1)  # lab y is axis 1


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path):
    density, support = sphere(skew_map())
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "out.npz", tmp_path):
        with pytest.raises(ConfigError, match="choose another place"):
            write_object(path, density, support)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}.part"))


def test_another_support_is_refused(tmp_path):
    density, support = sphere(skew_map())
    with pytest.raises(ValueError, match="differ in shape"):
        write_object(tmp_path / "out.npz", density, support[0])
