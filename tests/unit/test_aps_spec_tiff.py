"""Scans of APS 34-ID-C: which files belong to a scan, which frame a file is, and what is wrong with a file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from cdi_stream.errors import RecordingError
from cdi_stream.files.intensities.read import read_intensities
from cdi_stream.files.recorded_scan import read_recorded
from cdi_stream_plugins.readers.aps_spec_tiff import ApsSpecTiffReader
from tests.spec_folders import (
    LABELS,
    MOTORS,
    N_FRAMES,
    SHAPE,
    SpecEntry,
    head,
    names,
    peak_frames,
    spec_folder,
    write_images,
    write_spec,
)

FRAMES = peak_frames()
OTHER = peak_frames(seed=7) * 3
NAME = "AD34idcTIM2_x/Sample-1a_S0054"


def image(root, k):
    return root / NAME / f"Sample-1a_S0054_{k:05d}.tif"


def change_row(path, k, change):
    """Change the words of the k-th row of the SPEC file's last scan."""
    lines = path.read_text().splitlines()
    first = max(n for n, line in enumerate(lines) if line.startswith("#L")) + 1
    lines[first + k] = change(lines[first + k])
    path.write_text("\n".join(lines) + "\n")
    return first + k + 1


class TestWholeScan:
    def test_frames_motors_and_sums_come_as_they_were_recorded(self, tmp_path):
        scan = read_recorded(spec_folder(tmp_path), None)
        np.testing.assert_array_equal(scan.frames, FRAMES)
        assert list(scan.scanned) == ["Theta", "Monitor"]
        np.testing.assert_allclose(scan.scanned["Theta"], 0.1 + 0.01 * np.arange(N_FRAMES))
        assert scan.baseline == {name: value for name, value in MOTORS.items() if name != "Theta"}
        np.testing.assert_array_equal(scan.frame_sums, FRAMES.sum(axis=(1, 2)))
        np.testing.assert_allclose(np.diff(scan.times_s), 0.5)
        assert (scan.missing, scan.doubts, scan.notes) == ((), (), ())
        assert scan.detector["count_time_s"] == 0.25
        assert scan.name == "Sample-1a_S0054"

    def test_a_scan_downwards_stays_in_the_order_in_which_it_was_measured(self, tmp_path):
        class Down(SpecEntry):
            def rows(self):
                rows = super().rows()
                return [row | {"Theta": other["Theta"]} for row, other in zip(rows, rows[::-1], strict=True)]

        scan = read_recorded(spec_folder(tmp_path, Down(command="ascan th 0.29 0.1 19 0.25")), 54)
        np.testing.assert_allclose(scan.scanned["Theta"], 0.29 - 0.01 * np.arange(N_FRAMES))
        np.testing.assert_array_equal(scan.frames, FRAMES)

    def test_all_motors_with_a_column_are_taken_from_there(self, tmp_path):
        class Two(SpecEntry):
            def rows(self):
                return [row | {"Chi": f"{90 + k}"} for k, row in enumerate(super().rows())]

        entry = Two(command="a2scan th 0.1 0.29 chi 90 109 19 0.25", labels=("Theta", "Chi", *LABELS[1:]))
        scan = read_recorded(spec_folder(tmp_path, entry), 54)
        assert list(scan.scanned) == ["Theta", "Chi", "Monitor"]
        np.testing.assert_array_equal(scan.scanned["Chi"], 90 + np.arange(N_FRAMES))
        assert "Chi" not in scan.baseline


