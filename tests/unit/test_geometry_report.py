"""The geometry of a configuration in numbers and as a sketch: against the solver of cases, and by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from cdi_stream.config import GeometryConfig, read_config
from cdi_stream.config.geometry_report import Place, in_words, missing, report, sketch
from cdi_stream.errors import GeometryError, InputError
from cdi_stream.geometry.case import solve_case

EXAMPLE = Path(__file__).parents[2] / "deploy" / "inline_beamline.toml"
SHAPE = (64, 128, 128)


@pytest.fixture(scope="module")
def geometry() -> GeometryConfig:
    return read_config(EXAMPLE).geometry


def test_numbers_by_hand(geometry):
    found = report(geometry, Place(shape=SHAPE, scan=("eta", 0.004)))
    wavelength_nm = 1.2398419843 / 9.0
    assert found["wavelength_nm"] == pytest.approx(wavelength_nm)
    assert found["two_theta_deg"] == pytest.approx(34.0)
    assert found["d_nm"] == pytest.approx(wavelength_nm / 2 / math.sin(math.radians(17)))
    assert found["q_inv_nm"] == pytest.approx(2 * math.pi / found["d_nm"])
    x, y, z = found["q_lab_inv_nm"]
    assert (y > 0, z < 0) == (True, True)  # delta about x-: the detector goes up
    assert x == pytest.approx(0, abs=1e-9)
    pixel = 2 * math.pi / wavelength_nm * 55e-6 / 1.2
    rocking = found["q_inv_nm"] * math.radians(0.004)
    assert found["step_inv_nm"] == pytest.approx([rocking, pixel, pixel])
    assert found["voxel_nm"][2] == pytest.approx(2 * math.pi / pixel / 128)


def test_the_solver_of_cases_says_the_same(geometry, tmp_path):
    found = report(geometry, Place(shape=SHAPE, scan=("eta", 0.004), angles_deg={"mu": 3.0, "nu": -5.0}))
    recipe = {
        "beam": [0, 0, 1], "sample_axes": ["y-", "x-", "y-"], "sample_names": ["mu", "eta", "phi"],
        "detector_axes": ["y-", "x-"], "detector_names": ["nu", "delta"], "det_row_dir": "y-", "det_col_dir": "x+",
        "energy_eV": 9000.0, "distance_m": 1.2, "pixel_row_m": 55e-6, "pixel_col_m": 55e-6, "shape": SHAPE,
        "beam_row": 64.0, "beam_col": 64.0, "scan": "eta",
        "sample_deg": {"mu": 3.0, "eta": [17.0 - 32 * 0.004, 0.004], "phi": 0.0},
        "detector_deg": {"nu": -5.0, "delta": 34.0},
    }  # fmt: skip
    (tmp_path / "case.json").write_text(json.dumps({"name": "same", "recipe": recipe}))
    solved = solve_case(tmp_path / "case.json")
    np.testing.assert_allclose(found["q_lab_inv_nm"], np.multiply(solved["q_centre_lab"], 10), rtol=1e-9)
    np.testing.assert_allclose(found["step_inv_nm"], np.linalg.norm(solved["Bq_lab"], axis=0) * 10, rtol=1e-9)
    np.testing.assert_allclose(found["voxel_nm"], np.linalg.norm(solved["Br_lab_A"], axis=0) / 10, rtol=1e-9)


def test_an_energy_scan_steps_along_q(geometry):
    found = report(geometry, Place(shape=SHAPE, scan=("energy", 1.0)))
    assert found["step_inv_nm"][0] == pytest.approx(found["q_inv_nm"] / 9000)


def test_without_a_scan_the_frame_is_unknown(geometry):
    found = report(geometry, Place(shape=SHAPE))
    assert found["step_inv_nm"][0] is None
    assert found["voxel_nm"] is None
    assert "unknown without --scan" in in_words(found)["voxel"]


def test_the_direct_beam_has_no_d(geometry):
    found = report(geometry, Place(shape=SHAPE, angles_deg={"delta": 0.0}))
    assert found["d_nm"] is None
    assert "direct beam" in in_words(found)["d"]


def test_all_that_is_missing_is_named_at_once():
    bare = GeometryConfig(beamline="aps_34idc", circles_deg={"chi": 90.0})
    with pytest.raises(InputError, match=r"angles of theta, phi, delta, gamma .*photon_energy_ev.*pixel_col_m"):
        report(bare, Place(shape=SHAPE))
    angles = dict.fromkeys(("theta", "phi", "delta", "gamma"), 10.0)
    given = Place(shape=SHAPE, angles_deg=angles, photon_energy_ev=9e3, distance_m=0.5, pixel_m=55e-6)
    assert missing(bare, given) == []


def test_circles_that_are_not_there_are_refused(geometry):
    for place in (Place(shape=SHAPE, angles_deg={"chi": 1.0}), Place(shape=SHAPE, scan=("chi", 1.0))):
        with pytest.raises(InputError, match="expected circles mu, eta, phi, nu, delta, got chi"):
            report(geometry, place)


@pytest.mark.parametrize(
    "wrong", [{"photon_energy_ev": math.nan}, {"pixel_m": 0.0}, {"scan": ("eta", math.inf)}, {"shape": (0, 1, 1)}]
)
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match="expected finite numbers"):
        Place(**({"shape": SHAPE} | wrong))


def test_a_scan_of_the_arm_alone_is_no_volume(geometry):
    with pytest.raises(GeometryError, match="one plane"):
        report(geometry, Place(shape=SHAPE, scan=("delta", 0.01)))


def test_the_sketch_tells_senses_and_the_first_pixel(geometry):
    text = "\n".join(sketch(geometry.value()))
    assert "sample: mu   about y-  a positive angle turns z+ towards x-" in text
    assert "carries: delta  about x-  a positive angle turns z+ towards y+  (also recorded as two_theta)" in text
    assert "top right, rows grow downwards" in text
    assert "|         (0,0)|\n          |  <- columns  |" in text


@pytest.mark.parametrize(
    ("row", "col", "words", "drawn"),
    [
        ("y-", "x-", "top left, rows grow downwards", "|(0,0)         |\n          |  columns ->  |"),
        ("y+", "x+", "bottom right, rows grow upwards", "|  <- columns  |\n          |         (0,0)|"),
        ("x-", "y+", "bottom left, columns grow upwards", "|   rows ->    |\n          |(0,0)         |"),
    ],
)
def test_each_mounting_of_a_detector_is_drawn(row, col, words, drawn):
    circles = {"name": "b", "sample_circles": [["chi", "z+"]], "detector_circles": []}
    inline = circles | {"row_direction": row, "col_direction": col}
    text = "\n".join(sketch(GeometryConfig.model_validate({"inline": inline}).value()))
    assert words in text
    assert drawn in text
    assert "chi  about z+  a positive angle turns x+ towards y+" in text
    assert "detector: no circles" in text
