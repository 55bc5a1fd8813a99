"""Scans of BLISS: which scan and detector are meant, which frames lie on the disk, and what is wrong with a file."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest

from cdi_stream.errors import CdiStreamError, IntensitiesError, RecordingError
from cdi_stream.files.intensities.read import read_intensities
from cdi_stream.files.recorded_scan import read_recorded, readers_of
from tests.bliss_files import (
    COLS,
    DETECTOR,
    ETA,
    HEADER,
    MOTORS,
    N_FRAMES,
    ROWS,
    SHAPE,
    BlissEntry,
    bliss_file,
)

ENTRY = BlissEntry()
FRAMES = ENTRY.frames


def changed(path, change):
    """Change a file by a function of its scan group, and return its path."""
    with h5py.File(path, "a") as file:
        change(file["20.1"])
    return path


class TestWholeScan:
    def test_frames_motors_and_header_come_as_they_were_recorded(self, tmp_path):
        path = bliss_file(tmp_path)
        assert list(readers_of(path)) == ["bliss"]
        scan = read_recorded(path, "20.1")
        np.testing.assert_array_equal(scan.frames, FRAMES)
        assert scan.frames.dtype == np.uint32
        assert list(scan.scanned) == ["eta", "mon2"]
        np.testing.assert_array_equal(scan.scanned["eta"], ETA)
        assert scan.baseline == {name: value for name, (value, _) in MOTORS.items()} | {"mu": 0.0}
        assert (scan.units["eta"], scan.units["mononrj"], scan.units["pix"]) == ("deg", "keV", "um")
        assert scan.detector == {
            "pixel_row_m": 5.5e-5,
            "pixel_col_m": 5.6e-5,
            "beam_row": 10.25,
            "beam_col": 17.5,
            "distance_m": 0.5668,
            "count_time_s": 1.0,
            "saturation_counts": 401540.0,
        }
        assert np.argwhere(~scan.pixel_mask).tolist() == [[1, 2]], "BLISS has 1 at a bad pixel"
        np.testing.assert_allclose(np.diff(scan.times_s), 2.0)
        np.testing.assert_array_equal(scan.frame_sums, FRAMES.sum(axis=(1, 2)))
        assert (scan.beamline, scan.name, scan.missing, scan.doubts) == ("esrf_id01", "sample_0001_20.1", (), ())
        assert scan.notes == (
            "the file has no motor mu: it is taken to stand at 0 deg",
            "the beam is taken to be constant; assemble.monitor may name a counter: mon2",
        )

    def test_the_intensities_have_their_map(self, tmp_path):
        intensities = read_intensities(bliss_file(tmp_path), scan="20.1")
        assert intensities.affine is not None, intensities.notes
        assert not intensities.doubts
        assert not intensities.valid_pixels[:, 1, 2].any()

    def test_the_seams_of_a_whole_maxipix_are_masked(self, tmp_path):
        frames = np.zeros((4, 516, 516), np.int32)
        frames[:, 100, 100] = 7
        entry = BlissEntry(frames=frames, tracks={"eta": ETA[:4]}, n_planned=4)
        mask = read_recorded(bliss_file(tmp_path, entry), 20).pixel_mask
        seams = np.zeros((516, 516), bool)
        seams[255:261] = seams[:, 255:261] = seams[1, 2] = True
        np.testing.assert_array_equal(mask, ~seams)

    def test_gaps_below_zero_become_the_largest_value(self, tmp_path):
        frames = FRAMES.copy()
        frames[:, 12] = -1
        scan = read_recorded(bliss_file(tmp_path, replace(ENTRY, frames=frames)), None)
        assert (scan.frames[:, 12] == 2**32 - 1).all()
        assert scan.doubts == ()

    def test_units_on_record_are_converted(self, tmp_path):
        def in_mm(scan):
            scan[f"instrument/{DETECTOR}/distance"][()] = 566.8
            scan[f"instrument/{DETECTOR}/distance"].attrs["units"] = "mm"

        assert read_recorded(changed(bliss_file(tmp_path), in_mm), 20).detector["distance_m"] == pytest.approx(0.5668)

    def test_values_that_cannot_be_true_are_left_out(self, tmp_path):
        header = HEADER | {"distance": 0.0, "beam_center_x": np.nan, "saturation_value": 10}
        scan = read_recorded(bliss_file(tmp_path, replace(ENTRY, header=header)), 20)
        assert not {"distance_m", "beam_col"} & scan.detector.keys()
        assert scan.detector["saturation_counts"] == 2**31 - 1, "the limit of the data type"
        notes = " ".join(scan.notes)
        assert "distance is 0.0, which is not used" in notes
        assert "saturation value 10 is not used: frames have counts up to" in notes


class TestChoiceOfScan:
    @pytest.fixture
    def path(self, tmp_path):
        second = replace(ENTRY, name="21.1", title="ascan phi 1 2 19 1", tracks={"phi": ETA + 30}, motors={})
        return bliss_file(tmp_path, ENTRY, second, replace(ENTRY, name="20.2", frames=FRAMES + 1))

    @pytest.mark.parametrize(("scan", "motor"), [(20, "eta"), ("20", "eta"), ("20.1", "eta"), ("21", "phi")])
    def test_a_number_means_the_first_part(self, path, scan, motor):
        assert next(iter(read_recorded(path, scan).scanned)) == motor

    def test_another_part_is_read_by_its_name(self, path):
        np.testing.assert_array_equal(read_recorded(path, "20.2").frames, FRAMES + 1)

    @pytest.mark.parametrize("scan", [None, 7, "20.3", "0.1"])
    def test_without_a_scan_that_fits_all_are_listed(self, path, scan):
        with pytest.raises(RecordingError, match=r"20\.1 \(ascan eta .*\), 20\.2 .*, 21\.1 \(ascan phi 1 2 19 1\)"):
            read_recorded(path, scan)

    def test_a_collection_links_to_the_files_of_its_datasets(self, tmp_path):
        for dataset in ("gold_0001", "gold_0002"):
            bliss_file(tmp_path / dataset, name=f"{dataset}.h5")
        collection = tmp_path / "gold.h5"
        with h5py.File(collection, "w") as file:
            for dataset in ("gold_0001", "gold_0002", "gold_0003"):
                file[f"{dataset}_20.1"] = h5py.ExternalLink(f"{dataset}/{dataset}.h5", "/20.1")
        scan = read_recorded(collection, "gold_0002_20.1")
        np.testing.assert_array_equal(scan.frames, FRAMES)
        assert scan.name == "gold_gold_0002_20.1"
        with pytest.raises(RecordingError, match=r"got 20, which fits 3; there are: gold_0001_20\.1 .*gold_0002_20"):
            read_recorded(collection, 20)
        with pytest.raises(RecordingError, match=r"gold_0003_20.1 lies in gold_0003/gold_0003.h5, which cannot be"):
            read_recorded(collection, "gold_0003_20.1")


class TestDetector:
    def test_a_camera_beside_the_known_detector_is_noted(self, tmp_path):
        scan = read_recorded(bliss_file(tmp_path, replace(ENTRY, detectors=("basler", DETECTOR))), 20)
        assert "detector mpx1x4 is read; there is also basler (--scan 20.1/basler)" in scan.notes

    def test_of_two_known_detectors_one_must_be_named(self, tmp_path):
        path = bliss_file(tmp_path, replace(ENTRY, detectors=("mpxgaas", DETECTOR)))
        with pytest.raises(RecordingError, match=r"got several; there are: mpx1x4, mpxgaas\. Give --scan 20\.1/mpx1x4"):
            read_recorded(path, 20)
        assert "detector mpxgaas is read" in " ".join(read_recorded(path, "20.1/mpxgaas").notes)
        with pytest.raises(RecordingError, match="got no frames of eiger2M; there are: mpx1x4, mpxgaas"):
            read_recorded(path, "20.1/eiger2M")

    def test_a_scan_without_images_is_refused(self, tmp_path):
        path = bliss_file(tmp_path, replace(ENTRY, detectors=()))
        with pytest.raises(RecordingError, match="the scan took no images, or is still open"):
            read_recorded(path, 20)

    @pytest.mark.parametrize(("row", "is_wrong"), [(3, True), (0, False)])
    def test_frames_are_held_against_the_region_that_was_summed(self, tmp_path, row, is_wrong):
        entry = replace(ENTRY, frames=FRAMES.copy())
        path = bliss_file(tmp_path, entry)
        entry.frames[4, row, 9] += 1
        with h5py.File(tmp_path / "scan0020/mpx1x4_0000.h5", "a") as file:
            file["entry_0000/instrument/mpx1x4/data"][4] = entry.frames[4]
        doubts = read_recorded(path, 20).doubts
        assert any("1 of 20 frames have another sum" in doubt for doubt in doubts) == is_wrong, doubts

    def test_fractions_are_refused(self, tmp_path):
        path = bliss_file(tmp_path, replace(ENTRY, frames=FRAMES + np.float32(0.5)))
        with pytest.raises(RecordingError, match=r"scan 20\.1: frame 0: expected whole counts"):
            read_recorded(path, 20)

    def test_too_many_voxels_are_refused_before_they_are_read(self, tmp_path):
        n = 2000
        path = bliss_file(tmp_path, replace(ENTRY, tracks={"eta": np.arange(float(n))}))

        def grow(scan):
            del scan[f"instrument/{DETECTOR}/image"]
            scan.create_dataset(f"instrument/{DETECTOR}/image", (n, 4096, 4096), "i4", chunks=(1, 4096, 4096))

        with pytest.raises(IntensitiesError, match=r"at most 268435456 voxels, got shape \(2000, 4096, 4096\)"):
            read_recorded(changed(path, grow), 20)

    def test_a_mask_of_another_shape_is_a_doubt(self, tmp_path):
        def crop(scan):
            del scan[f"instrument/{DETECTOR}/pixel_mask"]
            scan[f"instrument/{DETECTOR}/pixel_mask"] = np.ones((3, 4), np.uint8)

        scan = read_recorded(changed(bliss_file(tmp_path), crop), 20)
        assert scan.doubts == ("the pixel mask (3, 4) does not fit the frames: left out",)


class TestLostFrames:
    @pytest.fixture
    def entry(self):
        return replace(ENTRY, frames_per_file=8)

    def test_several_files_are_one_stack(self, tmp_path, entry):
        np.testing.assert_array_equal(read_recorded(bliss_file(tmp_path, entry), 20).frames, FRAMES)

    def test_a_lost_file_gives_missing_frames_and_no_zeros(self, tmp_path, entry):
        path = bliss_file(tmp_path, entry)
        (tmp_path / "scan0020/mpx1x4_0001.h5").unlink()
        scan = read_recorded(path, 20)
        assert scan.missing == tuple(range(8, 16))
        assert any("1 files of the detector cannot be opened, the first is" in doubt for doubt in scan.doubts)
        np.testing.assert_array_equal(scan.frames[scan.has_frame], FRAMES[scan.has_frame])
        assert not any("another sum" in doubt for doubt in scan.doubts)

    @pytest.mark.parametrize("damage", ["empty", "cut", "other"])
    def test_a_broken_file_is_a_lost_one(self, tmp_path, entry, damage):
        path = bliss_file(tmp_path, entry)
        file = tmp_path / "scan0020/mpx1x4_0002.h5"
        if damage == "other":
            with h5py.File(file, "w") as other:
                other["entry_0000/instrument/mpx1x4/data"] = np.zeros((4, 5, 6), np.int32)
        else:
            file.write_bytes(file.read_bytes()[: 0 if damage == "empty" else 3000])
        assert read_recorded(path, 20).missing == tuple(range(16, 20))

    def test_a_file_that_is_still_short_gives_missing_frames(self, tmp_path, entry):
        path = bliss_file(tmp_path, entry)
        name = "entry_0000/instrument/mpx1x4/data"
        with h5py.File(tmp_path / "scan0020/mpx1x4_0002.h5", "w") as file:
            file[name] = FRAMES[16:18]
        assert read_recorded(path, 20).missing == (18, 19)

    def test_without_any_file_the_first_is_named(self, tmp_path, entry):
        path = bliss_file(tmp_path, entry)
        for file in (tmp_path / "scan0020").iterdir():
            file.unlink()
        with pytest.raises(RecordingError, match=r"scan0020/mpx1x4_0000.h5 and 2 more, got no such file"):
            read_recorded(path, 20)

    @pytest.mark.parametrize("is_there", [True, False])
    def test_frames_behind_a_link_are_read(self, tmp_path, is_there):
        def link(scan):
            target = f"/entry_0000/instrument/{DETECTOR}/data"
            del scan[f"instrument/{DETECTOR}/image"]
            scan[f"instrument/{DETECTOR}/image"] = h5py.ExternalLink("scan0020/mpx1x4_0000.h5", target)

        path = changed(bliss_file(tmp_path), link)
        if is_there:
            np.testing.assert_array_equal(read_recorded(path, 20).frames, FRAMES)
            return
        (tmp_path / "scan0020/mpx1x4_0000.h5").unlink()
        with pytest.raises(RecordingError, match=r"frames of mpx1x4 in scan0020/mpx1x4_0000.h5, got no such file"):
            read_recorded(path, 20)

    def test_every_second_frame_of_a_file_is_refused(self, tmp_path):
        def thin(scan):
            del scan[f"instrument/{DETECTOR}/image"]
            layout = h5py.VirtualLayout((10, ROWS, COLS), np.int32)
            layout[:] = h5py.VirtualSource("scan0020/mpx1x4_0000.h5", "/entry_0000/instrument/mpx1x4/data", SHAPE)[::2]
            scan.create_virtual_dataset(f"instrument/{DETECTOR}/image", layout)

        with pytest.raises(RecordingError, match="expected a virtual dataset of whole blocks of frames"):
            read_recorded(changed(bliss_file(tmp_path), thin), 20)


WRITER = """
import sys, h5py
with h5py.File(sys.argv[1], "a") as master, h5py.File(sys.argv[2], "a") as frames:
    master["20.1"].attrs["touched"] = 1
    frames.attrs["touched"] = 1
    print("open", flush=True)
    sys.stdin.read()
