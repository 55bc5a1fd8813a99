"""Metrics: one list of numbers, from which documents and files are made."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest

from cdi_stream.metrics import UNITS, Metrics, RefinementMetrics


def test_every_number_has_a_unit_and_a_meaning_and_its_name_ends_in_the_unit():
    endings = {"m": "_m", "nm": "_nm", "nm^3": "_nm3", "s": "_s", "voxels": "_vox"}
    for one in fields(RefinementMetrics):
        assert one.metadata["meaning"]
        unit = one.metadata["unit"]
        assert one.name == "seconds" or one.name.endswith(endings.get(unit, "")), one.name
        assert UNITS[one.name] == unit


def test_a_number_that_is_no_field_is_an_error():
    with pytest.raises(TypeError):
        Metrics(chi_squared=0.1)
    with pytest.raises(TypeError):
        replace(Metrics(), latency_dream_s=0.1)


def test_unknown_numbers_are_nan_in_documents_and_absent_among_the_known():
    metrics = Metrics(chi2=0.5, starts=3, r_p=math.inf)
    assert metrics.known() == {"chi2": 0.5, "starts": 3, "is_support_thin": False, "is_truncated": False}
    values = metrics.values()
    assert list(values) == [one.name for one in fields(Metrics)]
    assert (values["chi2"], values["starts"], values["is_truncated"]) == (0.5, 3.0, False)
    assert math.isnan(values["cycles"])
    assert math.isnan(values["agreement"])
