"""Scans of a facility with something wrong, played by ``replay`` and phased by ``phase``: both say so."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from tests.spec_folders import SpecEntry, peak_frames, spec_folder
from tests.system.command_line import last_line, run


def replayed(folder, out):
    done = run("replay", str(folder), "--scan", "54", "--json", "--out", str(out))
    assert done.returncode in (0, 3), done.stderr
    return done, last_line(done)


def phased(folder):
    out = ("--out", str(folder.parent / "object.npz"))
    done = run("phase", str(folder), *out, "--method", "recipe", "--recipe", "5*ER", "--budget", "10", "--json")
    assert done.returncode in (0, 3), done.stderr
    return last_line(done)


def test_a_lost_and_a_changed_frame_are_told_by_phase(tmp_path):
    folder, image = damaged(tmp_path)
    check_reasons(phased(folder)["reasons"], image)


@pytest.mark.slow
def test_a_lost_and_a_changed_frame_are_told_by_replay(tmp_path):
    folder, image = damaged(tmp_path)
    done, summary = replayed(folder, tmp_path / "out")
    assert done.returncode == 3
    assert (summary["expected"], summary["received"], summary["missing"]) == (20, 19, 1)
    assert summary["frame_sums_match"] is False
    assert summary["verdict"] != "good"
    check_reasons(summary["reasons"], image)


def damaged(tmp_path):
    """A scan without its frame 7, whose frame 4 has one count too many in each pixel."""
    folder = spec_folder(tmp_path / "scan", skip=(7,))
    image = next(folder.rglob("*_00004.tif"))
    tifffile.imwrite(image, tifffile.imread(image) + np.int32(1))
    return folder, image


def check_reasons(reasons, image):
    other = f"1 of 19 frames have another sum of counts than the scan has on record: frame 4 ({image})"
    assert any(other in reason for reason in reasons)
    assert any("1 of 20 frames missing (7)" in reason for reason in reasons)


@pytest.fixture
def saturated(tmp_path):
    frames = peak_frames(dtype=np.uint16)
    frames[10, 11:13, 13:15] = 65535
    return spec_folder(tmp_path / "scan", SpecEntry(frames=frames))


def test_a_saturated_peak_in_16_bits_is_told_by_phase(saturated):
    assert any("4 voxels are at the detector's limit" in reason for reason in phased(saturated)["reasons"])


@pytest.mark.slow
def test_a_saturated_peak_in_16_bits_is_told_by_replay(saturated, tmp_path):
    """Quicker: `test_prepare` refuses a saturated peak, and the test above replays another faulty scan of this kind."""
    _, summary = replayed(saturated, tmp_path / "out")
    assert summary["verdict"] == "failed"
    assert "saturated: 4 voxels" in summary["reasons"][0]


def test_two_samples_in_one_folder_are_refused_by_both(tmp_path):
    folder = spec_folder(tmp_path)
    spec_folder(tmp_path / "other")
    for command in ("replay", "phase"):
        done = run(command, str(folder), "--scan", "54")
        assert done.returncode == 2
        message = "".join(done.stderr.split())
        assert "expectedonefolderofimagesofscan54" in message
        assert f"{tmp_path}/other/AD34idcTIM2_x/Sample-1a_S0054" in message