"""


class TestUnfinishedScan:
    def test_files_that_another_process_writes_are_read(self, tmp_path):
        path = bliss_file(tmp_path, replace(ENTRY, has_ended=False))
        files = (str(path), str(tmp_path / "scan0020/mpx1x4_0000.h5"))
        command = [sys.executable, "-c", WRITER, *files]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == "open\n"
            scan = read_recorded(path, 20)
            writer.stdin.close()
            assert writer.wait(60) == 0, "the reader must not stop the writer"
        np.testing.assert_array_equal(scan.frames, FRAMES)
        assert scan.doubts == ("the scan has no end time: it is still open, or BLISS was stopped",)

    @pytest.mark.parametrize("frames_per_file", [1000, 4])
    def test_a_scan_that_stopped_early_says_so(self, tmp_path, frames_per_file):
        entry = replace(ENTRY, frames=FRAMES[:14], tracks={"eta": ETA[:12]}, region=None)
        entry = replace(entry, frames_per_file=frames_per_file)
        scan = read_recorded(bliss_file(tmp_path, entry), 20)
        np.testing.assert_array_equal(scan.frames, FRAMES[:12])
        assert scan.doubts == (
            "the scan is incomplete: 12 of 20 points, it was aborted or is still open",
            "2 frames have no position of a motor and are left out",
        )
        assert "no region of the frames has its sum of counts on record: frames are not checked" in scan.notes

    def test_points_without_a_frame_are_missing(self, tmp_path):
        scan = read_recorded(bliss_file(tmp_path, replace(ENTRY, frames=FRAMES[:15])), 20)
        assert scan.missing == tuple(range(15, 20))
        assert scan.frame_sums is None
        assert len(scan.scanned["eta"]) == N_FRAMES

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
    def test_a_master_file_that_is_cut_is_refused(self, tmp_path, share):
        path = bliss_file(tmp_path)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises((CdiStreamError, OSError), match=r"truncated|sample_0001\.h5"):
            read_recorded(path, 20)


class TestMotors:
    def test_two_motors_that_move_together_are_both_scanned(self, tmp_path):
        entry = replace(ENTRY, title="a2scan delta 37 38 eta 15 16 19 1", tracks={"eta": ETA, "delta": ETA + 20})
        scan = read_recorded(bliss_file(tmp_path, replace(entry, motors={"phi": (1.0, "deg")})), 20)
        assert list(scan.scanned) == ["delta", "eta", "mon2"], "the motor that the command names first comes first"
        assert "delta" not in scan.baseline

    @pytest.mark.parametrize(
        ("title", "tracks", "motor"),
        [
            ("amesh pix 0 4 4 eta 15 16 3 1", {"pix": np.arange(20.0) % 5, "eta": np.repeat(ETA[:4], 5)}, "pix"),
            ("amesh eta 15 16 4 pix 0 3 3 1", {"pix": np.repeat(ETA[:4], 5), "eta": ETA[np.arange(20) % 5]}, "eta"),
            ("ascan eta 15 16 19 1", {"eta": np.abs(ETA - ETA[10])}, "eta"),
            ("ascan eta 15 15 19 1", {"eta": np.full(20, 15.0)}, "eta"),
        ],
    )
    def test_maps_and_scans_that_turn_back_are_refused(self, tmp_path, title, tracks, motor):
        path = bliss_file(tmp_path, replace(ENTRY, title=title, tracks=tracks, motors={}))
        with pytest.raises(RecordingError, match=f"expected a rocking curve, got {motor} going back and forth"):
            read_recorded(path, 20)

    def test_an_unknown_command_takes_the_motor_that_sweeps(self, tmp_path):
        jitter = 1e-4 * np.random.default_rng(0).normal(size=N_FRAMES)
        entry = replace(ENTRY, title="fscan 1 2", tracks={"chi": jitter, "eta": ETA + jitter})
        assert list(read_recorded(bliss_file(tmp_path, entry), 20).scanned)[:2] == ["eta", "chi"]

    def test_a_scan_of_time_is_refused(self, tmp_path):
        path = bliss_file(tmp_path, replace(ENTRY, title="loopscan 20 1", tracks={}))
        with pytest.raises(RecordingError, match=r"\(loopscan 20 1\): expected a motor with a position for each frame"):
            read_recorded(path, 20)

    def test_positions_that_only_the_measurement_has_are_used(self, tmp_path):
        def fix(scan):
            del scan["instrument/positioners/eta"]
            scan["instrument/positioners/eta"] = 15.0

        scan = read_recorded(changed(bliss_file(tmp_path), fix), 20)
        np.testing.assert_array_equal(scan.scanned["eta"], ETA)
        assert "eta" not in scan.baseline

    def test_without_a_circle_there_are_no_lab_axes(self, tmp_path):
        motors = {name: value for name, value in MOTORS.items() if name != "delta"}
        intensities = read_intensities(bliss_file(tmp_path, replace(ENTRY, motors=motors)), scan=20)
        assert intensities.affine is None
        assert any("no reading of circle 'delta'" in note for note in intensities.notes)

    def test_a_motor_that_is_no_number_is_none(self, tmp_path):
        motors = MOTORS | {"nu": (np.nan, "deg")}
        assert "nu" not in read_recorded(bliss_file(tmp_path, replace(ENTRY, motors=motors)), 20).baseline

    def test_a_point_without_a_position_keeps_its_frame_with_a_doubt(self, tmp_path):
        eta = ETA.copy()
        eta[7] = np.nan
        path = bliss_file(tmp_path, replace(ENTRY, tracks={"eta": eta}))
        assert read_recorded(path, 20).missing == ()
        intensities = read_intensities(path, scan=20)
        assert intensities.doubts == ("reading 'eta' is no number at frame 7: interpolated",)

    def test_points_at_the_end_without_a_position_were_not_reached(self, tmp_path):
        eta = np.where(np.arange(N_FRAMES) < 17, ETA, np.nan)
        scan = read_recorded(bliss_file(tmp_path, replace(ENTRY, tracks={"eta": eta})), 20)
        assert len(scan.frames) == 17
        assert "the scan is incomplete: 17 of 20 points" in scan.doubts[0]

    def test_a_beamline_without_a_table_is_read_without_geometry(self, tmp_path):
        scan = read_recorded(bliss_file(tmp_path, replace(ENTRY, instrument="ESRF-id27", detectors=("eiger",))), 20)
        assert scan.beamline is None
        assert scan.notes[0] == "instrument 'ESRF-id27' is none of esrf-id01: give the geometry by --config"
        assert "mu" not in scan.baseline

    def test_a_file_without_positions_is_refused(self, tmp_path):
        def forget(scan):
            del scan["instrument/positioners"]

        with pytest.raises(RecordingError, match="expected the motors in instrument/positioners, got none"):
            read_recorded(changed(bliss_file(tmp_path), forget), 20)


class TestRealMasterFile:
    """The master file of a real scan; its frames are not published, so a peak with the recorded sums stands in."""

    @pytest.fixture
    def path(self, shared, tmp_path):
        original = shared / "data" / "id01_bliss_master" / "PTO_STO_SL_0001.h5"
        if not original.is_file():
            pytest.skip("the master file of ID01 is not among the real data")
        (tmp_path / original.name).write_bytes(original.read_bytes())
        return tmp_path / original.name

    def test_without_the_frames_it_is_refused(self, path):
        with pytest.raises(RecordingError, match=r"scan 20\.1: expected the frames of mpx1x4 in .*mpx1x4_0000\.h5"):
            read_recorded(path, "20.1")

    def test_its_motors_header_and_sums_are_read(self, path):
        with h5py.File(path) as file:
            sums = file["20.1/measurement/mpx1x4_mpx4int"][()].astype(int)
        (path.parent / "scan0020").mkdir()
        with h5py.File(path.parent / "scan0020/mpx1x4_0000.h5", "w") as file:
            frames = file.create_dataset(
                "entry_0000/instrument/mpx1x4/data", (51, 516, 516), "i4", chunks=(1, 516, 516)
            )
            for k, total in enumerate(sums):
                frames[k, 141:201, 156:216] = total // 3600
                frames[k, 171, 186] += total % 3600
        scan = read_recorded(path, "20.1")
        assert scan.frames.shape == (51, 516, 516)
        np.testing.assert_array_equal(scan.frame_sums, sums)
        np.testing.assert_allclose(scan.scanned["eta"], np.linspace(15.24, 19.24, 51), atol=0.01)
        assert scan.baseline["delta"] == pytest.approx(37.046)
        assert (scan.baseline["mu"], scan.units["mononrj"]) == (0.0, "keV")
        assert scan.detector["saturation_counts"] == 401540
        assert scan.detector["photon_energy_ev"] == pytest.approx(10000, rel=1e-5)
        assert (~scan.pixel_mask).sum() == 25 + 516**2 - 510**2
        assert scan.doubts == ()
        affine = read_intensities(path, scan="20.1").affine
        at_beam_centre = affine.q0 + affine.bq @ (np.array([25, 185.604, 172.911]) - np.array([25, 258, 258]))
        expected = 2 * np.pi * 2 / 1.239842e-10 * np.sin(np.deg2rad(37.046) / 2)
        assert np.linalg.norm(at_beam_centre) == pytest.approx(expected, rel=2e-4), "that pixel is at 2 theta = delta"
