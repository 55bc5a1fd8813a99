"""Axes and signs of BLISS files: by xrayutilities, by a real scan of 34-ID-C, and by a simulated crystal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cdi_stream.files.intensities.scans import scan_intensities
from cdi_stream.files.recorded_scan import read_recorded
from cdi_stream.inversion.chain import reconstruct
from sim_beamline.compare import nmse, nmse_forbidden, truth_on_grid
from sim_beamline.crystal import ChiralCrystal
from sim_beamline.diffract import Experiment, q_sample, rocking_curve
from tests.bliss_files import HEADER, BlissEntry, bliss_file, peak_frames
from tests.builders import curve_of, settings_for
from tests.geometry_recipe import BASE
from tests.physics.test_geometry_against_xrayutilities import CASES, q_by_xrayutilities

SCAN_54 = Path(__file__).parents[1] / "data" / "scan54"
RECIPE = BASE | CASES["id01"]


def entry_of(frames, tracks, motors, energy_ev, **header):
    """Return the entry of a BLISS file with angles [deg], energy and header of an experiment."""
    n = len(frames)
    return BlissEntry(
        title=f"ascan {next(iter(tracks))} 0 1 {n - 1} 1",
        frames=frames,
        tracks=tracks,
        motors={name: (value, "deg") for name, value in motors.items()} | {"mononrj": (energy_ev / 1000, "keV")},
        header=HEADER | header,
        region=None,
        n_planned=n,
    )


def test_q_agrees_with_xrayutilities(tmp_path):
    start, step = RECIPE["sample_deg"]["eta"]
    n = RECIPE["shape"][0]
    still = {name: angle for name, angle in (RECIPE["sample_deg"] | RECIPE["detector_deg"]).items() if name != "eta"}
    entry = entry_of(
        peak_frames(tuple(RECIPE["shape"])),
        {"eta": start + step * np.arange(n)},
        still,
        RECIPE["energy_eV"],
        y_pixel_size=RECIPE["pixel_row_m"],
        x_pixel_size=RECIPE["pixel_col_m"],
        beam_center_y=RECIPE["beam_row"],
        beam_center_x=RECIPE["beam_col"],
        distance=RECIPE["distance_m"],
    )
    affine = scan_intensities(read_recorded(bliss_file(tmp_path, entry), 20)).affine
    expected = q_by_xrayutilities(RECIPE) * 1e10
    centre = tuple(size // 2 for size in RECIPE["shape"])
    to_sample = affine.sample_to_lab.T
    assert np.linalg.norm(to_sample @ affine.q0 - expected[centre]) < 1e-6 * np.linalg.norm(affine.q0)
    for axis in range(3):
        ahead, behind = list(centre), list(centre)
        ahead[axis] += 1
        behind[axis] -= 1
        slope = (expected[tuple(ahead)] - expected[tuple(behind)]) / 2
        error = np.linalg.norm(to_sample @ affine.bq[:, axis] - slope)
        assert error < 1e-4 * np.linalg.norm(slope), "a wrong sign, motor or pixel side changes the step at once"


def test_a_real_scan_of_34idc_in_a_bliss_file_has_the_same_map(tmp_path):
    """There the outer circle and the arm turn about +y and -x, at ID01 about -y and -x; phi and eta stay at zero."""
    original = read_recorded(SCAN_54, 54)
    first = scan_intensities(original)
    rows, cols = original.frames.shape[1:]
    entry = entry_of(
        original.frames.astype(np.int32),
        {"mu": -original.scanned["Theta"]},
        {"eta": 0.0, "phi": 0.0, "nu": -original.baseline["Delta"], "delta": original.baseline["Gamma"]},
        1000 * original.baseline["Energy"],
        y_pixel_size=55e-6,
        x_pixel_size=55e-6,
        beam_center_y=rows / 2,
        beam_center_x=cols / 2,
        distance=original.baseline["camdist"] / 1000,
        saturation_value=0,
    )
    second = scan_intensities(read_recorded(bliss_file(tmp_path, entry), 20))
    np.testing.assert_array_equal(second.counts, first.counts)
    np.testing.assert_allclose(second.affine.q0, first.affine.q0, rtol=1e-9, atol=1)
    scale = np.linalg.norm(first.affine.bq, axis=0)
    np.testing.assert_allclose(second.affine.bq / scale, first.affine.bq / scale, atol=1e-9)


def id01_experiment() -> Experiment:
    """Return an eta scan of a peak at 9 keV with all other circles turned."""
    return Experiment(
        sample_circles={"mu": "y-", "eta": "x-", "phi": "y-"},
        arm_circles={"nu": "y-", "delta": "x-"},
        sample_deg={"mu": 0.5, "eta": tuple(16.2 + 0.009 * (np.arange(48) - 24)), "phi": -41.0},
        arm_deg={"nu": 5.2, "delta": 33.9},
        photon_energy_ev=9000.0,
        row_direction="y-",
        col_direction="x+",
        distance_m=0.5,
        pixel_row_m=55e-6,
        pixel_col_m=55e-6,
        beam_row=35.3,
        beam_col=22.4,
        shape=(48, 56, 64),
    )


@pytest.mark.slow
def test_a_simulated_crystal_comes_back_in_the_lab(tmp_path, network):
    experiment = id01_experiment()
    q = q_sample(experiment, 26)[23, 36]
    crystal = ChiralCrystal(size_m=300e-9, q_bragg=tuple(map(float, q)))
    intensity = rocking_curve(crystal, experiment, crystal.size_m / 44)
    frames = np.random.default_rng(20).poisson(intensity * (2e7 / intensity.sum())).astype(np.int32)
    still = {name: angle for name, angle in (experiment.sample_deg | experiment.arm_deg).items() if name != "eta"}
    entry = entry_of(
        frames,
        {"eta": np.array(experiment.sample_deg["eta"])},
        still,
        9000.0,
        x_pixel_size=55e-6,
        beam_center_y=35.3,
        beam_center_x=22.4,
        distance=0.5,
    )
    scan = read_recorded(bliss_file(tmp_path, entry), "20.1")
    scan = replace(scan, baseline=dict(scan.baseline) | {"detector_distance": scan.detector["distance_m"]})
    _, reconstruction = reconstruct(curve_of(scan), network, settings_for(scan))
    found = reconstruction.crystal
    size_m = float(np.linalg.norm(found.affine.br[:, 0]))
    truth = truth_on_grid(crystal, found.affine.q0, found.affine.sample_to_lab, found.density.shape, size_m)
    assert nmse(truth, found.density) <= 0.1
    assert nmse_forbidden(truth, found.density) > 0.15
    assert reconstruction.verdict.grade == "good", reconstruction.verdict.reasons