class TestMissingFrames:
    def test_a_lost_file_is_missing_and_shifts_nothing(self, tmp_path):
        scan = read_recorded(spec_folder(tmp_path, skip=(7,)), 54)
        assert scan.missing == (7,)
        np.testing.assert_array_equal(scan.has_frame, np.arange(N_FRAMES) != 7)
        np.testing.assert_array_equal(np.delete(scan.frames, 7, axis=0), np.delete(FRAMES, 7, axis=0))
        assert not scan.frames[7].any()
        assert len(scan.scanned["Theta"]) == N_FRAMES
        assert scan.doubts == ()

    @pytest.mark.parametrize("skip", [(0,), (19,), (0, 1, 19), (3, 4, 11)])
    def test_wherever_it_is_lost(self, tmp_path, skip):
        scan = read_recorded(spec_folder(tmp_path, skip=skip), 54)
        assert scan.missing == skip
        there = scan.has_frame
        np.testing.assert_array_equal(scan.frames[there], FRAMES[there])

    def test_phasing_leaves_it_out_and_says_so(self, tmp_path):
        found = read_intensities(spec_folder(tmp_path, skip=(7,)))
        assert not found.valid_pixels[7].any()
        assert found.valid_pixels[[6, 8]].mean() > 0.99
        assert found.doubts == ("incomplete: 1 of 20 frames missing (7): they are left out",)
        whole = read_intensities(spec_folder(tmp_path / "whole"))
        np.testing.assert_allclose(found.affine.bq, whole.affine.bq)

    @pytest.mark.parametrize("first", [1, 137])
    def test_frames_may_be_numbered_from_elsewhere(self, tmp_path, first):
        scan = read_recorded(spec_folder(tmp_path, first=first), 54)
        np.testing.assert_array_equal(scan.frames, FRAMES)
        assert scan.missing == ()
        assert scan.notes == (f"frame numbers do not begin at 0: row k of the scan is file number k +{first}",)

    def test_sums_tell_a_lost_first_frame_from_a_numbering_from_one(self, tmp_path):
        scan = read_recorded(spec_folder(tmp_path, first=1, skip=(19,)), 54)
        assert scan.missing == (19,)
        np.testing.assert_array_equal(scan.frames[:19], FRAMES[:19])

    def test_sums_find_the_numbering_although_its_first_frame_is_lost(self, tmp_path):
        scan = read_recorded(spec_folder(tmp_path, first=137, skip=(0, 4)), 54)
        assert scan.missing == (0, 4)
        assert scan.doubts == ()

    def test_sums_tell_that_the_first_frame_was_lost_before_it_had_a_number(self, tmp_path):
        root = spec_folder(tmp_path, skip=(0,))
        for k in range(1, N_FRAMES):
            image(root, k).rename(image(root, k - 1))
        scan = read_recorded(root, 54)
        assert scan.missing == (0,)
        np.testing.assert_array_equal(scan.frames[1:], FRAMES[1:])
        assert scan.doubts == ()

    def test_a_scan_repeated_into_the_same_folder(self, tmp_path):
        write_spec(tmp_path, head(), SpecEntry(frames=OTHER), SpecEntry())
        write_images(tmp_path / NAME, np.concatenate([OTHER, FRAMES]))
        scan = read_recorded(tmp_path, 54)
        np.testing.assert_array_equal(scan.frames, FRAMES)
        assert scan.doubts == ()

    def test_without_sums_a_numbering_with_gaps_is_doubted(self, tmp_path):
        scan = read_recorded(spec_folder(tmp_path, SpecEntry(labels=("Theta", "Monitor")), first=137, skip=(0,)), 54)
        assert "frame 138 is taken to be the first" in scan.doubts[0]

    def test_few_sums_that_agree_by_chance_shift_nothing(self, tmp_path):
        class Constant(SpecEntry):
            def rows(self):
                rows = super().rows()
                return [row | {"ImageTot": rows[12]["ImageTot"] if k == 11 else "1"} for k, row in enumerate(rows)]

        scan = read_recorded(spec_folder(tmp_path, Constant(), skip=(0,)), 54)
        assert scan.missing == (0,)
        assert "19 of 19 frames have another sum" in scan.doubts[0]

    def test_without_sums_the_numbers_in_the_names_are_believed(self, tmp_path):
        entry = SpecEntry(labels=("Theta", "Monitor"))
        scan = read_recorded(spec_folder(tmp_path, entry, skip=(0, 9)), 54)
        assert scan.missing == (0, 9)
        assert "no column ImageTot: frames are not checked" in scan.notes[0]


