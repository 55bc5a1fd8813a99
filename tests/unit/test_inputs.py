"""Input file of a refinement: written, read, and told from other files."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

from cdi_stream.errors import RecordingError
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.messages import Crystal, PhasedVolume, PreparedVolume, Verdict
from cdi_stream.metrics import Metrics
from cdi_stream.refine.inputs import read_input, write_input

SHAPE = (6, 10, 14)


def phased():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    affine = AffineMap(
        shape=SHAPE,
        q0=np.array([1.5e10, -2e9, 3e10]),
        bq=rng.normal(size=(3, 3)) * 1e7,
        sample_to_lab=rotation,
        coordinates="detector",
    )
    volume = PreparedVolume(
        counts=rng.poisson(3, SHAPE).astype(np.uint32),
        valid_pixels=rng.random(SHAPE) > 0.1,
        expected_scale=rng.random(SHAPE).astype(np.float32),
        affine=affine,
        crystal_extent_m=(1e-7, 2e-7, 3e-7),
        oversampling=(2.5, 3.0, 4.25),
        n_bad=17,
        n_alien=3,
    )
    crystal = Crystal(
        density=(rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE)).astype(np.complex64),
        support=rng.random(SHAPE) > 0.5,
        affine=affine,
        metrics=Metrics(chi2=0.0123, starts=5, is_truncated=True),
        verdict=Verdict(grade="good"),
    )
    return PhasedVolume(volume=volume, crystal=crystal, notes=("a note",))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs" / "volume.h5"


def assert_same_affine(found, expected):
    assert found.shape == expected.shape
    assert (found.coordinates, found.fourier_sign) == (expected.coordinates, expected.fourier_sign)
    for name in ("q0", "bq", "sample_to_lab"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)


@pytest.mark.parametrize("shifts", [None, np.linspace(-0.2, 0.2, SHAPE[0])])
def test_volume_and_crystal_come_back_as_they_were(path, shifts):
    there = phased()
    there = replace(there, volume=replace(there.volume, frame_shifts=shifts))
    write_input(path, there)
    back = read_input(path)
    for name in ("counts", "valid_pixels", "expected_scale"):
        np.testing.assert_array_equal(getattr(back.volume, name), getattr(there.volume, name), strict=True)
    for name in ("density", "support"):
        np.testing.assert_array_equal(getattr(back.crystal, name), getattr(there.crystal, name), strict=True)
    np.testing.assert_array_equal(back.volume.frame_shifts, shifts)
    for name in ("crystal_extent_m", "oversampling", "n_bad", "n_alien"):
        assert getattr(back.volume, name) == getattr(there.volume, name)
    assert back.crystal.metrics.known() == there.crystal.metrics.known()
    assert_same_affine(back.volume.affine, there.volume.affine)
    assert_same_affine(back.crystal.affine, there.crystal.affine)


@pytest.mark.parametrize("coordinates", ["detector", "lab", "sample"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_sense_of_the_map_comes_back(path, coordinates, sign):
    there = phased()
    affine = replace(there.volume.affine, coordinates=coordinates, fourier_sign=sign)
    write_input(path, replace(there, volume=replace(there.volume, affine=affine)))
    assert_same_affine(read_input(path).volume.affine, affine)


def test_what_comes_back_cannot_be_changed_and_is_judged_anew(path):
    write_input(path, phased())
    back = read_input(path)
    assert not back.volume.counts.flags.writeable
    assert not back.crystal.density.flags.writeable
    assert back.crystal.verdict.grade == "doubtful"


def test_the_file_has_its_name_only_when_it_is_whole(path):
    write_input(path, phased())
    assert [found.name for found in path.parent.iterdir()] == ["volume.h5"]
    broken = phased()
    with pytest.raises(TypeError):
        write_input(path.with_name("other.h5"), replace(broken, crystal=replace(broken.crystal, support=object())))
    assert not path.with_name("other.h5").exists()


def test_a_later_input_replaces_the_first(path):
    write_input(path, phased())
    there = phased()
    write_input(path, replace(there, volume=replace(there.volume, n_bad=99)))
    assert read_input(path).volume.n_bad == 99


def test_a_file_that_is_gone_is_refused(path):
    with pytest.raises(RecordingError, match=r"volume\.h5: expected the input of a refinement.*cancel the job"):
        read_input(path)


@pytest.mark.parametrize("content", [b"", b"no HDF5", "half"])
def test_a_file_that_is_none_is_refused(path, content):
    write_input(path, phased())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(RecordingError, match="expected the input of a refinement"):
        read_input(path)


def without(file, name):
    del file.attrs[name]


def as_group(file, name):
    del file[name]
    file.create_group(name)


SPOILT = {
    "no counts": lambda file: file.__delitem__("counts"),
    "no support": lambda file: file.__delitem__("support"),
    "a group for an array": lambda file: as_group(file, "density"),
    "no origin": lambda file: without(file, "q0_inv_m"),
    "no extent": lambda file: without(file, "crystal_extent_m"),
    "no count of bad pixels": lambda file: without(file, "n_bad"),
    "an extent of two": lambda file: file.attrs.__setitem__("crystal_extent_m", [1.0, 2.0]),
    "a text for a number": lambda file: file.attrs.__setitem__("n_bad", "many"),
}


@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT)
def test_a_file_that_lacks_something_is_refused(path, change):
    write_input(path, phased())
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(RecordingError, match="expected the input of a refinement"):
        read_input(path)


def test_the_input_of_an_earlier_version_is_refused_with_the_remedy(path):
    write_input(path, phased())
    with h5py.File(path, "r+") as file:
        file.attrs["scalar chi2"] = 0.01
    with pytest.raises(RecordingError, match="earlier version of cdi-stream; cancel the job"):
        read_input(path)
