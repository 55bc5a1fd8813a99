"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from cdi_stream.cli.wording import table_row


@pytest.mark.parametrize(
    ("name", "value", "label", "text"),
    [
        ("chi2", 0.009558123456, "chi2", "0.009558"),
        ("resolution_m", 1.2345678e-8, "resolution", "12.35 nm"),
        ("resolution_vox", 2.0, "resolution", "2 voxels"),
        ("voxel_size_nm", [15.1234567, 5.01, 5.04], "voxel_size", "15.12 x 5.01 x 5.04 nm"),
        ("seconds", 12.345678, "seconds", "12.35 s"),
        ("latency_s", {"inference": 0.123456}, "latency", "inference 0.1235 s"),
        ("reasons", ["one", "two"], "reasons", "one\ntwo"),
        ("reasons", [], "reasons", "-"),
        ("size_lab_nm", None, "size_lab", "-"),
        ("agreement", math.nan, "agreement", "-"),
        ("starts", 32, "starts", "32"),
        ("verdict", "good", "verdict", "good"),
    ],
)
def test_few_digits_with_their_unit(name, value, label, text):
    assert table_row(name, value)[:2] == (label, text)