class TestSums:
    def test_files_renumbered_after_a_loss_are_doubted(self, tmp_path):
        root = spec_folder(tmp_path, skip=(7,))
        for k in range(8, N_FRAMES):
            image(root, k).rename(image(root, k - 1))
        (doubt,) = read_recorded(root, 54).doubts
        sums = FRAMES.sum(axis=(1, 2))
        assert doubt.startswith("12 of 19 frames have another sum of counts than the scan has on record: frame 7")
        assert f"{image(root, 7)}) has {sums[8]}, on record {sums[7]}" in doubt

    def test_phase_and_our_own_file_doubt_it_too(self, tmp_path):
        from cdi_stream.files.recording import write_scan

        root = spec_folder(tmp_path / "in")
        tifffile.imwrite(image(root, 5), FRAMES[6])
        assert "frame 5" in read_intensities(root).doubts[0]
        whole = read_recorded(spec_folder(tmp_path / "whole"), 54)
        frames = whole.frames.copy()
        frames[5] = frames[6]
        write_scan(replace(whole, frames=frames, frame_files=()), tmp_path / "scan.h5")
        assert "1 of 20 frames have another sum" in read_intensities(tmp_path / "scan.h5").doubts[0]

    def test_gaps_are_left_out_of_the_sums(self, tmp_path):
        frames = FRAMES.copy()
        frames[:, :, 3] = -1
        scan = read_recorded(spec_folder(tmp_path, SpecEntry(frames=frames)), 54)
        assert scan.doubts == ()
        assert (scan.frames[:, :, 3] == 2**32 - 1).all()
        np.testing.assert_array_equal(scan.frame_sums, np.delete(FRAMES, 3, axis=2).sum(axis=(1, 2)))

    def test_the_rounding_of_a_log_file_is_allowed_for(self, tmp_path):
        frames = FRAMES + 1_234_567
        assert read_recorded(spec_folder(tmp_path, SpecEntry(frames=frames)), 54).doubts == ()


class TestWhichFiles:
    def two_files(self, tmp_path):
        for name, frames in (("Sample-1a", FRAMES), ("Other-2b", OTHER)):
            write_spec(tmp_path, head(name), SpecEntry(frames=frames), name=f"{name}.spec")
            write_images(tmp_path / "AD34idcTIM2_x" / f"{name}_S0054", frames)
        return tmp_path

    def test_images_are_named_after_the_spec_file(self, tmp_path):
        root = self.two_files(tmp_path)
        for name, frames in (("Sample-1a", FRAMES), ("Other-2b", OTHER)):
            scan = read_recorded(root / f"{name}.spec", 54)
            np.testing.assert_array_equal(scan.frames, frames)
            assert scan.name == f"{name}_S0054"

    def test_a_folder_with_two_samples_is_refused_with_a_list(self, tmp_path):
        root = self.two_files(tmp_path)
        with pytest.raises(RecordingError, match="expected one folder of images of scan 54") as refused:
            read_recorded(root, 54)
        for name in ("Sample-1a.spec", "Other-2b.spec", "Sample-1a_S0054", "Other-2b_S0054", "as PATH"):
            assert name in str(refused.value)

    def test_the_image_folder_chooses(self, tmp_path):
        root = self.two_files(tmp_path)
        scan = read_recorded(root / "AD34idcTIM2_x" / "Other-2b_S0054", None)
        np.testing.assert_array_equal(scan.frames, OTHER)
        assert scan.name == "Other-2b_S0054"
        assert "Sample-1a.spec" in scan.notes[0]

    def test_only_the_spec_file_with_the_scan_counts(self, tmp_path):
        root = spec_folder(tmp_path)
        write_spec(root, head("Align"), SpecEntry(number=3), name="Align.spec")
        scan = read_recorded(root, 54)
        np.testing.assert_array_equal(scan.frames, FRAMES)
        assert scan.notes == (f"{root / 'Sample-1a.spec'} is read; there is also {root / 'Align.spec'}",)

    def test_the_name_that_the_file_was_begun_with_counts_too(self, tmp_path):
        root = spec_folder(tmp_path)
        (root / "Sample-1a.spec").rename(root / "example.spec")
        np.testing.assert_array_equal(read_recorded(root, 54).frames, FRAMES)

    @pytest.mark.parametrize("detector", ["34idcTIM1", "34idcTIM2"])
    def test_of_two_detectors_the_scan_names_one(self, tmp_path, detector):
        write_spec(tmp_path, head(), SpecEntry(frames=FRAMES if detector == "34idcTIM1" else OTHER, detector=detector))
        write_images(tmp_path / "AD34idcTIM1_x" / "Sample-1a_S0054", FRAMES)
        write_images(tmp_path / "AD34idcTIM2_x" / "Sample-1a_S0054", OTHER)
        scan = read_recorded(tmp_path, 54)
        np.testing.assert_array_equal(scan.frames, FRAMES if detector == "34idcTIM1" else OTHER)
        assert scan.doubts == ()

    def test_two_detectors_of_which_none_is_named_are_refused(self, tmp_path):
        write_spec(tmp_path, head(), SpecEntry(detector=None))
        for name in ("AD34idcTIM1_x", "AD34idcTIM2_x"):
            write_images(tmp_path / name / "Sample-1a_S0054", FRAMES)
        with pytest.raises(RecordingError, match=r"AD34idcTIM1_x.*AD34idcTIM2_x.*as PATH"):
            read_recorded(tmp_path, 54)
        np.testing.assert_array_equal(read_recorded(tmp_path / "AD34idcTIM1_x", 54).frames, FRAMES)

    def test_images_of_another_sample_are_not_taken(self, tmp_path):
        write_spec(tmp_path, head(), SpecEntry())
        folder = write_images(tmp_path / "AD34idcTIM2_x" / "Stranger_S0054", OTHER)
        with pytest.raises(RecordingError, match=r"none that is named after the SPEC file.*Stranger_S0054"):
            read_recorded(tmp_path, 54)
        doubts = read_recorded(folder, None).doubts
        assert "not the image folder that" in doubts[0]
        assert "20 of 20 frames have another sum" in doubts[1]

    def test_images_whose_sums_fit_need_no_name(self, tmp_path):
        write_spec(tmp_path, head(), SpecEntry())
        folder = write_images(tmp_path / "AD34idcTIM2_x" / "Renamed_S0054", FRAMES)
        assert read_recorded(folder, None).doubts == ()

    def test_of_two_scans_with_the_same_number_the_sums_choose(self, tmp_path):
        first, second = SpecEntry(motors=MOTORS | {"Delta": 30.0}), SpecEntry(frames=OTHER)
        write_spec(tmp_path, head(), first, second)
        write_images(tmp_path / NAME, FRAMES)
        scan = read_recorded(tmp_path, 54)
        assert scan.baseline["Delta"] == 30.0
        assert scan.doubts == ()

    def test_of_two_scans_that_cannot_be_told_apart_the_last_is_used_and_doubted(self, tmp_path):
        labels = ("Theta", "Monitor")
        first, second = SpecEntry(motors=MOTORS | {"Delta": 30.0}, labels=labels), SpecEntry(labels=labels)
        path = write_spec(tmp_path, head(), first, second)
        write_images(tmp_path / NAME, FRAMES)
        scan = read_recorded(tmp_path, 54)
        assert scan.baseline["Delta"] == 32.0
        lines = [k for k, line in enumerate(path.read_text().splitlines(), 1) if line.startswith("#S")]
        assert f"at lines {lines[0]}, {lines[1]}: that at line {lines[1]} is used" in scan.doubts[0]


