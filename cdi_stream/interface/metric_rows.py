"""The numbers of a reconstruction as people read them: few digits, a unit, a meaning."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

from cdi_stream.metrics import Metrics

SHOWN = (
    *("chi2", "chi2_floor", "r_p", "agreement", "bootstrap_nmse", "amplitude_spread", "support_fraction"),
    "dark_share",
    "background_share",
    "uneven_steps",
    *("resolution_m", "resolution_vox", "voxel_size_m", "size_lab_x_nm", "size_lab_y_nm", "size_lab_z_nm"),
    *("d_spacing_m", "strain_low", "strain_high"),
    *("coherence_lab_x_nm", "coherence_lab_y_nm", "coherence_lab_z_nm", "coherence_error"),
    *("starts", "cycles"),
)
"""Metrics that are shown, in this order; a number that is not known is left out."""


@dataclass(frozen=True, slots=True)
class Row:
    """One number: its name without the unit, its value with few digits and its unit, and its meaning."""

    name: str
    text: str
    meaning: str


def metric_rows(metrics: Metrics) -> Iterator[Row]:
    """Yield a row for each known number of `SHOWN`; lengths in metres are shown in nanometres.

    >>> [row.text for row in metric_rows(Metrics(chi2=0.01234, resolution_m=1.5e-8))]
    ['0.01234', '15 nm']
    """
    about = {metric.name: metric.metadata for metric in fields(Metrics)}
    for name in SHOWN:
        value = getattr(metrics, name)
        if value is None or not math.isfinite(value):
            continue
        unit = about[name]["unit"]
        value, unit = (value * 1e9, "nm") if unit == "m" else (value, unit)
        label = name.removesuffix("_nm").removesuffix("_m").removesuffix("_vox")
        yield Row(label, f"{value:.4g} {unit}".strip(), about[name]["meaning"])
