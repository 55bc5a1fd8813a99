"""Curves and settings for tests, made from simulated or recorded scans without any socket."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cdi_stream.config import Config
from cdi_stream.geometry.circles import Beamline, Circle, CurveGeometry, DetectorPlacement, Positions, direction
from cdi_stream.inversion.chain import ChainSettings
from cdi_stream.inversion.phase_retrieval import FROM_NETWORK
from cdi_stream.live.serve import chain_settings
from cdi_stream.messages import FrameAccount, RecordedScan, RockingCurve, RunContext, SeriesStart
from sim_beamline.diffract import Experiment

ONE_START = f"""[phase]
recipe = "{FROM_NETWORK}"

"""
"""A polish that takes a second, for what is not about the search."""

A_DAY_S = 86_400.0
"""A budget that no test can spend: numbers of starts and cycles end the phase retrieval, on a slow machine too."""

DOCUMENTS = {"subscribe": "127.0.0.1:2", "publish": "127.0.0.1:3"}
"""Addresses where nobody is."""


def settings_for(scan: RecordedScan, **sections: object) -> ChainSettings:
    """Settings of the chain for a recorded scan: defaults, but the beamline, and no limit of time for the phase."""
    geometry = {"beamline" if isinstance(scan.beamline, str) else "inline": scan.beamline}
    base = {"detector": {"endpoint": "tcp://127.0.0.1:1"}, "documents": DOCUMENTS, "geometry": geometry}
    sections["phase"] = {"budget_s": A_DAY_S, **sections.get("phase", {})}
    return chain_settings(Config.model_validate(base | sections))


def curve_of(scan: RecordedScan) -> RockingCurve:
    """The whole scan as one complete curve."""
    n = len(scan.frames)
    names = ("pixel_row_m", "pixel_col_m", "beam_row", "beam_col")
    header = {key: scan.detector[key] for key in names if key in scan.detector}
    return RockingCurve(
        series=SeriesStart(series=1, pixel_mask=scan.pixel_mask, **header),
        run=RunContext(uid="test", readings=scan.baseline, units=scan.units),
        curve_index=0,
        counts=scan.frames.astype(np.uint32),
        sentinel=2**32 - 1,
        has_frame=np.ones(n, dtype=bool),
        scanned=scan.scanned,
        monitor=None,
        account=FrameAccount(expected=n, received=n),
        doubts=(),
        complete_s=0.0,
    )


def geometry_of(experiment: Experiment) -> CurveGeometry:
    """The library's geometry of a simulated experiment."""
    n = experiment.shape[0]

    def track(value: float | tuple[float, ...]) -> np.ndarray:
        return np.array(value) if isinstance(value, tuple) else np.full(n, float(value))

    def circles(letters: Mapping[str, str]) -> tuple[Circle, ...]:
        return tuple(Circle(name=name, axis=direction(axis)) for name, axis in letters.items())

    def angles(letters: Mapping[str, str], degrees: Mapping[str, float | tuple[float, ...]]) -> np.ndarray:
        return np.deg2rad(np.stack([track(degrees[name]) for name in letters], axis=1))

    return CurveGeometry(
        beamline=Beamline(
            name="test",
            sample_circles=circles(experiment.sample_circles),
            detector_circles=circles(experiment.arm_circles),
            row_direction=direction(experiment.row_direction),
            col_direction=direction(experiment.col_direction),
        ),
        detector=DetectorPlacement(
            distance_m=experiment.distance_m,
            pixel_row_m=experiment.pixel_row_m,
            pixel_col_m=experiment.pixel_col_m,
            beam_row=experiment.beam_row,
            beam_col=experiment.beam_col,
        ),
        positions=Positions(
            sample_rad=angles(experiment.sample_circles, experiment.sample_deg),
            arm_rad=angles(experiment.arm_circles, experiment.arm_deg),
            photon_energy_ev=track(experiment.photon_energy_ev),
        ),
    )
