"""Misfit against its definition, the noise floor against counted noise, and the grades."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cdi_stream.metrics import Metrics
from cdi_stream.phasing.judge import judge
from cdi_stream.phasing.projections import Measurement, reciprocal
from cdi_stream.phasing.quality import misfit

SHAPE = (20, 21, 22)
ONES = torch.ones(SHAPE, dtype=torch.float64)
GOOD = Metrics(chi2=0.01, chi2_floor=0.01, r_p=0.99, support_fraction=0.1)


def noise(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def block() -> torch.Tensor:
    """A crystal in Fourier order with a well resolved diffraction pattern."""
    crystal = torch.zeros(SHAPE, dtype=torch.complex128)
    crystal[:6, :5, :7] = 1
    return crystal


def measured(crystal: torch.Tensor, model_scale: torch.Tensor = ONES, valid: torch.Tensor | None = None) -> Measurement:
    magnitude = model_scale * reciprocal(crystal, 3).abs()
    return Measurement(magnitude=magnitude, magnitude_scale=model_scale, valid=ONES.bool() if valid is None else valid)


def counted(crystal: torch.Tensor, total: float, seed: int) -> Measurement:
    intensity = reciprocal(crystal, 3).abs().square().numpy()
    counts = np.random.default_rng(seed).poisson(intensity / intensity.sum() * total)
    return Measurement(magnitude=torch.from_numpy(np.sqrt(counts)), magnitude_scale=ONES, valid=ONES.bool())


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_true_crystal_fits_at_any_scale(scale):
    found = misfit(scale * noise(1), measured(noise(1)))
    assert found["chi2"] == pytest.approx(0, abs=1e-12)
    assert found["r_p"] == pytest.approx(1)


def test_misfit_is_as_defined():
    valid = torch.rand(SHAPE, generator=torch.Generator().manual_seed(2)) < 0.7
    model_scale = 0.5 + torch.rand(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    data = measured(noise(4) + noise(5), model_scale, valid)
    found = misfit(noise(4), data)
    model = (model_scale * reciprocal(noise(4), 3).abs())[valid].numpy()
    magnitude = data.magnitude[valid].numpy()
    (scale,), (residual,), *_ = np.linalg.lstsq(model[:, None], magnitude, rcond=None)
    assert scale > 0
    assert found["chi2"] == pytest.approx(residual / (magnitude**2).sum())
    assert found["r_p"] == pytest.approx(np.corrcoef(model, magnitude)[0, 1])


def test_voxels_that_are_not_valid_do_not_matter():
    valid = torch.rand(SHAPE, generator=torch.Generator().manual_seed(2)) < 0.7
    clean = measured(noise(1), valid=valid)
    spoilt = Measurement(magnitude=torch.where(valid, clean.magnitude, 1e9), magnitude_scale=ONES, valid=valid)
    assert misfit(noise(6), spoilt) == misfit(noise(6), clean)


@pytest.mark.parametrize("total", [3e3, 1e4, 1e5, 1e6, 1e9])
def test_the_noise_floor_is_the_misfit_of_the_true_crystal(total):
    found = [misfit(block(), counted(block(), total, seed)) for seed in range(6)]
    chi2, floor = (np.mean([one[key] for one in found]) for key in ("chi2", "chi2_floor"))
    assert floor == pytest.approx(chi2, rel=0.05)


@pytest.mark.parametrize("total", [3e3, 1e4, 1e5, 1e6, 1e9])
def test_counting_noise_alone_is_no_reason_for_doubt(total):
    metrics = Metrics(**misfit(block(), counted(block(), total, 7)), support_fraction=0.1)
    assert not [reason for reason in judge(metrics).reasons if reason.startswith("chi2")]


def test_an_empty_crystal_has_failed():
    found = misfit(torch.zeros(SHAPE, dtype=torch.complex128), counted(block(), 1e6, 0))
    assert found["chi2"] == 1
    assert math.isnan(found["r_p"])
    assert judge(Metrics(**found, support_fraction=0.0)).grade == "failed"


KNOWN = {"agreement": 0.99, "bootstrap_nmse": 0.005}


@pytest.mark.parametrize(
    ("change", "grade", "reason"),
    [
        ({}, "good", None),
        ({"chi2": 0.0}, "good", None),
        ({"chi2": 0.039}, "good", None),
        ({"chi2": 0.041}, "doubtful", "chi2 0.0410 is far above the counting noise 0.0100"),
        ({"chi2": 0.06, "chi2_floor": 0.03}, "good", None),
        ({"chi2": 0.06, "chi2_floor": 0.034}, "doubtful", "counting noise is 0.034 of the counts"),
        ({"chi2": 0.06, "chi2_floor": 0.034, "bootstrap_nmse": 0.017}, "good", None),
        ({"bootstrap_nmse": 0.019}, "doubtful", "expected NMSE to the truth 0.095 > 0.09"),
        ({"bootstrap_nmse": 0.015, "agreement": 0.986}, "good", None),
        ({"bootstrap_nmse": 0.015, "agreement": 0.97}, "doubtful", "expected NMSE to the truth 0.105 > 0.09"),
        ({"agreement": 0.956}, "good", None),
        ({"agreement": 0.954}, "doubtful", "mean correlation 0.954 < 0.955"),
        ({"starts": 1}, "doubtful", "a single start"),
        ({"starts": 32}, "doubtful", "only one of 32 starts"),
        ({"amplitude_spread": 0.27}, "doubtful", "uneven inside: 0.27"),
        ({"is_truncated": True}, "doubtful", "the time ran out"),
        ({"amplitude_spread": 0.35, **KNOWN}, "good", None),
        ({"amplitude_spread": 0.37, **KNOWN}, "doubtful", "uneven inside: 0.37 of its mean, more than 0.36"),
        (
            {"amplitude_spread": 0.35, **KNOWN, "blur_row_vox": 0.5, "bootstrap_nmse": 0.008},
            "doubtful",
            "more than 0.26",
        ),
        ({"amplitude_spread": 0.35, **KNOWN, "blur_row_vox": 0.5, "bootstrap_nmse": 0.006}, "good", None),
        ({"amplitude_spread": 0.35, **KNOWN, "bootstrap_nmse": 0.011}, "doubtful", "more than 0.26"),
        ({"amplitude_spread": 0.35, **KNOWN, "agreement": 0.964}, "doubtful", "more than 0.26"),
        ({"amplitude_spread": 0.35, **KNOWN, "agreement": 0.979, "bootstrap_nmse": 0.007}, "good", None),
        ({"bootstrap_nmse": 0.015, "blur_row_vox": 0.5}, "good", None),
        ({"bootstrap_nmse": 0.016, "blur_row_vox": 0.5}, "doubtful", "expected NMSE to the truth 0.095 > 0.09"),
        ({"chi2": 0.029, "blur_row_vox": 0.5}, "good", None),
        ({"chi2": 0.031, "blur_row_vox": 0.5}, "doubtful", "chi2 0.0310 is far above the counting noise 0.0100"),
        ({"r_p": 0.969, "chi2": 0.018}, "doubtful", "r_p 0.969 < 0.97"),
        ({"r_p": 0.931, "chi2": 0.016}, "good", None),
        ({"r_p": 0.929, "chi2": 0.016}, "doubtful", "r_p 0.929 < 0.93"),
        ({"support_fraction": 0.21}, "doubtful", "the support fills 21% of the array"),
        ({"support_over_box": 2.4}, "good", None),
        ({"support_over_box": 2.6}, "doubtful", "the support is 2.6 times the box that the counts say"),
        ({"r_p": 0.699}, "failed", "r_p 0.699 < 0.7"),
        ({"r_p": -0.5, "chi2": 0.0}, "failed", "r_p -0.500 < 0.7"),
        ({"r_p": math.nan}, "failed", "not explained"),
        ({"chi2": math.nan}, "failed", "not explained"),
        ({"chi2": math.inf}, "failed", "not explained"),
    ],
)
def test_grades(change, grade, reason):
    verdict = judge(replace(GOOD, **change))
    assert verdict.grade == grade
    assert len(verdict.reasons) == (reason is not None)
    assert all(reason in found for found in verdict.reasons)


def test_reasons_already_known_make_it_doubtful_and_come_first():
    verdict = judge(replace(GOOD, r_p=0.9, chi2=0.02), ("three frames are missing",))
    assert verdict.grade == "doubtful"
    assert verdict.reasons == ("three frames are missing", "r_p 0.900 < 0.97")
    assert judge(GOOD, ("three frames are missing",)).grade == "doubtful"
    assert judge(replace(GOOD, **{"r_p": 0.1}), ("three frames are missing",)).reasons[0] == "three frames are missing"
