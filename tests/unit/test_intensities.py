"""Files of intensities: what is taken from them, what is masked, and what is refused."""

from __future__ import annotations

import json
import re
import zipfile
from contextlib import suppress

import h5py
import numpy as np
import pytest
import torch

from cdi_stream.errors import InputError, IntensitiesError, RecordingError
from cdi_stream.files.exports import export_result
from cdi_stream.files.intensities import limits
from cdi_stream.files.intensities.read import read_intensities, read_mask
from cdi_stream.files.intensities.scans import scan_intensities
from cdi_stream.files.intensities.window import peak_of, window_of
from cdi_stream.files.recording import scan_header, write_scan
from cdi_stream.geometry.circles import DetectorPlacement, Positions, exact_q_sample
from cdi_stream.interface.phase_counts import prepared
from cdi_stream.messages import RecordedScan
from cdi_stream.numerics.fourier import to_reciprocal
from cdi_stream.registry import load
from tests.unit.test_exports import crystal, result_file

SHAPE = (15, 18, 20)
PEAK = (7, 9, 10)


def pattern(shape=SHAPE, peak=50_000.0):
    """Counts of a box crystal, brightest at the origin voxel; no two are equal where it is bright."""
    density = torch.zeros(shape, dtype=torch.complex64)
    density[tuple(slice(n // 2 - 2, n // 2 + 2) for n in shape)] = 1
    density[tuple(n // 2 - 1 for n in shape)] = 1.5
    intensity = to_reciprocal(density, len(shape)).abs().square().numpy()
    return np.rint(intensity * (peak / intensity.max())).astype(np.uint32)


def saved(path, array):
    np.save(path, array)
    return path


def cxi(path, data, mask=None, axes=None, where="entry_1/instrument_1/detector_1"):
    """As PyNX writes it: the detector holds the arrays, data_1 leads to them."""
    with h5py.File(path, "w") as file:
        detector = file.create_group(where)
        detector["data"] = data
        if mask is not None:
            detector["mask"] = mask
        if axes is not None:
            detector["data"].attrs["axes"] = axes
        file["entry_1/data_1/data"] = h5py.SoftLink(f"/{where}/data")
    return path


class TestPlainArrays:
    @pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<i4", ">i4", "u8", "f2", ">f4", "f8", "g"])
    def test_counts_come_as_they_are_in_this_machines_order(self, tmp_path, dtype):
        counts = pattern(peak=200.0).astype(dtype)
        found = read_intensities(saved(tmp_path / "a.npy", counts))
        assert found.counts.dtype.isnative
        assert found.counts.dtype == (np.float32 if counts.dtype.kind == "f" else counts.dtype.newbyteorder("="))
        np.testing.assert_array_equal(found.counts, counts.astype(np.float64))
        assert found.valid_pixels.all()
        assert found.affine is None
        assert found.expected_scale is None
        assert (found.notes, found.doubts) == ((), ())

    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("shape", [(15, 18), SHAPE])
    def test_two_and_three_axes_in_either_order(self, tmp_path, shape, order):
        counts = pattern(shape)
        found = read_intensities(saved(tmp_path / "a.npy", np.asarray(counts, order=order)))
        np.testing.assert_array_equal(found.counts, counts)
        assert len(found.axes) == len(shape)
        assert peak_of(found) == tuple(n // 2 for n in shape)

    def test_a_kind_is_known_by_content_not_by_name(self, tmp_path):
        np.savez(tmp_path / "a.npz", data=pattern())
        (tmp_path / "a.npz").rename(tmp_path / "a.dat")
        assert read_intensities(tmp_path / "a.dat").counts.shape == SHAPE

    def test_true_or_1_in_an_npz_mask_means_use(self, tmp_path):
        mask = np.ones(SHAPE, dtype=np.uint8)
        mask[0] = 0
        for n, same in enumerate((mask, mask.astype(bool), mask.astype(float))):
            np.savez_compressed(tmp_path / f"{n}.npz", data=pattern(), mask=same)
            np.testing.assert_array_equal(read_intensities(tmp_path / f"{n}.npz").valid_pixels, mask == 1)

    def test_other_values_in_a_mask_are_refused(self, tmp_path):
        np.savez(tmp_path / "a.npz", data=pattern(), mask=np.full(SHAPE, 255))
        with pytest.raises(IntensitiesError, match="1 where a voxel may be used"):
            read_intensities(tmp_path / "a.npz")

    def test_an_npz_without_data_lists_what_it_has(self, tmp_path):
        np.savez(tmp_path / "a.npz", pattern())
        with pytest.raises(IntensitiesError, match=r"'data', got arr_0"):
            read_intensities(tmp_path / "a.npz")

    def test_arrays_are_read_only(self, tmp_path):
        found = read_intensities(saved(tmp_path / "a.npy", pattern()))
        with pytest.raises(ValueError, match="read-only"):
            found.counts[0, 0, 0] = 1

    def test_a_peak_at_voxel_0_is_told(self, tmp_path):
        found = read_intensities(saved(tmp_path / "a.npy", np.fft.ifftshift(pattern())))
        assert "voxel 0" in found.notes[0]


class TestMaskFile:
    def test_a_2d_mask_holds_for_every_frame(self, tmp_path):
        mask = np.ones(SHAPE[1:], dtype=bool)
        mask[:, 3] = False
        data = saved(tmp_path / "a.npy", pattern())
        found = read_intensities(data, saved(tmp_path / "m.npy", mask))
        np.testing.assert_array_equal(found.valid_pixels, np.broadcast_to(mask, SHAPE))

    def test_both_masks_count(self, tmp_path):
        own, other = np.ones(SHAPE, dtype=bool), np.ones(SHAPE, dtype=int)
        own[0], other[-1] = False, 0
        np.savez(tmp_path / "a.npz", data=pattern(), mask=own)
        np.savez(tmp_path / "m.npz", mask=other, data=np.zeros(3))
        found = read_intensities(tmp_path / "a.npz", tmp_path / "m.npz")
        np.testing.assert_array_equal(found.valid_pixels, own & (other == 1))

    def test_a_cxi_mask_has_0_where_it_is_good(self, tmp_path):
        bits = np.zeros(SHAPE, dtype=np.uint32)
        bits[:, 2], bits[:, 4] = 1, 512
        path = cxi(tmp_path / "m.cxi", pattern(), bits)
        np.testing.assert_array_equal(read_mask(path), bits == 0)
        found = read_intensities(saved(tmp_path / "a.npy", pattern()), path)
        np.testing.assert_array_equal(found.valid_pixels, bits == 0)

    @pytest.mark.parametrize("shape", [(18, 15), (20,) * 3, (15, 18), (1, 18, 20)])
    def test_another_shape_is_refused(self, tmp_path, shape):
        data = saved(tmp_path / "a.npy", pattern())
        with pytest.raises(IntensitiesError, match=re.escape(f"{SHAPE} or {SHAPE[1:]}, got {shape}")):
            read_intensities(data, saved(tmp_path / "m.npy", np.ones(shape, dtype=bool)))

    def test_a_mask_that_makes_sense_only_when_inverted_is_refused(self, tmp_path):
        bad = np.zeros(SHAPE, dtype=bool)
        bad[:, 9, 8:10] = True
        data, mask = saved(tmp_path / "a.npy", pattern()), saved(tmp_path / "m.npy", bad)
        with pytest.raises(
            IntensitiesError, match=r"removes the peak at \(7, 9, 10\).*looks inverted.*invert the mask"
        ):
            read_intensities(data, mask)
        assert read_intensities(data, saved(tmp_path / "m.npy", ~bad)).doubts == ()

    def test_nothing_that_could_be_a_mask(self, tmp_path):
        (tmp_path / "m.txt").write_text("1 1 1")
        with pytest.raises(IntensitiesError, match="a mask as npy, npz or CXI"):
            read_mask(tmp_path / "m.txt")
        with pytest.raises(IntensitiesError, match="expected a mask at"):
            read_mask(cxi(tmp_path / "m.cxi", pattern()))


class TestBlemishes:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_nan_and_infinity_are_masked(self, tmp_path, value):
        counts = pattern().astype(np.float32)
        counts[3, 4, 5:8] = value
        found = read_intensities(saved(tmp_path / "a.npy", counts))
        assert not found.valid_pixels[3, 4, 5:8].any()
        assert found.valid_pixels.sum() == counts.size - 3
        assert np.all(found.counts[3, 4, 5:8] == 0)
        assert found.notes == ("3 voxels are NaN or infinite: they are masked",)

    def test_more_than_float32_holds_is_infinite(self, tmp_path):
        counts = pattern().astype(np.float64)
        counts[0, 0, 0] = 1e300
        assert "1 voxels are NaN or infinite" in read_intensities(saved(tmp_path / "a.npy", counts)).notes[0]

    @pytest.mark.parametrize("dtype", [np.int32, np.float64])
    def test_few_negative_voxels_are_masked(self, tmp_path, dtype):
        counts = pattern().astype(dtype)
        counts[0, 0, :5] = -1
        found = read_intensities(saved(tmp_path / "a.npy", counts))
        assert found.counts.min() == 0
        assert not found.valid_pixels[0, 0, :5].any()
        assert found.notes == ("5 voxels are below zero: they are masked",)

    def test_many_negative_voxels_are_an_error_unless_masked(self, tmp_path):
        counts = pattern().astype(np.int32)
        counts[0] = -2
        with pytest.raises(IntensitiesError, match="below zero: give raw counts"):
            read_intensities(saved(tmp_path / "a.npy", counts))
        found = read_intensities(tmp_path / "a.npy", saved(tmp_path / "m.npy", counts >= 0))
        assert (found.notes, found.counts.min()) == ((), 0)

    @pytest.mark.parametrize("dtype", [np.uint16, np.int16])
    def test_a_saturated_peak_is_masked_and_doubted(self, tmp_path, dtype):
        limit = np.iinfo(dtype).max
        counts = np.minimum(pattern(peak=2.0 * limit), limit).astype(dtype)
        found = read_intensities(saved(tmp_path / "a.npy", counts))
        np.testing.assert_array_equal(found.valid_pixels, counts < limit)
        assert f"at {limit}" in found.doubts[0]
        assert "saturated" in found.doubts[0]

    def test_gaps_at_the_limit_are_no_saturation(self, tmp_path):
        counts = pattern().astype(np.uint16)
        counts[:, 3] = 65535
        found = read_intensities(saved(tmp_path / "a.npy", counts))
        assert found.doubts == ()
        assert "detector gaps" in found.notes[0]
        counts = pattern((16, 18))
        counts[2] = 2**32 - 1
        found = read_intensities(saved(tmp_path / "a.npy", counts))
        assert (found.doubts, int((~found.valid_pixels).sum())) == ((), 18)

    @pytest.mark.parametrize("scale", [1, 1e-6])
    def test_a_clipped_peak_is_masked_and_doubted(self, tmp_path, scale):
        counts = np.minimum(pattern(), 12_000) * np.float32(scale)
        found = read_intensities(saved(tmp_path / "a.npy", counts))
        assert (counts == counts.max()).sum() >= 4
        np.testing.assert_array_equal(found.valid_pixels, counts < counts.max())
        assert "saturated" in found.doubts[0]

    def test_few_photons_are_no_plateau(self, tmp_path):
        counts = np.random.default_rng(0).poisson(pattern(peak=3.0)).astype(np.uint32)
        counts[counts > 3] = 3
        assert read_intensities(saved(tmp_path / "a.npy", counts)).doubts == ()

    def test_no_whole_numbers_are_told(self, tmp_path):
        found = read_intensities(saved(tmp_path / "a.npy", pattern() / 50_000.0))
        assert "no whole numbers" in found.notes[0]


def box_pattern(shape=(24, 24, 24), length=8, total=1e7):
    """Counts of a box crystal, a third of the array long."""
    density = torch.zeros(shape, dtype=torch.complex64)
    density[tuple(slice(n // 2 - length // 2, n // 2 + length // 2) for n in shape)] = 1
    intensity = to_reciprocal(density, len(shape)).abs().square().double().numpy()
    return np.random.default_rng(0).poisson(intensity * (total / intensity.sum())).astype(np.uint32)


class TestCleaning:
    @pytest.mark.parametrize("shape", [(24, 24, 24), (32, 32)])
    @pytest.mark.parametrize("kind", ["npy", "npz", "cxi", "float"])
    def test_a_hot_voxel_of_any_plain_file_is_masked_and_told(self, tmp_path, kind, shape):
        counts, place = box_pattern(shape), (3, 17, 5)[: len(shape)]
        counts[place] = 10**7
        path = tmp_path / f"a.{kind}"
        if kind == "npz":
            np.savez(path, data=counts)
        elif kind == "cxi":
            cxi(path, counts)
        else:
            path = saved(tmp_path / "a.npy", counts if kind == "npy" else counts / box_pattern(shape).max())
        found = read_intensities(path)
        assert np.argwhere(~found.valid_pixels).tolist() == [list(place)]
        np.testing.assert_array_equal(found.blemishes, ~found.valid_pixels)
        assert found.own_valid_pixels.all()
        assert f"cleaning masked 1 hot voxel at {place}; --no-cleaning keeps them" in found.notes
        assert found.doubts == ()

    def test_it_can_be_switched_off(self, tmp_path):
        counts = box_pattern()
        counts[3, 17, 5] = 10**7
        found = read_intensities(saved(tmp_path / "a.npy", counts), cleans=False)
        assert found.valid_pixels.all()
        assert (found.blemishes, found.notes, found.doubts) == (None, (), ())

    def test_the_first_places_of_many_are_told(self, tmp_path):
        counts = box_pattern()
        counts[:, 5, 5] = 10**6
        found = read_intensities(saved(tmp_path / "a.npy", counts))
        assert found.notes == (
            "cleaning masked 24 hot voxels at (0, 5, 5), (1, 5, 5), (2, 5, 5), ...; --no-cleaning keeps them",
        )
        assert found.doubts == ()  # the row is no clipped peak

    def test_a_peak_of_one_voxel_is_kept_and_doubted(self, tmp_path):
        found = read_intensities(saved(tmp_path / "a.npy", box_pattern(length=20)))
        assert found.valid_pixels[12, 12, 12]
        assert "the peak at (12, 12, 12) is a single voxel" in found.doubts[0]

    def test_an_island_of_another_grain_is_masked(self, tmp_path):
        counts = box_pattern((40, 40, 40), 6, 1e5)
        counts[3:7, 3:7, 28:32] += 100
        found = read_intensities(saved(tmp_path / "a.npy", counts))
        assert not found.valid_pixels[4:6, 4:6, 29:31].any()
        assert found.valid_pixels[20, 20, 20]
        assert "alien (of another grain) voxels at" in found.notes[0]

    def test_a_scans_own_mask_includes_its_blemishes(self, tmp_path):
        frames = scan().frames.astype(np.uint32)
        frames[4, 20, 25] = 10**6
        write_scan(scan(frames), tmp_path / "scan.h5")
        found = read_intensities(tmp_path / "scan.h5")
        assert not found.own_valid_pixels[4, 20, 25]
        assert read_intensities(tmp_path / "scan.h5", cleans=False).valid_pixels[4, 20, 25]

    @pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.uint64, np.float32, np.float64])
    @pytest.mark.parametrize("end", [2**32 - 1, 2**32 - 2])
    def test_the_ends_of_32_bits_are_gaps_in_any_type(self, tmp_path, dtype, end):
        counts = box_pattern().astype(dtype)
        counts[:, 3, 3:6] = end
        found = read_intensities(saved(tmp_path / "a.npy", counts), cleans=False)
        assert np.argwhere(~found.valid_pixels).shape == (24 * 3, 3)
        assert "detector gaps" in found.notes[0]
        assert found.doubts == ()


class TestMaskOfTheOtherConvention:
    def inverted(self, tmp_path, kind, bad):
        """A file whose mask has 1 (in CXI: 0) where voxels are bad."""
        if kind == "npz":
            np.savez(tmp_path / "a.npz", data=box_pattern(), mask=bad)
            return tmp_path / "a.npz", None
        if kind == "cxi":
            return cxi(tmp_path / "a.cxi", box_pattern(), np.broadcast_to(~bad, (24,) * 3).astype(np.uint8)), None
        return saved(tmp_path / "a.npy", box_pattern()), saved(tmp_path / "m.npy", bad)

    @pytest.mark.parametrize("kind", ["npy", "npz", "cxi"])
    def test_it_is_refused_when_only_the_inverse_makes_sense(self, tmp_path, kind):
        bad = np.zeros((24,) * 3, dtype=bool)
        bad[:, 3:5] = True
        with pytest.raises(
            IntensitiesError, match=r"removes the peak at \(12, 12, 12\) and leaves 0\.\d%.*looks inverted"
        ):
            read_intensities(*self.inverted(tmp_path, kind, bad))

    def test_gaps_and_hot_voxels_under_the_mask_are_not_taken_for_the_peak(self, tmp_path):
        counts, use = box_pattern(), np.ones((24,) * 3, dtype=bool)
        counts[:, 5], counts[2, 2, 2] = 2**32 - 1, 10**9
        use[:, 5], use[2, 2, 2] = False, False
        found = read_intensities(saved(tmp_path / "a.npy", counts), saved(tmp_path / "m.npy", use))
        assert found.doubts == ()
        with pytest.raises(IntensitiesError, match="looks inverted"):
            read_intensities(tmp_path / "a.npy", saved(tmp_path / "m.npy", ~use))

    def test_a_beam_stop_is_doubted_and_not_refused(self, tmp_path):
        use = np.ones((24,) * 3, dtype=bool)
        use[9:16, 9:16, 9:16] = False
        found = read_intensities(saved(tmp_path / "a.npy", box_pattern()), saved(tmp_path / "m.npy", use))
        assert "the mask removes the peak at (12, 12, 12)" in found.doubts[0]

    def test_a_mask_that_keeps_the_peak_alone_is_taken(self, tmp_path):
        use = np.zeros((24,) * 3, dtype=bool)
        use[6:19, 6:19, 6:19] = True
        found = read_intensities(saved(tmp_path / "a.npy", box_pattern()), saved(tmp_path / "m.npy", use))
        assert not [doubt for doubt in found.doubts if "inverted" in doubt]


class TestNothingToPhase:
    @pytest.mark.parametrize(("n_lit", "said"), [(0, "all voxels at zero"), (1, "one lit voxel"), (5, "5 lit voxels")])
    def test_too_few_lit_voxels(self, tmp_path, n_lit, said):
        counts = np.zeros(SHAPE, dtype=np.uint32)
        counts[7, 9, :n_lit] = np.arange(n_lit) + 100
        with pytest.raises(IntensitiesError, match=said):
            read_intensities(saved(tmp_path / "a.npy", counts))

    def test_everything_masked(self, tmp_path):
        mask = saved(tmp_path / "m.npy", np.zeros(SHAPE, dtype=bool))
        with pytest.raises(IntensitiesError, match="got all of them masked"):
            read_intensities(saved(tmp_path / "a.npy", pattern()), mask)
        with pytest.raises(IntensitiesError, match="got all of them masked"):
            read_intensities(saved(tmp_path / "b.npy", np.full(SHAPE, np.nan)))

    def test_the_same_everywhere(self, tmp_path):
        with pytest.raises(IntensitiesError, match="got 7 everywhere"):
            read_intensities(saved(tmp_path / "a.npy", np.full(SHAPE, 7)))

    @pytest.mark.parametrize(
        ("array", "said"),
        [
            (np.ones(SHAPE, dtype=complex), "intensities, not amplitudes"),
            (np.ones(SHAPE, dtype=bool), "real numbers, got type bool"),
            (np.full(SHAPE, "1"), "real numbers, got type <U1"),
            (np.zeros(SHAPE, dtype=[("a", "f4")]), "real numbers"),
            (np.zeros(SHAPE, dtype="M8[s]"), "real numbers"),
            (np.ones(100), "2 or 3 axes"),
            (np.ones((2, 8, 8, 8)), "2 or 3 axes"),
            (np.ones((7, 20, 20)), "at least 8 voxels"),
            (np.ones((0, 20, 20)), "at least 8 voxels"),
            (np.array(3.0), "2 or 3 axes"),
        ],
    )
    def test_other_arrays(self, tmp_path, array, said):
        with pytest.raises(IntensitiesError, match=said):
            read_intensities(saved(tmp_path / "a.npy", array))


class TestCxi:
    def test_data_and_mask(self, tmp_path):
        bits = np.zeros(SHAPE, dtype=np.int8)
        bits[2, 3, 4] = 1
        found = read_intensities(cxi(tmp_path / "a.cxi", pattern(), bits, "z:y:x"))
        np.testing.assert_array_equal(found.counts, pattern())
        np.testing.assert_array_equal(found.valid_pixels, bits == 0)
        assert found.axes == ("z", "y", "x")

    def test_a_2d_mask(self, tmp_path):
        bits = np.zeros(SHAPE[1:], dtype=np.uint16)
        bits[3] = 4
        found = read_intensities(cxi(tmp_path / "a.cxi", pattern(), bits))
        np.testing.assert_array_equal(found.valid_pixels, np.broadcast_to(bits == 0, SHAPE))

    def test_separate_experiments_are_doubted(self, tmp_path):
        found = read_intensities(cxi(tmp_path / "a.cxi", pattern(), axes="experiment_identifier:y:x"))
        assert "experiments" in found.doubts[0]

    def test_an_image_must_be_a_diffraction_pattern_with_its_origin_in_the_middle(self, tmp_path):
        path = cxi(tmp_path / "a.cxi", pattern(), where="entry_1/image_1")
        with pytest.raises(IntensitiesError, match="data_space"):
            read_intensities(path)
        with h5py.File(path, "a") as file:
            file["entry_1/image_1/data_space"] = "diffraction"
        assert read_intensities(path).counts.shape == SHAPE
        with h5py.File(path, "a") as file:
            file["entry_1/image_1/is_fft_shifted"] = 1
        with pytest.raises(IntensitiesError, match="fftshift"):
            read_intensities(path)

    def test_our_export_holds_a_crystal_not_its_data(self, tmp_path):
        source = result_file(tmp_path / "results", crystal())
        export_result(source, tmp_path / "crystal.cxi")
        with pytest.raises(IntensitiesError, match="intensities, not amplitudes"):
            read_intensities(tmp_path / "crystal.cxi")
        with pytest.raises(IntensitiesError, match="got a result of cdi-stream"):
            read_intensities(source)

    def test_an_entry_without_data(self, tmp_path):
        with h5py.File(tmp_path / "a.cxi", "w") as file:
            file.create_group("entry_1/data_1/data")
        with pytest.raises(IntensitiesError, match="/entry_1/data_1/data"):
            read_intensities(tmp_path / "a.cxi")


class TestHostileFiles:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(IntensitiesError, match="does not exist"):
            read_intensities(tmp_path / "a.npy")
        with pytest.raises(IntensitiesError, match="npy, npz, CXI or a recorded scan"):
            read_intensities(tmp_path)

    @pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.cxi", "a.h5"])
    def test_every_truncation_is_refused(self, tmp_path, name):
        path = tmp_path / name
        if name == "a.npz":
            np.savez_compressed(path, data=pattern())
        elif name == "a.npy":
            np.save(path, pattern())
        elif name == "a.cxi":
            cxi(path, pattern(), np.zeros(SHAPE))
        else:
            write_scan(scan(), path)
        whole = path.read_bytes()
        for n in sorted({*range(0, 200, 13), *np.linspace(200, len(whole) - 40, 25).astype(int).tolist()}):
            path.write_bytes(whole[:n])
            with pytest.raises(InputError):
                read_intensities(path)

    @pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.cxi", "a.h5"])
    def test_flipped_bytes_give_an_answer_or_an_error_of_ours(self, tmp_path, name):
        path, rng = tmp_path / name, np.random.default_rng(1)
        if name == "a.npz":
            np.savez_compressed(path, data=pattern())
        elif name == "a.npy":
            np.save(path, pattern())
        elif name == "a.cxi":
            cxi(path, pattern(), np.zeros(SHAPE))
        else:
            write_scan(scan(), path)
        whole = bytearray(path.read_bytes())
        for _ in range(40):
            spoilt = whole.copy()
            for place in rng.integers(0, min(len(whole), 600), 3):
                spoilt[place] = rng.integers(256)
            path.write_bytes(spoilt)
            with suppress(InputError):
                read_intensities(path)

    def test_pickles_are_never_opened(self, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (pytest.fail, ("unpickled",))

        np.save(tmp_path / "a.npy", np.array([[Bomb()] * 8] * 8, dtype=object), allow_pickle=True)
        np.savez(tmp_path / "a.npz", data=np.array([[Bomb()] * 8] * 8, dtype=object), allow_pickle=True)
        for name in ("a.npy", "a.npz"):
            with pytest.raises(IntensitiesError, match="real numbers, got type object"):
                read_intensities(tmp_path / name)

    @pytest.mark.parametrize(
        ("shape", "said"),
        [
            ((2**20, 2**20, 2**20), "at most 268435456 voxels"),
            ((2**40, 2**40), "at most"),
            ((2**70, 8), "at most"),
            ((-8, -8, 8), "at least 8"),
            ((600, 600, 600), "cut short"),
            (tuple([8] * 60), "60 axes"),
        ],
    )
    def test_nothing_is_allocated_for_a_claim(self, tmp_path, shape, said):
        header = str({"descr": "<u4", "fortran_order": False, "shape": shape}).encode()
        header = header.ljust(1014) + b"\n"
        block = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 400
        (tmp_path / "a.npy").write_bytes(block)
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("data.npy", block)
        for name in ("a.npy", "a.npz"):
            with pytest.raises(IntensitiesError, match=said):
                read_intensities(tmp_path / name)

    def test_a_header_of_gigabytes(self, tmp_path):
        block = b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b" " * 100
        (tmp_path / "a.npy").write_bytes(block)
        with pytest.raises(IntensitiesError, match="a broken file"):
            read_intensities(tmp_path / "a.npy")

    def test_a_zip_bomb_is_not_unpacked(self, tmp_path, monkeypatch):
        monkeypatch.setattr(limits, "MAX_VOXELS", 10_000)
        np.savez_compressed(tmp_path / "a.npz", data=np.zeros((100, 100, 100)))
        with pytest.raises(IntensitiesError, match="at most 10000 voxels"):
            read_intensities(tmp_path / "a.npz")
        np.savez_compressed(tmp_path / "b.npz", data=pattern(), mask=np.zeros((100, 100, 100)))
        with pytest.raises(IntensitiesError, match="at most 10000 voxels"):
            read_intensities(tmp_path / "b.npz")

    def test_more_bytes_than_the_array_needs_are_left_alone(self, tmp_path):
        np.save(tmp_path / "a.npy", pattern())
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data.npy", (tmp_path / "a.npy").read_bytes() + bytes(10**7))
        np.testing.assert_array_equal(read_intensities(tmp_path / "a.npz").counts, pattern())

    def test_an_odd_compression_is_refused(self, tmp_path):
        np.save(tmp_path / "a.npy", pattern())
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
            archive.write(tmp_path / "a.npy", "data.npy")
        with pytest.raises(IntensitiesError, match="compression"):
            read_intensities(tmp_path / "a.npz")

    def test_hdf5_claims(self, tmp_path):
        with h5py.File(tmp_path / "a.cxi", "w") as file:
            file.create_dataset("entry_1/data_1/data", shape=(2**20, 2**20, 2**10), dtype="u4", chunks=(1, 8, 8))
        with pytest.raises(IntensitiesError, match="at most 268435456 voxels"):
            read_intensities(tmp_path / "a.cxi")
        with h5py.File(tmp_path / "b.cxi", "w") as file:
            one = {"maxshape": (None,) * 3, "chunks": (2**10, 2**10, 2**9), "compression": "gzip", "dtype": "u1"}
            file.create_dataset("entry_1/data_1/data", shape=(8, 8, 8), **one)
        with pytest.raises(IntensitiesError, match="a chunk of"):
            read_intensities(tmp_path / "b.cxi")

    @pytest.mark.parametrize("place", ["data", "mask"])
    def test_no_link_leads_to_another_file(self, tmp_path, place):
        (tmp_path / "raw.bin").write_bytes(pattern().tobytes())
        cxi(tmp_path / "other.cxi", pattern(), np.zeros(SHAPE, dtype=np.uint32))
        layout = h5py.VirtualLayout(SHAPE, "u4")
        layout[:] = h5py.VirtualSource(tmp_path / "gone.h5", "data", SHAPE)
        spoil = {
            "link": lambda f, k: f.__setitem__(k, h5py.ExternalLink("other.cxi", "entry_1/data_1/data")),
            "nowhere": lambda f, k: f.__setitem__(k, h5py.ExternalLink("gone.cxi", "x")),
            "virtual": lambda f, k: f.create_virtual_dataset(k, layout),
            "storage": lambda f, k: f.create_dataset(k, SHAPE, "u4", external=[(str(tmp_path / "raw.bin"), 0, 2**20)]),
        }
        for name, write in spoil.items():
            with h5py.File(tmp_path / f"{name}.cxi", "w") as file:
                write(file, f"entry_1/data_1/{place}")
                if place == "mask":
                    file["entry_1/data_1/data"] = pattern()
            with pytest.raises(IntensitiesError, match=r"in the file itself|leads nowhere"):
                read_intensities(tmp_path / f"{name}.cxi")

    def test_soft_links_that_lead_nowhere(self, tmp_path):
        with h5py.File(tmp_path / "a.cxi", "w") as file:
            file["entry_1/data_1/data"] = h5py.SoftLink("/entry_1/data_1/data")
            file["entry_1/image_1/data"] = h5py.SoftLink("/nothing")
        with pytest.raises(IntensitiesError, match=r"leads nowhere|too many links"):
            read_intensities(tmp_path / "a.cxi")


def scan(frames=None, **changes):
    """Twenty frames at 34-ID-C, the peak off the middle."""
    if frames is None:
        frames = np.zeros((20, 24, 28), dtype=np.uint16)
        frames[2:17, 4:22, 3:23] = pattern()
    n = len(frames)
    motors = {"Chi": 90.0, "Phi": -5.0, "Delta": 32.0, "Gamma": 12.6, "Energy": 9.0, "camdist": 500.0}
    fields = {
        "name": "scan 54",
        "frames": frames,
        "beamline": "aps_34idc",
        "scanned": {"Theta": 0.2 + 0.005 * np.arange(n), "Monitor": np.linspace(90, 110, n)},
        "baseline": motors,
        "units": {**dict.fromkeys(motors, "deg"), "Theta": "deg", "Energy": "keV", "camdist": "mm"},
        "detector": {"pixel_row_m": 55e-6, "pixel_col_m": 55e-6, "beam_row": 12.0, "beam_col": 14.0},
    }
    return RecordedScan(**(fields | changes))


class TestScans:
    def test_the_frames_of_a_working_array_keep_their_places(self, tmp_path):
        jitter = np.random.default_rng(3).normal(0, 0.15, 20)
        uneven = {"Theta": 0.2 + 0.005 * (np.arange(20) + jitter), "Monitor": np.full(20, 100.0)}
        write_scan(scan(scanned=uneven), tmp_path / "scan.h5")
        found = read_intensities(tmp_path / "scan.h5")
        slope, offset = np.polyfit(np.arange(20), jitter, 1)
        expected = (jitter - offset - slope * np.arange(20)) / (1 + slope)
        np.testing.assert_allclose(found.frame_shifts, expected, atol=0.005)
        window = window_of(found)
        frames = np.arange(window.shape[0]) - window.shape[0] // 2 + window.peak[0]
        is_frame = (frames >= 0) & (frames < 20)
        taken = window.take(found).frame_shifts.numpy()
        np.testing.assert_array_equal(taken[is_frame], found.frame_shifts[frames[is_frame]])
        assert not taken[~is_frame].any()
        np.testing.assert_array_equal(prepared(window.take(found)).frame_shifts, taken)
        assert scan_intensities(scan()).frame_shifts is None

    def test_all_frames_come_with_their_map(self, tmp_path):
        write_scan(scan(), tmp_path / "scan.h5")
        found = read_intensities(tmp_path / "scan.h5")
        np.testing.assert_array_equal(found.counts, scan().frames)
        peak = tuple(a + b for a, b in zip(PEAK, (2, 4, 3), strict=True))
        assert peak_of(found) == peak
        assert (found.axes, found.is_periodic, found.source) == (("frame", "row", "col"), False, "scan 54")
        degrees = np.stack([0.2 + 0.005 * np.arange(20), np.full(20, 90.0), np.full(20, -5.0)], axis=1)
        positions = Positions(
            sample_rad=np.deg2rad(degrees),
            arm_rad=np.deg2rad(np.tile((32.0, 12.6), (20, 1))),
            photon_energy_ev=np.full(20, 9000.0),
        )
        detector = DetectorPlacement(distance_m=0.5, pixel_row_m=55e-6, pixel_col_m=55e-6, beam_row=12, beam_col=14)
        parts = (load("cdi_stream.beamline", "aps_34idc"), detector, positions)
        to_lab = found.affine.sample_to_lab
        for voxel, tolerance in ((peak, 1e-9), ((0, 0, 0), 2e-2)):
            q = to_lab @ exact_q_sample(*parts, *voxel)
            assert np.linalg.norm(found.affine.q(voxel) - q) <= tolerance * np.linalg.norm(q - found.affine.q0) + 1

    def test_monitor_and_white_field_travel_beside_the_counts(self, tmp_path):
        white = np.linspace(0.9, 1.1, 24 * 28, dtype=np.float32).reshape(24, 28)
        white[0, 0] = 0
        write_scan(scan(white_field=white), tmp_path / "scan.h5")
        found = read_intensities(tmp_path / "scan.h5")
        assert found.expected_scale.dtype == np.float32
        np.testing.assert_allclose(
            found.expected_scale[5, 1:] / found.expected_scale[0, 1:], 100 / 90 * 0.9474, rtol=0.2
        )
        np.testing.assert_allclose(
            found.expected_scale[:, 5, 5] / found.expected_scale[0, 5, 5], np.linspace(1, 110 / 90, 20), rtol=1e-5
        )
        assert not found.valid_pixels[:, 0, 0].any()

    def test_gaps_hot_pixels_and_limits_are_masked(self, tmp_path):
        frames = scan().frames.copy()
        frames[:, :, 1] = 65535
        frames[:, 2, 2] = 500
        frames[4, 20, 25] = 900
        mask = np.ones((24, 28), dtype=bool)
        mask[-1] = False
        detector = scan().detector | {"saturation_counts": 40_000.0}
        write_scan(scan(frames, pixel_mask=mask, detector=detector), tmp_path / "scan.h5")
        found = read_intensities(tmp_path / "scan.h5")
        bad = found.valid_pixels.all(axis=0)
        assert not bad[:, 1].any()
        assert not bad[2, 2]
        assert not bad[-1].any()
        assert not found.valid_pixels[4, 20, 25]
        np.testing.assert_array_equal(~found.valid_pixels[9, 13, 10:16], frames[9, 13, 10:16] >= 40_000)
        assert "detector's limit" in found.doubts[0]

    def test_missing_frames_are_left_out_and_told(self, tmp_path):
        frames = scan().frames.copy()
        frames[:, 2, 2] = 500
        frames[[4, 11]] = 0
        scanned = scan().scanned | {"Monitor": np.where(np.arange(20) == 4, 0.0, 100.0)}
        doubts = ("the files were renumbered",)
        write_scan(scan(frames, scanned=scanned, missing=(4, 11), doubts=doubts), tmp_path / "scan.h5")
        found = read_intensities(tmp_path / "scan.h5")
        has_frame = ~np.isin(np.arange(20), (4, 11))
        np.testing.assert_array_equal(found.valid_pixels.any(axis=(1, 2)), has_frame)
        assert not found.valid_pixels[:, 2, 2].any()  # hot in every frame that came
        incomplete = "incomplete: 2 of 20 frames missing (4, 11): they are left out"
        assert found.doubts == ("the files were renumbered", incomplete)
        write_scan(scan(), tmp_path / "whole.h5")
        np.testing.assert_array_equal(found.affine.bq, read_intensities(tmp_path / "whole.h5").affine.bq)

    def test_a_scan_without_any_frame_is_refused(self, tmp_path):
        write_scan(scan(missing=tuple(range(20))), tmp_path / "scan.h5")
        with pytest.raises(IntensitiesError, match="all 20 are missing"):
            read_intensities(tmp_path / "scan.h5")

    def test_signed_frames_mark_gaps_below_zero(self, tmp_path):
        frames = scan().frames.astype(np.int32)
        frames[:, 1] = -1
        write_scan(scan(frames), tmp_path / "scan.h5")
        assert not read_intensities(tmp_path / "scan.h5").valid_pixels[:, 1].any()

    def test_a_mask_file_holds_for_scans_too(self, tmp_path):
        write_scan(scan(), tmp_path / "scan.h5")
        mask = np.ones((24, 28), dtype=bool)
        mask[3] = False
        found = read_intensities(tmp_path / "scan.h5", saved(tmp_path / "m.npy", mask))
        assert not found.valid_pixels[:, 3].any()

    @pytest.mark.parametrize(
        "changes", [{"beamline": None}, {"beamline": "nowhere"}, {"baseline": {}}, {"beamline": {"name": 3}}]
    )
    def test_without_a_geometry_there_is_no_map(self, tmp_path, changes):
        write_scan(scan(**changes), tmp_path / "scan.h5")
        found = read_intensities(tmp_path / "scan.h5")
        assert found.affine is None
        assert "the geometry is unknown" in found.notes[0]

    @pytest.mark.parametrize(
        "changes",
        [
            {"scanned": {"Theta": np.arange(3.0)}},
            {"pixel_mask": np.ones((3, 3), dtype=bool)},
            {"frames": np.zeros((20, 24, 28), dtype=np.float32)},
            {"frames": np.zeros((20, 24), dtype=np.uint16)},
            {"frames": np.zeros((4, 24, 28), dtype=np.uint16)},
            {"frames": np.zeros((20, 24, 28), dtype=np.uint16)},
        ],
    )
    def test_what_does_not_fit_is_refused(self, tmp_path, changes):
        write_scan(scan(**changes), tmp_path / "scan.h5")
        with pytest.raises((IntensitiesError, RecordingError)):
            read_intensities(tmp_path / "scan.h5")

    def test_the_first_of_several_series_is_taken(self, tmp_path):
        with h5py.File(tmp_path / "scan.h5", "w") as file:
            write_series(file, (scan().frames, scan().frames[:, ::-1]))
        found = read_intensities(tmp_path / "scan.h5")
        np.testing.assert_array_equal(found.counts, scan().frames)
        assert "series 0 is taken, the first of 0, 1" in found.notes
        second = read_intensities(tmp_path / "scan.h5", scan=1)
        np.testing.assert_array_equal(second.counts, scan().frames[:, ::-1])

    def test_frames_in_another_file_are_refused(self, tmp_path):
        write_scan(scan(), tmp_path / "scan.h5")
        with h5py.File(tmp_path / "scan.h5", "a") as file:
            file.move("entry/data/data", "entry/data/kept")
            file["entry/data/data"] = h5py.ExternalLink("other.h5", "data")
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["data"] = scan().frames
        with pytest.raises(IntensitiesError, match="another file"):
            read_intensities(tmp_path / "scan.h5")

    def test_a_real_scan(self, shared):
        folder = shared / "data" / "34idc_staff20_s54"
        if not folder.is_dir():
            pytest.skip(f"{folder} is not there: real data are not part of the project")
        found = read_intensities(folder)
        assert found.counts.shape == (201, 256, 256)
        assert found.counts.sum(dtype=np.int64) == 46_155_653
        assert np.abs(np.subtract(peak_of(found), (99, 126, 127))).max() <= 1
        assert 0.999 < found.valid_pixels.mean() < 1
        assert 2 * np.pi / np.linalg.norm(found.affine.q(peak_of(found))) == pytest.approx(2.335e-10, rel=5e-3)

    def test_a_real_array(self, shared):
        path = shared / "data" / "cdinn_au" / "ft_downsampled_32.npy"
        if not path.is_file():
            pytest.skip(f"{path} is not there: real data are not part of the project")
        assert read_intensities(path).counts.shape == (32, 32, 32)


def write_series(file, stacks):
    """Several series in one file, as ``record`` lays them out."""
    data = file.create_group("entry/data")
    data["data"] = np.concatenate(stacks)
    data["frame_id"] = np.concatenate([np.arange(len(s)) for s in stacks])
    data["series_index"] = np.repeat(np.arange(len(stacks)), [len(s) for s in stacks])
    for k, _ in enumerate(stacks):
        group = file.create_group(f"entry/cdi_stream/series_{k}")
        group.attrs["header"] = json.dumps(scan_header(scan()))
        for motor, values in scan().scanned.items():
            group[f"scanned/{motor}"] = values
