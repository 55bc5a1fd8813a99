"""Numbers that are published with a crystal, each with its unit and its meaning.

Event descriptors, attributes of the result file, the feed of the operators' page and the reference in the documentation
are made from these fields; a number that is not a field cannot be published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

NAN = math.nan


def _metric(unit: str, meaning: str, default: Any = NAN) -> Any:
    return field(default=default, metadata={"unit": unit, "meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Numbers of one crystal; a number that is not known is NaN, a count that is not known is None.

    Each field carries ``unit`` and ``meaning`` in its metadata; the unit is empty for numbers without one.
    """

    chi2: float = _metric("", "misfit to the measured magnitudes: squared differences over squared magnitudes")
    r_p: float = _metric("", "Pearson correlation of modelled and measured magnitudes")
    chi2_floor: float = _metric("", "misfit that counting noise alone leaves")
    free_llk: float = _metric("", "Poisson log-likelihood a voxel, over voxels that the phasing never saw; 0 is best")
    free_llk_floor: float = _metric("", "free log-likelihood that counting noise alone leaves")
    starts: int | None = _metric("", "random starts of the search", None)
    cycles: int | None = _metric("", "cycles of phase retrieval, all starts together", None)
    agreement: float = _metric("", "mean correlation with the crystals of other starts")
    first_mode: float = _metric("", "share of the first common mode of the crystals of all finalists")
    amplitude_spread: float = _metric("", "standard deviation over mean of the amplitude inside the support")
    is_support_thin: bool = _metric("", "whether the support is too thin to measure the amplitude spread", False)
    bootstrap_nmse: float = _metric("", "NMSE by which counting noise alone moves the crystal")
    is_truncated: bool = _metric("", "whether the time ran out before the search was done", False)
    resolution_m: float = _metric("m", "half period at which the crystals of different starts part (PRTF = 1/e)")
    resolution_vox: float = _metric("voxels", "the same in voxels, for files without geometry")
    blur_frame_vox: float = _metric("voxels", "rms width of the coherence kernel along the frames; not known: coherent")
    blur_row_vox: float = _metric("voxels", "the same along the detector's rows")
    blur_col_vox: float = _metric("voxels", "the same along the detector's columns")
    coherence_lab_x_nm: float = _metric("nm", "coherence length along x: the degree of coherence falls to exp(-1/2)")
    coherence_lab_y_nm: float = _metric("nm", "the same along y")
    coherence_lab_z_nm: float = _metric("nm", "the same along z")
    coherence_error: float = _metric("", "relative uncertainty of the coherence lengths")
    uneven_steps: float = _metric("steps", "rms distance of the frames from even steps, found; not known: as measured")
    dark_share: float = _metric("", "share of the crystal's intensity in voxels that were not measured")
    background_share: float = _metric("", "share of the counts that is background; not known: none was found")
    support_fraction: float = _metric("", "share of the array that the support fills")
    support_over_box: float = _metric("", "volume of the support over the box of the autocorrelation")
    oversampling_frame: float = _metric("", "oversampling along the frames, from the autocorrelation")
    oversampling_row: float = _metric("", "oversampling along the detector's rows")
    oversampling_col: float = _metric("", "oversampling along the detector's columns")
    voxel_size_m: float = _metric("m", "side of a voxel of the lab grid")
    size_lab_x_nm: float = _metric("nm", "extent along x where the amplitude exceeds 30 % of the largest")
    size_lab_y_nm: float = _metric("nm", "extent along y where the amplitude exceeds 30 % of the largest")
    size_lab_z_nm: float = _metric("nm", "extent along z where the amplitude exceeds 30 % of the largest")
    support_volume_nm3: float = _metric("nm^3", "volume of the support")
    d_spacing_m: float = _metric("m", "lattice spacing of the mean lattice")
    strain_low: float = _metric("", "1st percentile of the strain along Q, relative to the mean lattice")
    strain_high: float = _metric("", "99th percentile of the strain along Q, relative to the mean lattice")
    bad_pixels: int | None = _metric("", "hot or dead pixels that were masked", None)
    alien_voxels: int | None = _metric("", "voxels of other grains' peaks that were masked", None)
    latency_assemble_s: float = _metric("s", "from the last frame's receipt to the complete curve")
    latency_prepare_s: float = _metric("s", "masking, cropping and scaling")
    latency_correct_s: float = _metric("s", "resampling to the lab grid")
    latency_infer_s: float = _metric("s", "network")
    latency_phase_s: float = _metric("s", "phase retrieval on the measured voxels")
    latency_s: float = _metric("s", "from the last frame's receipt to the document")

    def known(self) -> dict[str, float]:
        """Return the finite numbers by name."""
        values = {metric.name: getattr(self, metric.name) for metric in fields(self)}
        return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}

    def values(self) -> dict[str, float | bool]:
        """Return all numbers by name as documents hold them: a count that is not known is NaN."""
        return {metric.name: _plain(getattr(self, metric.name)) for metric in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinementMetrics(Metrics):
    """Numbers of a refined crystal, with the misfit and the correlation before the refinement."""

    seconds: float = _metric("s", "wall time of the refinement")
    start_chi2: float = _metric("", "misfit before the refinement")
    start_r_p: float = _metric("", "correlation before the refinement")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewMetrics(Metrics):
    """Numbers of the crystal of a curve that is still measured."""

    fraction: float = _metric("", "fraction of the curve's frames at which the preview was asked for")


_ALL = (*fields(RefinementMetrics), *fields(PreviewMetrics))

UNITS = {metric.name: str(metric.metadata["unit"]) for metric in _ALL}
"""Unit of each number by name."""

MEANINGS = {metric.name: str(metric.metadata["meaning"]) for metric in _ALL}
"""Meaning of each number by name."""


def _plain(value: float | bool | None) -> float | bool:
    if isinstance(value, bool):
        return value
    return NAN if value is None else float(value)
