"""The functions of ``import cdi_stream as cdi`` as a notebook uses them."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest

import cdi_stream as cdi
from cdi_stream.files.intensities.objects import LabObject
from cdi_stream.files.intensities.scans import curve_of
from cdi_stream.files.recording import write_scan
from cdi_stream.interface.phase_counts import method_settings
from cdi_stream.interface.phase_file import Request, phase_file
from cdi_stream.interface.placement import placement_of
from cdi_stream.interface.reconstruction import Reconstruction
from cdi_stream.inversion.locate import FixedGeometry, locate
from cdi_stream.inversion.prepare import detector_map
from cdi_stream.phasing.deadline import Deadline
from sim_beamline.scan import recorded_scan
from tests.bench.crystals import Case, crystal, measured
from tests.unit import test_exports

pytestmark = pytest.mark.usefixtures("one_thread")

CASE = Case(seed=2, kind="superellipsoid", phase_pi=1, n=16)
QUICK = {"method": "recipe", "budget_s": 30.0, "seed": 3}
"""A recipe of 600 cycles: well below a second at 16^3, in cycles rather than in time."""

HEARD: list[cdi.Progress] = []
"""What the callback of the fixture ``reconstructed`` is told."""


@pytest.fixture(scope="module")
def counts():
    return measured(CASE, crystal(CASE))[0]


@pytest.fixture(scope="module")
def phased(counts):
    return cdi.phase(counts, **QUICK)


@pytest.fixture(scope="module")
def scan():
    return recorded_scan("plain")


@pytest.fixture(scope="module")
def reconstructed(scan):
    return cdi.reconstruct(scan, "aps_34idc", budget_s=10, progress=HEARD.append)


@pytest.fixture
def known(tmp_path):
    """A stored crystal whose displacement is known, as the service writes it."""
    return test_exports.result_file(tmp_path, test_exports.crystal())


def misfit(density, counts, valid):
    """Chi2 and r_p by a transform of our own."""
    model = np.abs(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(density.astype(complex)))))[valid]
    magnitude = np.sqrt(counts.astype(float))[valid]
    scale = (model @ magnitude) / (model @ model)
    chi2 = ((scale * model - magnitude) ** 2).sum() / (magnitude**2).sum()
    return chi2, np.corrcoef(model, magnitude)[0, 1]


class TestPhase:
    def test_the_object_has_the_shape_of_the_counts_and_explains_them(self, counts, phased):
        assert (phased.object.dtype, phased.object.shape) == (np.complex64, counts.shape)
        assert (phased.support.dtype, phased.support.shape) == (bool, counts.shape)
        chi2, r_p = misfit(phased.object, counts, np.ones(counts.shape, dtype=bool))
        assert phased.metrics.chi2 == pytest.approx(chi2, rel=1e-4)
        assert phased.metrics.r_p == pytest.approx(r_p, rel=1e-4)
        assert phased.metrics.cycles == 600
        assert phased.verdict.grade in ("good", "doubtful", "failed")
        assert phased.affine is None
        assert phased.lab is None

    def test_the_command_gives_the_same_object_and_numbers(self, counts, phased, tmp_path):
        np.save(tmp_path / "a.npy", counts)
        settings = method_settings(budget_s=30.0, seed=3)
        deadline, out = Deadline(30.0), tmp_path / "out.npz"
        line = phase_file(
            Request(file=tmp_path / "a.npy", mask=None, method="recipe", settings=settings, deadline=deadline, out=out)
        )
        with np.load(out) as file:
            np.testing.assert_array_equal(file["object"], phased.object)
            np.testing.assert_array_equal(file["support"], phased.support)
        assert (line["chi2"], line["r_p"]) == (phased.metrics.chi2, phased.metrics.r_p)
        assert (line["verdict"], tuple(line["reasons"])) == (phased.verdict.grade, phased.verdict.reasons)

    def test_the_seed_decides_the_starts(self, counts, phased):
        assert np.array_equal(cdi.phase(counts, **QUICK).object, phased.object)
        assert not np.array_equal(cdi.phase(counts, **{**QUICK, "seed": 4}).object, phased.object)

    def test_counts_may_be_any_real_numbers_and_lists(self, counts):
        whole = np.rint(counts).astype(np.int64)
        quick = {**QUICK, "budget_s": 0.5}
        for values in (whole, whole.tolist(), whole.astype(np.uint16), whole.astype(">f8")):
            assert cdi.phase(values, **quick).object.shape == (16, 16, 16)

    def test_two_axes_are_phased_too(self, counts):
        found = cdi.phase(counts[8], **QUICK)
        assert found.object.shape == (16, 16)
        assert len(found.plot().axes) == 4
        assert "<table>" in found._repr_html_()

    @pytest.mark.parametrize("has_frames", [True, False])
    def test_masked_voxels_do_not_count(self, counts, has_frames):
        mask = np.ones(counts.shape[has_frames == False :], dtype=np.uint8)  # noqa: E712
        mask[..., 5] = 0
        spoilt = np.where(mask > 0, counts, 1e5)
        found = cdi.phase(spoilt, mask, **QUICK)
        valid = np.broadcast_to(mask > 0, counts.shape)
        assert found.metrics.chi2 == pytest.approx(misfit(found.object, counts, valid)[0], rel=1e-3)

    def test_a_file_as_it_is_read_and_a_further_mask(self, counts, phased, tmp_path):
        np.savez(tmp_path / "a.npz", data=counts)
        intensities = cdi.read(str(tmp_path / "a.npz"))
        np.testing.assert_array_equal(cdi.phase(intensities, **QUICK).object, phased.object)
        mask = np.ones(counts.shape, dtype=bool)
        mask[:, :, 5] = False
        np.testing.assert_array_equal(
            cdi.phase(intensities, mask, **QUICK).object, cdi.phase(counts, mask, **QUICK).object
        )

    def test_hot_voxels_are_masked_as_the_command_does(self, counts, phased):
        spoilt = counts.copy()
        spoilt[3, 4, 5] = 3e5
        found = cdi.phase(spoilt, **QUICK)
        assert found.metrics.chi2 < 2 * phased.metrics.chi2
        assert any("hot" in reason for reason in found.verdict.reasons)

    @pytest.mark.parametrize(
        ("arguments", "error", "text"),
        [
            (
                {"counts": np.zeros((16, 16, 16))},
                cdi.IntensitiesError,
                "expected a diffraction pattern, got all voxels",
            ),
            ({"counts": np.ones((16, 16), complex)}, cdi.IntensitiesError, "got complex numbers"),
            ({"counts": np.ones(16)}, cdi.IntensitiesError, r"expected 2 or 3 axes, got shape \(16,\)"),
            ({"counts": np.ones((4, 16, 16))}, cdi.IntensitiesError, "at least 8 voxels along each axis"),
            ({"counts": [[1, 2], [3]]}, cdi.IntensitiesError, "expected an array, got list"),
            ({"counts": "scan.h5"}, cdi.IntensitiesError, r"give cdi_stream\.read\('scan\.h5'\)"),
            ({"counts": Path("scan.h5")}, cdi.IntensitiesError, "got the path"),
            ({"mask": np.ones((3, 3))}, cdi.IntensitiesError, r"mask: expected a mask of shape \(16, 16, 16\)"),
            ({"mask": np.full((16, 16, 16), 2)}, cdi.IntensitiesError, "mask: expected 1 where a voxel may be used"),
            ({"mask": np.zeros((16, 16, 16))}, cdi.IntensitiesError, "got all of them masked"),
            ({"method": "magic"}, cdi.ConfigError, "method: expected one of auto, recipe, .*got 'magic'"),
            ({"budget_s": 0}, cdi.ConfigError, "budget_s: expected a number of seconds above 0, got 0"),
            ({"budget_s": "30"}, cdi.ConfigError, "got '30'"),
            ({"budget_s": float("nan")}, cdi.ConfigError, "got nan"),
            ({"seed": -1}, cdi.ConfigError, "seed: expected a whole number from 0"),
            ({"seed": 1.5}, cdi.ConfigError, "got 1.5"),
            ({"device": "tpu"}, cdi.ConfigError, "device: expected 'cpu' or 'cuda', got 'tpu'"),
            ({"progress": 3}, cdi.ConfigError, "progress: expected a function"),
        ],
    )
    def test_bad_input_is_refused_with_a_remedy(self, counts, arguments, error, text):
        with pytest.raises(error, match=text) as refusal:
            cdi.phase(**{"counts": counts, **arguments})
        assert isinstance(refusal.value, cdi.CdiStreamError)

    def test_a_network_wants_three_axes(self, counts):
        with pytest.raises(cdi.ConfigError, match="'network' expected counts of 3 axes, got 2; take 'auto'"):
            cdi.phase(counts[8], method="network")


class TestProgress:
    def test_a_callback_hears_of_every_stage_and_of_the_end(self, counts):
        heard: list[cdi.Progress] = []
        cdi.phase(counts, **QUICK, progress=heard.append)
        stages = list(dict.fromkeys(one.stage for one in heard))
        assert stages == ["starting", "looking at the counts", "phasing 16 x 16 x 16 voxels by recipe"]
        assert [one.is_done for one in heard] == [False] * (len(heard) - 1) + [True]
        assert all(a.passed_s <= b.passed_s for a, b in pairwise(heard))
        assert {one.budget_s for one in heard} == {30.0}
        assert all(0 <= one.share <= 1 for one in heard)

    def test_the_last_call_comes_after_an_error_too(self):
        heard: list[cdi.Progress] = []
        with pytest.raises(cdi.IntensitiesError):
            cdi.phase(np.zeros((16, 16)), progress=heard.append)
        assert heard[-1].is_done

    def test_an_error_of_the_callback_ends_the_phasing(self, counts):
        def impatient(progress: cdi.Progress) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            cdi.phase(counts, **QUICK, progress=impatient)

    @pytest.mark.parametrize("kind", ["auto", "rich", "tqdm"])
    def test_a_bar_can_be_used_twice(self, counts, kind, capsys):
        bar = cdi.progress_bar(kind)
        for _ in range(2):
            cdi.phase(counts, **{**QUICK, "budget_s": 0.5}, progress=bar)
        _, err = capsys.readouterr()
        assert "of at most" in err if kind == "tqdm" else not err

    def test_an_unknown_bar_is_refused(self):
        with pytest.raises(cdi.ConfigError, match="expected 'auto', 'rich' or 'tqdm', got 'none'"):
            cdi.progress_bar("none")


class TestGeometry:
    def test_a_scan_is_phased_on_its_own_grid_and_shown_in_the_lab(self, scan, tmp_path):
        write_scan(scan, tmp_path / "scan.h5")
        found = cdi.phase(cdi.read(tmp_path / "scan.h5"), method="recipe", budget_s=4)
        assert found.object.shape == scan.frames.shape == found.affine.shape
        assert found.affine.coordinates == "detector"
        assert found.axes == ("frame", "row", "col")
        assert found.lab.affine.coordinates == "lab"
        for field in (found.strain(), found.displacement(), found.d_spacing()):
            assert field.shape == found.lab.density.shape
            assert np.isfinite(field).any()
        assert np.nanmean(found.d_spacing()) == pytest.approx(found.metrics.d_spacing_m, rel=1e-3)

    def test_without_geometry_there_is_no_lattice_and_the_remedy_is_told(self, phased):
        for method in (phased.strain, phased.displacement, phased.d_spacing, phased.surface):
            with pytest.raises(
                cdi.GeometryError, match=r"expected a reconstruction with its geometry.*cdi_stream\.read"
            ):
                method()

    def test_the_lattice_of_a_known_crystal(self, known):
        found = cdi.load_result(known)
        inside = np.isfinite(found.displacement())
        true_nm = test_exports.true_displacement_nm()
        error = (found.displacement() * 1e9 - true_nm)[inside]
        index = np.indices(true_nm.shape).reshape(3, -1).T[inside.ravel()]
        plane = np.c_[index, np.ones(len(index))]
        ramp = plane @ np.linalg.lstsq(plane, error, rcond=None)[0]
        assert np.abs(error - ramp).max() < 1e-4, "but for the ramp, which is that of the mean lattice"
        np.testing.assert_allclose(found.d_spacing()[inside], found.d_spacing()[inside].mean(), rtol=1e-4)

    def test_the_surface_is_closed_and_in_metres(self, reconstructed):
        surface = reconstructed.surface()
        assert surface.volume_m3 == pytest.approx(reconstructed.metrics.support_volume_nm3 * 1e-27, rel=0.4)
        assert isinstance(surface, cdi.Surface)


class TestReconstruct:
    def test_a_recorded_scan_gives_a_crystal_in_lab_coordinates(self, reconstructed):
        assert reconstructed.affine.coordinates == "lab"
        assert reconstructed.axes == ("z", "y", "x")
        assert reconstructed.object.shape == reconstructed.affine.shape
        steps_m = np.linalg.norm(reconstructed.affine.br, axis=0)
        np.testing.assert_allclose(steps_m, reconstructed.metrics.voxel_size_m)
        assert reconstructed.metrics.r_p > 0.9
        assert 150 < reconstructed.metrics.size_lab_x_nm < 600
        assert 0 < reconstructed.metrics.latency_phase_s < 100

    def test_counts_and_angles_are_the_same_curve(self, scan):
        curve = cdi.rocking_curve(
            scan.frames.astype(np.int64),
            {**scan.scanned, **{name: scan.baseline[name] for name in ("chi", "phi", "delta", "gamma")}},
            photon_energy_ev=scan.baseline["energy"],
            detector=cdi.DetectorPlacement(
                distance_m=scan.baseline["detector_distance"],
                **{name: scan.detector[name] for name in ("pixel_row_m", "pixel_col_m", "beam_row", "beam_col")},
            ),
            valid_pixels=scan.pixel_mask,
        )
        of_scan, doubts = curve_of(scan)
        np.testing.assert_array_equal(curve.counts, of_scan.counts)
        np.testing.assert_array_equal(curve.series.pixel_mask, of_scan.series.pixel_mask)
        assert (curve.doubts, curve.account) == (doubts, of_scan.account)
        maps = [
            detector_map(locate(one, placement_of("aps_34idc").beamline, FixedGeometry())[0], (9, 9, 9), (8, 8, 8))
            for one in (curve, of_scan)
        ]
        np.testing.assert_allclose(maps[0].bq, maps[1].bq)
        np.testing.assert_allclose(maps[0].q0, maps[1].q0)

    def test_the_callback_hears_of_the_stages(self, reconstructed):
        stages = list(dict.fromkeys(one.stage for one in HEARD))
        assert stages == [
            *("starting", "loading the network", "asking the network", "retrieving the phase"),
        ]
        assert [one.is_done for one in HEARD].index(True) == len(HEARD) - 1

    @pytest.mark.parametrize(
        ("curve", "beamline", "error", "text"),
        [
            (np.ones((3, 4, 5)), "aps_34idc", cdi.RecordingError, "expected a rocking curve, got ndarray"),
            (None, "nowhere", cdi.PluginError, "installed are: aps_34idc"),
            (None, 34, cdi.GeometryError, "expected a cdi_stream.Beamline, a name or the path"),
            (None, "no.toml", cdi.ConfigError, "no.toml does not exist"),
        ],
    )
    def test_bad_input_is_refused(self, scan, curve, beamline, error, text):
        with pytest.raises(error, match=text):
            cdi.reconstruct(scan if curve is None else curve, beamline)

    def test_a_curve_without_a_crystal_is_an_error_with_its_reason(self, scan):
        with pytest.raises(cdi.CurveError, match="empty: expected at least 5000 counts"):
            cdi.reconstruct(replace(scan, frames=np.zeros_like(scan.frames), frame_sums=None), "aps_34idc")
        without = replace(scan, baseline={k: v for k, v in scan.baseline.items() if k != "chi"})
        with pytest.raises(cdi.CurveError, match="no reading of circle 'chi'"):
            cdi.reconstruct(without, "aps_34idc")

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"counts": np.ones((3, 16))}, r"expected frames \(n_frames, rows, cols\)"),
            ({"counts": np.full((3, 16, 16), 0.5)}, r"got 0\.5 at \(0, 0, 0\): give raw counts"),
            ({"counts": np.full((3, 16, 16), -1)}, "expected whole numbers from 0"),
            ({"angles_deg": {"theta": [0.1, 0.2]}}, "theta: expected one number or 3"),
            ({"valid_pixels": np.ones((4, 4))}, r"valid_pixels: expected 0 and 1 of shape \(16, 16\)"),
            ({"monitor": [1.0]}, "monitor: expected one number or 3"),
        ],
    )
    def test_a_curve_that_does_not_fit_is_refused(self, change, text):
        detector = cdi.DetectorPlacement(distance_m=1, pixel_row_m=1e-5, pixel_col_m=1e-5, beam_row=8, beam_col=8)
        given = {"counts": np.ones((3, 16, 16), dtype=np.uint8), "angles_deg": {"theta": [0.1, 0.2, 0.3]}}
        with pytest.raises(cdi.RecordingError, match=text):
            cdi.rocking_curve(**{**given, **change}, photon_energy_ev=9e3, detector=detector)


def require_same(found: Reconstruction, same: Reconstruction) -> None:
    """Arrays, maps, numbers and verdict are equal."""
    for ours, theirs in ((found, same), (found.lab, same.lab)):
        if isinstance(ours, LabObject):
            np.testing.assert_array_equal(ours.density, theirs.density)
        elif ours is not None:
            np.testing.assert_array_equal(ours.object, theirs.object)
        if ours is not None:
            np.testing.assert_array_equal(ours.support, theirs.support)
            for name in ("q0", "bq", "sample_to_lab", "coordinates") if ours.affine else ():
                np.testing.assert_array_equal(getattr(ours.affine, name), getattr(theirs.affine, name))
    assert found.metrics.values() == pytest.approx(same.metrics.values(), nan_ok=True)
    assert (found.verdict.grade, found.verdict.reasons) == (same.verdict.grade, same.verdict.reasons)


class TestFiles:
    def test_npz_holds_all_of_it_with_or_without_geometry(self, phased, reconstructed, tmp_path):
        for one in (phased, reconstructed):
            path = one.save(tmp_path / "new" / "a.npz")
            same = cdi.load_result(path)
            require_same(one, same)
            assert same.axes == one.axes
            assert same.metrics.starts == one.metrics.starts

    @pytest.mark.parametrize("suffix", [".h5", ".cxi"])
    def test_lab_formats_hold_the_crystal_with_its_numbers(self, reconstructed, tmp_path, suffix):
        same = cdi.load_result(reconstructed.save(str(tmp_path / f"a{suffix}")))
        require_same(reconstructed, same)
        np.testing.assert_array_equal(same.strain(), reconstructed.strain())

    def test_vti_is_written_for_paraview(self, reconstructed, tmp_path):
        assert b"ImageData" in reconstructed.save(tmp_path / "a.vti").read_bytes()[:300]

    def test_a_file_of_the_command_has_no_verdict_and_says_so(self, phased, counts, tmp_path):
        np.save(tmp_path / "a.npy", counts)
        out = tmp_path / "out.npz"
        deadline, settings = Deadline(30.0), method_settings(budget_s=30.0, seed=3)
        file = tmp_path / "a.npy"
        phase_file(Request(file=file, mask=None, method="recipe", settings=settings, deadline=deadline, out=out))
        found = cdi.load_result(out)
        np.testing.assert_array_equal(found.object, phased.object)
        assert found.verdict.grade == "unknown"
        assert "holds no verdict" in found.verdict.reasons[0]
        assert np.isnan(found.metrics.chi2)

    def test_a_result_of_the_service_keeps_numbers_and_verdict(self, known):
        found = cdi.load_result(known)
        np.testing.assert_array_equal(found.object, test_exports.crystal().density)
        np.testing.assert_array_equal(found.affine.q0, test_exports.Q0)
        assert (found.verdict.grade, found.verdict.reasons) == ("doubtful", ("few counts",))
        assert found.metrics.chi2 == 0.01
        assert found.metrics.starts is None

    @pytest.mark.parametrize("name", ["a.npy", "a", "a.tif"])
    def test_other_suffixes_are_refused_with_the_choice(self, phased, tmp_path, name):
        with pytest.raises(cdi.ConfigError, match=r"expected a name that ends in \.npz, \.h5, \.cxi or \.vti"):
            phased.save(tmp_path / name)

    def test_lab_formats_want_a_geometry(self, phased, tmp_path):
        with pytest.raises(cdi.GeometryError, match=r"a \.h5 file: expected a reconstruction with its geometry"):
            phased.save(tmp_path / "a.h5")

    @pytest.mark.parametrize("suffix", [".npz", ".h5", ".vti"])
    def test_a_place_that_cannot_be_written_is_told(self, reconstructed, tmp_path, suffix):
        (tmp_path / "file").write_text("")
        with pytest.raises(cdi.ConfigError, match="choose another place"):
            reconstructed.save(tmp_path / "file" / f"a{suffix}")

    @pytest.mark.parametrize("content", [None, "folder", b"", b"text", "npz", "hdf5", "intensities", "failed"])
    def test_what_is_no_result_is_refused(self, tmp_path, content):
        path = tmp_path / "a.file"
        if content == "folder":
            path.mkdir()
        elif content == "npz":
            np.savez(path.with_suffix(".npz"), data=np.ones(3))
            path = path.with_suffix(".npz")
        elif content == "hdf5":
            h5py.File(path, "w").close()
        elif content == "intensities":
            with h5py.File(path, "w") as file:
                file["entry_1/data_1/data"] = np.ones((3, 3))
        elif content == "failed":
            path = test_exports.result_file(tmp_path, None)
        elif content is not None:
            path.write_bytes(content)
        with pytest.raises(cdi.RecordingError, match=r"expected .*got.*"):
            cdi.load_result(path)

    def test_another_sign_of_the_transform_is_refused(self, phased, tmp_path):
        path = phased.save(tmp_path / "a.npz")
        with np.load(path) as file:
            arrays = {**file, "fourier_sign": np.int64(-1)}
        np.savez(path, **arrays)
        with pytest.raises(cdi.RecordingError, match=r"fourier_sign -1.*'fourier_sign' = 1"):
            cdi.load_result(path)

    def test_a_file_that_does_not_exist_is_refused_by_read(self, tmp_path):
        with pytest.raises(cdi.IntensitiesError, match="does not exist"):
            cdi.read(tmp_path / "none.npy")


class TestNotebook:
    def test_a_table_with_units_the_verdict_and_a_picture(self, reconstructed):
        page = reconstructed._repr_html_()
        assert reconstructed.verdict.grade in page
        assert re.search(r"<th[^>]*>voxel_size</th><td>[\d.]+ nm</td>", page)
        assert "data:image/png;base64,iVBOR" in page

    def test_reasons_are_text_and_no_html(self, phased):
        spoilt = replace(phased, verdict=cdi.Verdict(grade="doubtful", reasons=("<script>",)))
        assert "<script>" not in spoilt._repr_html_()

    def test_without_matplotlib_there_is_no_picture(self, phased, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
        assert "<table>" in phased._repr_html_()
        assert "<img" not in phased._repr_html_()
        with pytest.raises(cdi.ConfigError, match="pip install"):
            phased.plot()

    def test_a_figure_shows_itself(self, reconstructed, phased):
        assert phased.plot()._repr_png_()[:4] == b"\x89PNG"
        figure = reconstructed.plot()
        assert figure.axes[0].get_xlabel().endswith("/ nm")

    def test_the_picture_of_an_object_has_no_ramp(self, counts):
        rolled = cdi.phase(np.roll(counts, (5, -4, 3), (0, 1, 2)), **QUICK)
        from cdi_stream.interface.notebook import without_ramp

        flat = without_ramp(rolled.object)
        np.testing.assert_allclose(np.abs(flat), np.abs(rolled.object), rtol=1e-4)
        inside = rolled.support[1:] & rolled.support[:-1]
        step = lambda density: np.angle((density[1:] * density[:-1].conj())[inside].sum())  # noqa: E731
        assert abs(step(flat)) < 0.05 < abs(step(rolled.object))

    def test_one_line_says_what_it_is(self, phased):
        assert re.match(r"<Reconstruction of 16 x 16 x 16 voxels: \w+; chi2 [\d.]+, ", repr(phased))

    def test_arrays_are_read_only_and_metrics_have_units(self, phased):
        with pytest.raises(ValueError, match="read-only"):
            phased.object[0] = 0
        assert all({"unit", "meaning"} <= one.metadata.keys() for one in fields(phased.metrics))
