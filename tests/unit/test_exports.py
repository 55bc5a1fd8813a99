from __future__ import annotations

import base64
import re
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest

from cdi_stream.documents.publish import Identity, Provenance, RunPublisher
from cdi_stream.errors import ConfigError, RecordingError
from cdi_stream.files.exports import export_result
from cdi_stream.geometry.affine import AffineMap
from cdi_stream.messages import Crystal, FrameAccount, Result, RunContext, Verdict
from cdi_stream.metrics import Metrics

SHAPE = (4, 7, 10)
VOXEL_NM = np.array([5.0, 4.0, 8.0])  # z, y, x: unequal, so that no two axes can be swapped unseen
Q0 = np.array([1e10, -2e10, 2e10])  # |Q| = 3e10 / m
BRIGHT = (1, 2, 8)
ROTATION = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def true_displacement_nm():
    """Along Q, with its own slope on each axis; mean zero over the support."""
    z, y, x = np.indices(SHAPE)
    u = 0.005 * z - 0.004 * y + 0.003 * x
    return u - u[support()].mean()


def support():
    inside = np.zeros(SHAPE, dtype=bool)
    inside[1:3, 1:5, 2:9] = True
    inside[2, 4, 2:5] = False
    return inside


def crystal(q0=Q0):
    amplitude = support() * np.linspace(1, 2, np.prod(SHAPE)).reshape(SHAPE)
    amplitude[BRIGHT] = 7
    phase = 30 * true_displacement_nm() + 2.5  # Q.u, then a phase that means nothing
    bq = np.zeros((3, 3))
    bq[[2, 1, 0], [0, 1, 2]] = 2 * np.pi / (np.array(SHAPE) * VOXEL_NM * 1e-9)
    return Crystal(
        density=(amplitude * np.exp(1j * phase)).astype(np.complex64),
        support=support(),
        affine=AffineMap(shape=SHAPE, q0=q0, bq=bq, sample_to_lab=ROTATION, coordinates="lab"),
        metrics=Metrics(),
        verdict=Verdict(grade="doubtful", reasons=("few counts",)),
    )


def result_file(directory, picture):
    provenance = Provenance(version="0", config_sha256="c", network_name="n", network_sha256="s", beamline="b")
    publisher = RunPublisher(
        RunContext(uid="raw"), provenance, {"reconstruction": SHAPE}, directory, lambda *_: None, Identity(uid="run")
    )
    failed = Verdict(grade="failed", reasons=("empty: no counts",))
    result = Result(
        stream="reconstruction",
        curve_index=3,
        series="9",
        crystal=picture,
        verdict=failed if picture is None else picture.verdict,
        account=FrameAccount(expected=5, received=5),
        metrics=Metrics(chi2=0.01, r_p=0.2),
        complete_s=0.0,
        frame_sums=np.arange(5),
    )
    return publisher.result(result).path


@pytest.fixture
def source(tmp_path):
    return result_file(tmp_path / "results", crystal())


@pytest.fixture
def cxi(source, tmp_path):
    export_result(source, tmp_path / "crystal.cxi")
    with h5py.File(tmp_path / "crystal.cxi") as file:
        yield file


@pytest.fixture
def vti(source, tmp_path):
    export_result(source, tmp_path / "crystal.vti")
    return ElementTree.parse(tmp_path / "crystal.vti").getroot()


def vti_arrays(root):
    """Decode by hand: eight bytes of length, then values with x fastest."""
    extent = [int(word) for word in root.find("ImageData/Piece").get("Extent").split()]
    shape = [last - first + 1 for first, last in zip(extent[0::2], extent[1::2], strict=True)]
    arrays = {}
    for element in root.iterfind("ImageData/Piece/PointData/DataArray"):
        data = base64.b64decode(element.text)
        assert int.from_bytes(data[:8], "little") == len(data) - 8
        dtype = {"Float32": "<f4", "UInt8": "u1"}[element.get("type")]
        arrays[element.get("Name")] = np.frombuffer(data[8:], dtype).reshape(shape, order="F")
    return arrays