class TestMotorNames:
    def test_names_in_a_scan_hold_for_that_scan(self, tmp_path):
        turned = dict(reversed(MOTORS.items()))
        entries = [SpecEntry(number=53), SpecEntry(motors=turned, own_names=True), SpecEntry(number=55)]
        path = write_spec(tmp_path, head(), *entries)
        for number in (53, 54, 55):
            write_images(tmp_path / f"Sample-1a_S{number:04d}", FRAMES)
            expected = {name: value for name, value in MOTORS.items() if name != "Theta"}
            assert read_recorded(path, number).baseline == expected

    def test_each_head_holds_for_the_scans_below_it(self, tmp_path):
        turned = dict(reversed(MOTORS.items()))
        mnemonics = " ".join(reversed(head().split("#o0 ")[1].split()))
        path = write_spec(
            tmp_path, head(), SpecEntry(number=53), head(motors=turned, mnemonics=mnemonics), SpecEntry(motors=turned)
        )
        for number in (53, 54):
            write_images(tmp_path / f"Sample-1a_S{number:04d}", FRAMES)
            scan = read_recorded(path, number)
            assert scan.baseline["Delta"] == 32.0
            assert scan.baseline["camdist"] == 500.0

    def test_names_between_two_scans_hold_from_there_on(self, tmp_path):
        turned = dict(reversed(MOTORS.items()))
        text = "\n".join(names(turned)) + "\n\n"
        path = write_spec(tmp_path, head(), SpecEntry(number=53), text, SpecEntry(motors=turned))
        write_images(tmp_path / NAME, FRAMES)
        assert read_recorded(path, 54).baseline["Delta"] == 32.0

    @pytest.mark.parametrize("motors", [{**MOTORS, "Mu": 1.0}, {k: v for k, v in MOTORS.items() if k != "camdist"}])
    def test_names_and_positions_must_be_as_many(self, tmp_path, motors):
        path = write_spec(tmp_path, head(), SpecEntry(motors=motors))
        write_images(tmp_path / NAME, FRAMES)
        line = next(k for k, text in enumerate(path.read_text().splitlines(), 1) if text.startswith("#P1"))
        with pytest.raises(
            RecordingError, match=rf"Sample-1a\.spec:{line}: expected 2 positions in #P1.*got {len(motors) - 5}"
        ):
            read_recorded(path, 54)

    def test_the_mnemonics_of_the_file_name_the_motor_that_moves(self, tmp_path):
        path = write_spec(
            tmp_path, head(mnemonics="del rock chi phi gam en camdist"), SpecEntry(command="ascan rock 0 1 19 1")
        )
        write_images(tmp_path / NAME, FRAMES)
        assert next(iter(read_recorded(path, 54).scanned)) == "Theta"


