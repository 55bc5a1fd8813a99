"""Scans of BLISS by the commands of a user: ``phase``, ``reconstruct`` and ``replay`` with ``--scan 20.1``."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

from tests.bliss_files import BlissEntry, bliss_file, peak_frames
from tests.system.command_line import last_line, run

SHAPE = (32, 48, 48)
QUICK = ("--set", "phase.recipe=20*ER", "--set", "threads=1", "--json")


@pytest.fixture
def path(tmp_path):
    """A scan without its frames 8 to 15, and another scan beside it."""
    eta = 15.24 + 0.01 * np.arange(SHAPE[0])
    entry = BlissEntry(frames=peak_frames(SHAPE), tracks={"eta": eta}, n_planned=SHAPE[0], frames_per_file=8)
    master = bliss_file(tmp_path, entry, replace(entry, name="21.1"))
    (tmp_path / "scan0020/mpx1x4_0003.h5").unlink()
    return master


@pytest.mark.slow
def test_phase_says_what_is_missing(path):
    """Quicker: `tests/unit/test_bliss.py` reads such a scan, and `test_recorded` phases one of another facility."""
    out = ("--out", str(path.parent / "object.npz"), "--json")
    done = run("phase", str(path), "--scan", "20.1", *out, "--method", "recipe", "--recipe", "5*ER", "--budget", "10")
    assert done.returncode in (0, 3), done.stderr
    assert any("8 of 32 frames missing" in reason for reason in last_line(done)["reasons"])


def test_without_a_scan_the_scans_are_listed(path):
    done = run("reconstruct", str(path), *QUICK)
    assert done.returncode == 2
    assert "20.1 (ascan eta" in " ".join(done.stderr.split())


def test_reconstruct_reads_a_scan_by_its_name(path, tmp_path):
    out = tmp_path / "out"
    done = run("reconstruct", str(path), "--scan", "21.1", "--out", str(out), *QUICK)
    assert done.returncode in (0, 3), done.stderr
    result = last_line(done)
    assert (result["expected"], result["received"], result["frame_sums_match"]) == (32, 32, True)
    assert result["chi2"] is not None, result["reasons"]
    with h5py.File(result["file"]) as file:
        assert file["entry/data/crystal"].ndim == 4


@pytest.mark.slow
def test_replay_has_the_geometry_of_the_file(path, tmp_path):
    """Quicker: `test_sim_detector` has the header that the simulated detector sends."""
    done = run("replay", str(path), "--scan", "21", "--speed", "max", "--json", "--out", str(tmp_path / "out"))
    assert done.returncode in (0, 3), done.stderr
    result = last_line(done)
    assert (result["expected"], result["received"], result["frame_sums_match"]) == (32, 32, True)
    assert result["chi2"] is not None, result["reasons"]
    assert None not in result["size_lab_nm"]