def test_cxi_default_attributes_lead_to_the_crystal_as_it_is(cxi):
    assert cxi["cxi_version"][()] == 140
    group = cxi
    while "default" in group.attrs:
        group = group[group.attrs["default"]]
    assert group.attrs["NX_class"] == "NXdata"
    data = group[group.attrs["signal"]]
    assert data.dtype == np.complex64
    np.testing.assert_array_equal(data[()], crystal().density)
    assert list(group.attrs["axes"]) == ["z", "y", "x"]
    for name, n, step in zip("zyx", SHAPE, VOXEL_NM, strict=True):
        assert group[name].attrs["units"] == "m"
        np.testing.assert_allclose(group[name][()], (np.arange(n) - n // 2) * step * 1e-9, rtol=1e-12)


def test_cxi_image_has_the_members_that_peers_read(cxi):
    image = cxi["entry_1/image_1"]
    for name in ("mask", "support"):
        np.testing.assert_array_equal(image[name][()], support().astype(int))
    assert image["data_type"].asstr()[()] == "electron density"
    assert image["data_space"].asstr()[()] == "real"
    assert image["is_fft_shifted"][()] == 0
    assert image["dimensionality"][()] == 3
    np.testing.assert_allclose(image["voxel_size"][()], VOXEL_NM * 1e-9)
    np.testing.assert_allclose(image["image_size"][()], [20e-9, 28e-9, 80e-9])
    assert image["image_size"].attrs["order"] == "z:y:x"
    assert cxi["entry_last/image_1"] == image


def test_cxi_process_names_us_and_says_how_far_to_trust(cxi):
    process = cxi["entry_1/image_1/process_1"]
    assert process.attrs["NX_class"] == "NXprocess"
    assert process["program"].asstr()[()] == "cdi-stream"
    assert re.match(r"\d+\.\d+", process["version"].asstr()[()])
    assert process["comments"].asstr()[()] == "doubtful: few counts"
    assert process["results/verdict"].asstr()[()] == "doubtful"
    assert process["results/chi2"][()] == 0.01
    assert process["results/r_p"][()] == 0.2
    assert process["results/frames_expected"][()] == 5
    assert "doubtful" in cxi["entry_1/data_1"].attrs["title"]


def test_cxi_carries_the_map_of_the_diffraction(cxi):
    group = cxi["entry_1/cdi_stream"]
    np.testing.assert_array_equal(group["q0_lab_inv_m"][()], Q0)
    np.testing.assert_array_equal(group["bq_lab_inv_m"][()], crystal().affine.bq)
    np.testing.assert_array_equal(group["sample_to_lab"][()], ROTATION)
    assert group["fourier_sign"][()] == 1
    assert group["coordinates"].asstr()[()] == "lab"


def test_vti_grid_puts_the_origin_at_the_middle_voxel(vti):
    assert vti.attrib == {
        "type": "ImageData",
        "version": "1.0",
        "byte_order": "LittleEndian",
        "header_type": "UInt64",
    }
    image = vti.find("ImageData")
    assert image.get("WholeExtent") == "0 9 0 6 0 3"
    spacing, origin = (np.array(image.get(key).split(), dtype=float) for key in ("Spacing", "Origin"))
    np.testing.assert_allclose(spacing, [8, 4, 5], rtol=1e-12)
    np.testing.assert_allclose(origin, [-40, -12, -10], rtol=1e-12)


def test_vti_arrays_are_those_of_the_crystal(vti):
    arrays = vti_arrays(vti)
    assert set(arrays) == {"amplitude", "phase_rad", "support", "displacement_nm", "strain", "d_spacing_nm"}
    assert vti.find("ImageData/Piece/PointData").get("Scalars") == "amplitude"
    z, y, x = BRIGHT
    assert arrays["amplitude"][x, y, z] == pytest.approx(7)
    np.testing.assert_allclose(arrays["amplitude"].T, np.abs(crystal().density), rtol=1e-6)
    np.testing.assert_array_equal(arrays["support"].T, support())


def test_vti_displacement_is_the_true_one_but_for_the_mean_lattice(vti):
    arrays = vti_arrays(vti)
    displacement = arrays["displacement_nm"].T
    inside = np.isfinite(displacement)
    place = np.argwhere(inside) - np.mean(np.argwhere(inside), axis=0)
    ramp = np.column_stack([place, np.ones(len(place))])
    difference = (displacement - true_displacement_nm())[inside]
    left = difference - ramp @ np.linalg.lstsq(ramp, difference, rcond=None)[0]
    assert np.std(left) < 1e-4 * np.ptp(true_displacement_nm()[inside])
    assert not inside[~support()].any()
    spacing = arrays["d_spacing_nm"]
    assert np.nanstd(spacing) < 1e-4 * np.nanmean(spacing), "a ramp is an even lattice"


def test_vti_has_no_displacement_without_q(tmp_path):
    export_result(result_file(tmp_path, crystal(q0=np.zeros(3))), tmp_path / "crystal.vti")
    arrays = vti_arrays(ElementTree.parse(tmp_path / "crystal.vti").getroot())
    assert set(arrays) == {"amplitude", "phase_rad", "support"}


@pytest.mark.parametrize("name", ["crystal.cxi", "new/crystal.VTI"])
def test_the_target_is_replaced_as_a_whole(source, tmp_path, name):
    target = tmp_path / name
    export_result(source, target)
    whole = target.stat().st_size
    target.write_bytes(b"old")
    export_result(source, target)
    assert target.stat().st_size == whole
    assert not list(tmp_path.rglob("*.part"))


def test_other_suffixes_are_refused_with_the_choice(source, tmp_path):
    with pytest.raises(ConfigError, match=r"expected a name that ends in \.cxi or \.vti, got '\.stl'.*ParaView"):
        export_result(source, tmp_path / "crystal.stl")


@pytest.mark.parametrize("content", [None, b"text", "empty", "scan"])
def test_a_source_that_is_not_ours_is_refused(tmp_path, content):
    source = tmp_path / "source.h5"
    if isinstance(content, bytes):
        source.write_bytes(content)
    elif content is not None:
        with h5py.File(source, "w") as file:
            if content == "scan":
                file["entry/data/data"] = np.zeros((2, 3, 4))
                file.create_group("entry/cdi_stream").attrs["header"] = "{}"
    with pytest.raises(RecordingError, match=r"expected a result file of cdi-stream, got: .*publish directory"):
        export_result(source, tmp_path / "crystal.cxi")
    assert not list(tmp_path.glob("crystal*"))


def test_a_failed_curve_has_nothing_to_export(tmp_path):
    source = result_file(tmp_path, None)
    with pytest.raises(
        RecordingError, match=r"expected a crystal, got none.*failed \(empty: no counts\).*another curve"
    ):
        export_result(source, tmp_path / "crystal.vti")
    assert not list(tmp_path.glob("crystal*"))