class TestLimits:
    @pytest.mark.parametrize(("dtype", "limit"), [(np.uint16, 65535), (np.int16, 32767), (np.int32, 11810)])
    def test_a_saturated_peak_is_marked(self, tmp_path, dtype, limit):
        frames = peak_frames(dtype=dtype)
        frames[10, 11:13, 13:15] = limit
        root = spec_folder(tmp_path, SpecEntry(frames=frames))
        found = read_intensities(root)
        assert "4 voxels are at the detector's limit (the peak is saturated): masked" in found.doubts
        assert not found.valid_pixels[10, 11:13, 13:15].any()

    def test_the_data_type_of_the_files_stays(self, tmp_path):
        root = spec_folder(tmp_path, SpecEntry(frames=peak_frames(dtype=np.uint16)))
        assert read_recorded(root, 54).frames.dtype == np.uint16

    def test_sums_of_readouts_have_no_limit(self, tmp_path):
        root = spec_folder(tmp_path, SpecEntry(frames=FRAMES * 10))
        assert read_recorded(root, 54).detector["saturation_counts"] == 2**31 - 1

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda f: f.astype(np.float32) + 0.25, r"whole counts"),
            (lambda f: f.astype(np.int64) + 2**32, r"whole counts below 4294967295"),
            (lambda f: f - 2, r"no background was subtracted"),
        ],
    )
    def test_what_is_no_count_is_refused(self, tmp_path, change, words):
        with pytest.raises(RecordingError, match=words):
            read_recorded(spec_folder(tmp_path, SpecEntry(frames=change(FRAMES))), 54)

    def test_whole_numbers_as_floats_are_counts(self, tmp_path):
        scan = read_recorded(spec_folder(tmp_path, SpecEntry(frames=FRAMES.astype(np.float32))), 54)
        np.testing.assert_array_equal(scan.frames, FRAMES)
        assert scan.frames.dtype == np.uint32


