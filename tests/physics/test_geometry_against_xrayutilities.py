"""q and B_q against xrayutilities: reference cases, and cases made here that betray a wrong sign or order."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xrayutilities as xu

from cdi_stream.geometry.case import read_case, solve_case
from cdi_stream.geometry.circles import exact_q_sample, sample_rotation
from tests.geometry_recipe import BASE

FIXED = {"theta": 12.0, "chi": 80.0, "phi": 2.5}
CASES = {
    "plain": {},
    "negative_step": {"sample_deg": {**BASE["sample_deg"], "theta": [0.5, -0.01]}},
    "middle_circle": {"scan": "chi", "sample_deg": {**FIXED, "chi": [80.0, 0.01]}},
    "inner_circle": {"scan": "phi", "sample_deg": {**FIXED, "phi": [2.5, 0.02]}},
    "mirrored_columns": {"det_col_dir": "x-"},
    "columns_up": {"det_row_dir": "x+", "det_col_dir": "y+"},
    "rectangular_far_beam": {"pixel_row_m": 7.5e-5, "pixel_col_m": 1.72e-4, "beam_row": -300.4, "beam_col": 512.7},
    "odd_shape": {"shape": [7, 9, 11]},
    "arm_scan_outer": {
        "scan": "delta",
        "sample_deg": FIXED,
        "detector_deg": {"delta": [30.0, 0.01], "gamma": 13.8},
    },
    "arm_scan_inner": {
        "scan": "gamma",
        "sample_deg": FIXED,
        "detector_deg": {"delta": 30.0, "gamma": [13.8, -0.01]},
    },
    "energy_scan": {"scan": "energy", "sample_deg": FIXED, "energy_eV": [8950.0, 5.0]},
    "id01": {
        "sample_axes": ["y-", "x-", "y-"],
        "sample_names": ["mu", "eta", "phi"],
        "detector_axes": ["y-", "x-"],
        "detector_names": ["nu", "delta"],
        "sample_deg": {"mu": 0.5, "eta": [16.2, 0.005], "phi": -41.0},
        "scan": "eta",
        "detector_deg": {"nu": -0.42, "delta": 33.9},
    },
    "beam_along_x": {
        "beam": [1, 0, 0],
        "sample_axes": ["z+", "y+"],
        "sample_names": ["theta", "phi"],
        "detector_axes": ["z+", "y-"],
        "det_row_dir": "z-",
        "det_col_dir": "y+",
        "sample_deg": {"theta": [14.0, 0.01], "phi": 3.0},
    },
    "one_circle": {
        "sample_axes": ["x-"],
        "sample_names": ["th"],
        "detector_axes": ["x-"],
        "detector_names": ["tth"],
        "sample_deg": {"th": [15.0, 0.004]},
        "scan": "th",
        "detector_deg": {"tth": 30.0},
    },
    "four_circles": {
        "sample_axes": ["y+", "x-", "z+", "y-"],
        "sample_names": ["mu", "eta", "chi", "phi"],
        "sample_deg": {"mu": 1.0, "eta": 14.0, "chi": [3.0, 0.02], "phi": 40.0},
        "scan": "chi",
    },
}


def tracks(recipe, kind):
    n = recipe["shape"][0]
    values = [recipe[f"{kind}_deg"][name] for name in recipe[f"{kind}_names"]]
    return [v[0] + v[1] * np.arange(n) if isinstance(v, list) else np.full(n, v) for v in values]


def q_by_xrayutilities(recipe, shift=(0.0, 0.0, 0.0)):
    """Q in the sample's axes ``[frame, row, col, 3]``; ``shift`` moves the scan and the pixels by fractions."""
    frames = np.arange(recipe["shape"][0]) + shift[0]
    energy = recipe["energy_eV"]
    energies = energy[0] + energy[1] * frames if isinstance(energy, list) else np.full(len(frames), energy)
    conversion = xu.experiment.QConversion(
        recipe["sample_axes"], recipe["detector_axes"], recipe["beam"], en=float(energies[0])
    )
    _, rows, cols = recipe["shape"]
    conversion.init_area(
        recipe["det_row_dir"],
        recipe["det_col_dir"],
        cch1=recipe["beam_row"] - shift[1],
        cch2=recipe["beam_col"] - shift[2],
        Nch1=rows,
        Nch2=cols,
        pwidth1=recipe["pixel_row_m"],
        pwidth2=recipe["pixel_col_m"],
        distance=recipe["distance_m"],
    )
    angles = []
    for kind in ("sample", "detector"):
        for name in recipe[f"{kind}_names"]:
            value = recipe[f"{kind}_deg"][name]
            angles.append(value[0] + value[1] * frames if isinstance(value, list) else np.full(len(frames), value))
    per_frame = [
        conversion.area(*(float(a[f]) for a in angles), en=float(energies[f]), deg=True) for f in range(len(frames))
    ]
    return np.moveaxis(np.array(per_frame), 1, -1).reshape(*recipe["shape"], 3)