class TestDamage:
    """Each is read, or refused with file, line and remedy."""

    def test_files_that_are_no_frames_are_left_out(self, tmp_path):
        root = spec_folder(tmp_path)
        (root / NAME / "._Sample-1a_S0054_00003.tif").write_bytes(b"Mac OS X")
        tifffile.imwrite(root / NAME / "average.tif", FRAMES[0])
        scan = read_recorded(root, 54)
        np.testing.assert_array_equal(scan.frames, FRAMES)
        assert scan.notes == (
            "1 TIFF files are no frames of Sample-1a_S0054, by their names, and left out: average.tif",
        )

    def test_a_folder_of_files_without_numbers_is_refused(self, tmp_path):
        write_spec(tmp_path, head(), SpecEntry())
        (tmp_path / NAME).mkdir(parents=True)
        tifffile.imwrite(tmp_path / NAME / "average.tif", FRAMES[0])
        with pytest.raises(RecordingError, match=r"expected frames as Sample-1a_S0054_00000\.tif"):
            read_recorded(tmp_path, 54)

    def test_a_frame_more_than_rows(self, tmp_path):
        root = spec_folder(tmp_path)
        tifffile.imwrite(image(root, N_FRAMES), FRAMES[0])
        scan = read_recorded(root, 54)
        np.testing.assert_array_equal(scan.frames, FRAMES)
        assert scan.doubts == ()
        assert f"1 frames have no row among the 20 of {root / 'Sample-1a.spec'}" in scan.notes[0]

    def test_a_frame_more_than_rows_is_doubted_where_no_sums_are(self, tmp_path):
        root = spec_folder(tmp_path, SpecEntry(labels=("Theta", "Monitor")))
        tifffile.imwrite(image(root, N_FRAMES), FRAMES[0])
        assert f"the first is {image(root, N_FRAMES)}" in read_recorded(root, 54).doubts[0]

    def test_a_number_twice_is_refused(self, tmp_path):
        root = spec_folder(tmp_path)
        tifffile.imwrite(root / NAME / "Sample-1a_S0054_3.tif", FRAMES[0])
        with pytest.raises(RecordingError, match=r"one file of frame 3, got Sample-1a_S0054_00003\.tif and .*_3\.tif"):
            read_recorded(root, 54)

    @pytest.mark.parametrize("odd", [FRAMES[3, :20], FRAMES[3].astype(np.uint16), FRAMES[:3]])
    def test_a_file_of_another_shape_or_type_is_named(self, tmp_path, odd):
        root = spec_folder(tmp_path)
        tifffile.imwrite(image(root, 0), odd, photometric="minisblack")
        with pytest.raises(RecordingError, match=r"_00000\.tif: expected int32 \(24, 28\) like most frames"):
            read_recorded(root, 54)

    @pytest.mark.parametrize("keep", [0, 100, 1500])
    def test_a_broken_file_is_named(self, tmp_path, keep):
        root = spec_folder(tmp_path)
        image(root, 3).write_bytes(image(root, 3).read_bytes()[:keep])
        with pytest.raises(RecordingError, match=r"_00003\.tif: expected a TIFF image.*move it away"):
            read_recorded(root, 54)

    def test_a_missing_monitor_is_told(self, tmp_path):
        scan = read_recorded(spec_folder(tmp_path, SpecEntry(labels=("Theta", "Epoch", "ImageTot"))), 54)
        assert list(scan.scanned) == ["Theta"]
        assert "the beam is taken to be constant" in scan.notes[0]

    @pytest.mark.parametrize(
        ("column", "use"), [(4, "the beam is taken to be constant"), (2, "frames are not checked")]
    )
    def test_a_text_in_a_counter_is_doubted_with_its_line(self, tmp_path, column, use):
        path = spec_folder(tmp_path) / "Sample-1a.spec"

        def spoil(row):
            words = row.split()
            words[column] = "off"
            return " ".join(words)

        line = change_row(path, 4, spoil)
        (doubt,) = read_recorded(path, 54).doubts
        assert doubt.startswith(use)
        assert f"Sample-1a.spec:{line}: expected a number for column {LABELS[column]!r}, got 'off'" in doubt

    def test_spectra_between_the_rows_are_passed_over(self, tmp_path):
        path = spec_folder(tmp_path) / "Sample-1a.spec"
        change_row(path, 4, lambda line: "@A 0 1 2 3 \\\n4 5 6 \\\n7 8\n" + line)
        np.testing.assert_array_equal(read_recorded(path, 54).frames, FRAMES)

    @pytest.mark.parametrize("text", ["off", "nan", "0.1O"])
    def test_a_text_for_a_position_is_named_with_its_line(self, tmp_path, text):
        path = spec_folder(tmp_path) / "Sample-1a.spec"
        line = change_row(path, 4, lambda row: f"{text} {row.split(maxsplit=1)[1]}")
        with pytest.raises(
            RecordingError, match=rf"Sample-1a\.spec:{line}: expected a number for column 'Theta', got '{text}'"
        ):
            read_recorded(path, 54)

    def test_a_text_in_a_column_that_is_not_needed_does_no_harm(self, tmp_path):
        path = spec_folder(tmp_path) / "Sample-1a.spec"
        change_row(path, 4, lambda row: row.replace("-0.1", "off"))
        np.testing.assert_array_equal(read_recorded(path, 54).frames, FRAMES)

    def test_a_text_for_a_motor_is_named_with_its_line(self, tmp_path):
        path = spec_folder(tmp_path) / "Sample-1a.spec"
        path.write_text(path.read_text().replace("#P0 32 ", "#P0 ??? "))
        with pytest.raises(
            RecordingError, match=r"Sample-1a\.spec:\d+: expected a number for motor 'Delta', got '\?\?\?'"
        ):
            read_recorded(path, 54)

    def test_a_row_that_is_cut_off_is_named(self, tmp_path):
        path = spec_folder(tmp_path) / "Sample-1a.spec"
        line = change_row(path, N_FRAMES - 1, lambda row: row[:9])
        with pytest.raises(RecordingError, match=rf"Sample-1a\.spec:{line}: expected 5 numbers"):
            read_recorded(path, 54)

    def test_labels_that_do_not_agree_with_their_number_are_named(self, tmp_path):
        path = spec_folder(tmp_path) / "Sample-1a.spec"
        path.write_text(path.read_text().replace("#N 5", "#N 6"))
        with pytest.raises(RecordingError, match=r"Sample-1a\.spec:\d+: expected 6 names of columns"):
            read_recorded(path, 54)

    def test_an_empty_scan_is_named(self, tmp_path):
        path = write_spec(tmp_path, head(), SpecEntry(frames=FRAMES[:0]))
        write_images(tmp_path / NAME, FRAMES)
        with pytest.raises(RecordingError, match=r"Sample-1a\.spec:\d+: scan 54 has no points"):
            read_recorded(path, 54)

    def test_an_aborted_scan_is_doubted(self, tmp_path):
        root = spec_folder(tmp_path, SpecEntry(frames=FRAMES[:12]))
        scan = read_recorded(root, 54)
        assert len(scan.frames) == 12
        assert "the scan is incomplete: 12 of 20 points" in scan.doubts[0]
        assert "12 of 20 points" in read_intensities(root).doubts[0]

    @pytest.mark.parametrize("name", ["Sample-1a", "Sample-1a.dat", "Sample-1a.txt"])
    def test_a_spec_file_is_known_by_its_content(self, tmp_path, name):
        root = spec_folder(tmp_path)
        path = (root / "Sample-1a.spec").rename(root / name)
        for given in (path, root):
            assert ApsSpecTiffReader().can_read(given)
            np.testing.assert_array_equal(read_recorded(given, 54).frames, FRAMES)

    def test_a_scan_that_moves_no_motor_is_refused(self, tmp_path):
        with pytest.raises(
            RecordingError, match=r"scan 54 \(timescan 1\): expected a scan of a motor that has a column"
        ):
            read_recorded(spec_folder(tmp_path, SpecEntry(command="timescan 1")), 54)

    def test_a_scan_that_is_not_there_is_refused_with_a_list(self, tmp_path):
        with pytest.raises(RecordingError, match=r"got 12; there are: 54"):
            read_recorded(spec_folder(tmp_path), 12)

    def test_images_of_a_scan_that_the_spec_file_lacks(self, tmp_path):
        root = spec_folder(tmp_path)
        write_images(root / "AD34idcTIM2_x" / "Sample-1a_S0055", FRAMES)
        with pytest.raises(RecordingError, match=r"there is no scan 55 in .*Sample-1a\.spec"):
            read_recorded(root, 55)


class TestDetectorMaps:
    def whole(self, value, dtype):
        image = np.full((40, 50), value, dtype=dtype)
        image[3:27, 2:30] = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % 2 + value
        return image

    def test_the_region_is_cut_out(self, tmp_path):
        root = spec_folder(tmp_path)
        tifffile.imwrite(root / "dark.tif", self.whole(1, np.int32))
        tifffile.imwrite(root / "whitefield.tif", self.whole(100, np.float32))
        scan = read_recorded(root, 54)
        odd = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % 2
        np.testing.assert_array_equal(scan.pixel_mask, odd == 0)
        np.testing.assert_array_equal(scan.white_field, 100 + odd)

    @pytest.mark.parametrize("name", ["dark.tif", "whitefield.tif"])
    def test_a_map_that_does_not_hold_the_region_is_named(self, tmp_path, name):
        root = spec_folder(tmp_path)
        tifffile.imwrite(root / name, np.ones((20, 20), dtype=np.float32))
        with pytest.raises(RecordingError, match=rf"{name}: expected an image of \(24, 28\) pixels.*got \(20, 20\)"):
            read_recorded(root, 54)