def written(tmp_path, name, recipe):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({"name": name, "recipe": recipe}))
    return path


@pytest.mark.parametrize("name", CASES)
def test_exact_q_and_linear_map_agree_with_xrayutilities(name, tmp_path):
    recipe = BASE | CASES[name]
    path = written(tmp_path, name, recipe)
    _, geometry, shape = read_case(path)
    expected = q_by_xrayutilities(recipe)
    rows, cols = np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij")
    ours = np.stack(
        [
            exact_q_sample(geometry.beamline, geometry.detector, geometry.positions, f, rows, cols)
            for f in range(shape[0])
        ]
    )
    assert np.abs(ours * 1e-10 - expected).max() < 1e-9 * np.abs(expected).max()

    solved = solve_case(path)
    centre = tuple(n // 2 for n in shape)
    step = 0.02
    differences = []
    for axis in range(3):
        ahead, behind = np.zeros(3), np.zeros(3)
        ahead[axis], behind[axis] = step, -step
        difference = (
            q_by_xrayutilities(recipe, tuple(ahead))[centre] - q_by_xrayutilities(recipe, tuple(behind))[centre]
        )
        differences.append(difference / (2 * step))
    bq = np.stack(differences, axis=1)
    assert np.abs(np.array(solved["Bq_sample"]) - bq).max() < 1e-6 * np.linalg.norm(bq, axis=0).min()
    rotation = sample_rotation(geometry.beamline, geometry.positions, centre[0])
    np.testing.assert_allclose(solved["Bq_lab"], rotation @ np.array(solved["Bq_sample"]), atol=1e-15)
    if solved["Br_lab_A"] is None:
        assert recipe["scan"] in recipe["detector_deg"], "only an arm scan stays on the Ewald sphere"
        return
    assert solved["handedness"] == np.sign(np.linalg.det(bq))
    np.testing.assert_allclose(
        np.array(solved["Br_lab_A"]).T @ solved["Bq_lab"], 2 * np.pi * np.diag(1 / np.array(shape)), atol=1e-12
    )


def test_reference_cases(shared, tmp_path):
    cases = json.loads((shared / "reference" / "geometry_cases.json").read_text())["cases"]
    assert cases
    for case in cases:
        path = tmp_path / "case.json"
        path.write_text(json.dumps(case))
        solved = solve_case(path)
        for key, tolerance in (
            ("wavelength_A", 1e-9),
            ("q_centre_lab", 1e-9),
            ("q_centre_sample", 1e-9),
            ("Bq_lab", 1e-6),
            ("Bq_sample", 1e-6),
            ("Br_lab_A", 1e-6),
            ("Br_sample_A", 1e-6),
            ("voxel_volume_A3", 1e-6),
            ("handedness", 1e-12),
        ):
            scale = np.abs(case[key]).max()
            assert np.abs(np.array(solved[key]) - case[key]).max() < tolerance * scale, (case["name"], key)


def test_handedness_follows_the_senses(tmp_path):
    signs = {name: solve_case(written(tmp_path, name, BASE | CASES[name]))["handedness"] for name in CASES}
    assert signs["plain"] == 1
    assert signs["negative_step"] == signs["mirrored_columns"] == -1


def test_gold_111_appears_at_its_known_angle(tmp_path):
    recipe = BASE | {
        "beam_row": 12,
        "beam_col": 15,
        "sample_deg": {"theta": [16.5, 0.01], "chi": 0.0, "phi": 0.0},
        "detector_deg": {"delta": float(np.rad2deg(2 * np.arcsin(1.3776022048 / 2 / 2.3545))), "gamma": 0.0},
    }
    q = np.linalg.norm(solve_case(written(tmp_path, "gold", recipe))["q_centre_lab"])
    assert 2 * np.pi / q == pytest.approx(2.3545, rel=1e-8)
