"""From a rocking curve to a reconstruction in lab coordinates, by the stages of the live service."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdi_stream.config.outputs import PublishConfig
from cdi_stream.config.reconstruction import PhaseConfig, PrepareConfig
from cdi_stream.errors import CurveError, RecordingError
from cdi_stream.files.intensities.objects import LabObject
from cdi_stream.files.intensities.scans import Placement, curve_of
from cdi_stream.files.plot import LAB_AXES
from cdi_stream.geometry.circles import Beamline, DetectorPlacement
from cdi_stream.interface.limits import require_budget, require_device
from cdi_stream.interface.placement import placement_of
from cdi_stream.interface.progress import ProgressCallback, ProgressReport
from cdi_stream.interface.reconstruction import Reconstruction
from cdi_stream.inversion.chain import ChainSettings, infer_curve, phase_curve
from cdi_stream.inversion.pixels import DetectorKnowledge
from cdi_stream.messages import RecordedScan, Result, RockingCurve
from cdi_stream.networks.packaged import DEFAULT, network_file
from cdi_stream.networks.torchscript import Network
from cdi_stream.networks.torchscript import load as load_network


def rocking_curve(
    counts: ArrayLike,
    angles_deg: Mapping[str, ArrayLike],
    *,
    photon_energy_ev: float,
    detector: DetectorPlacement,
    valid_pixels: ArrayLike | None = None,
    monitor: ArrayLike | None = None,
) -> RockingCurve:
    """Return counts and angles as a rocking curve for `cdi_stream.reconstruct`.

    Parameters
    ----------
    counts
        Frames ``(n_frames, rows, cols)``, raw counts.
    angles_deg
        Angle [deg] of each circle of the beamline by name: ``(n_frames,)`` of the circle that rocks, one number of a
        circle that stands still.
    photon_energy_ev
        Photon energy [eV].
    detector
        Distance and pixel sizes [m], and the pixel of the direct beam at zero detector angles.
    valid_pixels
        True or 1 = use, ``(rows, cols)``.
    monitor
        Intensity of the incident beam at each frame, ``(n_frames,)``, in any unit.

    Raises
    ------
    RecordingError
        If shapes do not fit, or the counts are no counts.

    Examples
    --------
    >>> import cdi_stream as cdi
    >>> detector = cdi.DetectorPlacement(
    ...     distance_m=0.5, pixel_row_m=55e-6, pixel_col_m=55e-6, beam_row=35.3, beam_col=22.4
    ... )
    >>> angles_deg = {"theta": [0.29, 0.30, 0.31], "chi": 90, "phi": -5, "delta": 30.5, "gamma": 13.8}
    >>> curve = cdi.rocking_curve([[[1] * 16] * 16] * 3, angles_deg, photon_energy_ev=9000, detector=detector)
    >>> curve.counts.shape, list(curve.scanned), curve.run.readings["delta"]
    ((3, 16, 16), ['theta'], 30.5)
    """
    frames = _frames(counts)
    tracks = {name: _track(name, values, len(frames)) for name, values in angles_deg.items()}
    scanned = {name: track for name, track in tracks.items() if track.ndim == 1}
    if monitor is not None:
        scanned["monitor"] = _track("monitor", np.atleast_1d(monitor), len(frames))
    scan = RecordedScan(
        name="rocking curve",
        frames=frames,
        beamline=None,
        scanned=scanned,
        baseline={name: float(track) for name, track in tracks.items() if track.ndim == 0},
        units=dict.fromkeys(tracks, "deg"),
        detector={"photon_energy_ev": photon_energy_ev, **asdict(detector)},
        pixel_mask=None if valid_pixels is None else _pixel_mask(valid_pixels, frames.shape[1:]),
    )
    return _curve_of(scan)


def reconstruct(
    curve: RockingCurve | RecordedScan,
    beamline: Beamline | str | Path,
    *,
    budget_s: float = 30.0,
    network: str = DEFAULT,
    device: str = "cpu",
    progress: ProgressCallback | None = None,
) -> Reconstruction:
    """Return the crystal of a rocking curve in lab coordinates, by the stages of the live service.

    Parameters
    ----------
    curve
        Frames and angles: a curve of `cdi_stream.rocking_curve` or of the service, or a recorded scan.
    beamline
        Beamline, the name of an installed beamline (``aps_34idc``, ``esrf_id01``), or the path of a configuration in
        TOML, whose numbers then override the numbers of the curve.
    budget_s
        Largest wall time of the phase retrieval [s].
    network
        Network file, or the name of a packaged network, which gives the first crystal.
    device
        ``cpu`` or ``cuda``.
    progress
        Function that is called with a `cdi_stream.Progress`, such as ``cdi_stream.progress_bar()``.

    Returns
    -------
    Reconstruction whose ``object`` lies on a lab grid ``(z, y, x)`` with cubic voxels, the centre of mass at N//2.

    Raises
    ------
    CurveError
        If the curve cannot be inverted: no counts, a saturated peak, an unknown angle or distance.
    InputError
        If beamline, network or another argument cannot be used.
    """
    require_budget(budget_s)
    require_device(device)
    placement = placement_of(beamline)
    with ProgressReport(progress, budget_s) as report:
        white_field = curve.white_field if isinstance(curve, RecordedScan) else None
        settings = _settings(placement, white_field, budget_s, device)
        curve = replace(_curve_of(curve), complete_s=time.monotonic())
        report.stage("loading the network")
        model = _network(network_file(network), device)
        report.stage("asking the network")
        inferred = infer_curve(curve, model, settings)
        report.stage("retrieving the phase")
        return _reconstruction_of(phase_curve(inferred, settings, report.tick))


def _network(path: Path, device: str) -> Network:
    """Load a network; the last two networks stay in memory while their files do not change."""
    return _loaded(path, device, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=2)
def _loaded(path: Path, device: str, changed_ns: int) -> Network:
    return load_network(path, device)


def _settings(
    placement: Placement, white_field: NDArray[np.float32] | None, budget_s: float, device: str
) -> ChainSettings:
    """Return the settings of the stages, with the defaults of the service's configuration."""
    return ChainSettings(
        beamline=placement.beamline,
        fixed=placement.fixed,
        detector=DetectorKnowledge(white_field=white_field),
        prepare=PrepareConfig(),
        phase=PhaseConfig(budget_s=budget_s),
        lab_shape=PublishConfig().lab_shape,
        device=device,
    )


def _reconstruction_of(result: Result) -> Reconstruction:
    """Return the result of a curve as a reconstruction in lab coordinates; raises `CurveError` without a crystal."""
    crystal = result.crystal
    if crystal is None:
        raise CurveError("; ".join(result.verdict.reasons))
    lab = LabObject(density=crystal.density, support=crystal.support, affine=crystal.affine)
    return Reconstruction(
        object=lab.density,
        support=lab.support,
        metrics=result.metrics,
        verdict=result.verdict,
        affine=lab.affine,
        lab=lab,
        axes=LAB_AXES,
    )


def _curve_of(scan: RockingCurve | RecordedScan) -> RockingCurve:
    """Return a recorded scan as one complete curve with its doubts; a curve is returned unchanged."""
    if isinstance(scan, RockingCurve):
        return scan
    if not isinstance(scan, RecordedScan):
        raise RecordingError(
            f"curve: expected a rocking curve, got {type(scan).__name__}: "
            "give cdi_stream.rocking_curve(counts, angles_deg, ...)"
        )
    curve, doubts = curve_of(scan)
    return replace(curve, doubts=doubts)


def _frames(counts: ArrayLike) -> NDArray[Any]:
    """Return counts as unsigned integers of 32 bits at most."""
    frames = np.asarray(counts)
    if frames.ndim != 3 or frames.dtype.kind not in "iuf":
        raise RecordingError(
            f"counts: expected frames (n_frames, rows, cols) of real numbers, got {frames.dtype} {frames.shape}"
        )
    if frames.dtype.kind == "u" and frames.dtype.itemsize <= 4:
        return frames
    is_count = np.isfinite(frames) & (frames >= 0) & (frames < 2**32) & (frames == np.rint(frames))
    if not is_count.all():
        k = tuple(int(i) for i in np.argwhere(~is_count)[0])
        raise RecordingError(
            f"counts: expected whole numbers from 0 to {2**32 - 1}, got {frames[k]} at {k}: give raw counts, and "
            "valid_pixels for pixels that hold none"
        )
    return frames.astype(np.uint32)


def _track(name: str, values: ArrayLike, n_frames: int) -> NDArray[np.float64]:
    """Return one number, or a number for each frame."""
    track = np.asarray(values, dtype=float)
    if track.shape not in ((), (n_frames,)):
        raise RecordingError(f"{name}: expected one number or {n_frames}, one for each frame, got shape {track.shape}")
    return track


def _pixel_mask(valid_pixels: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.asarray(valid_pixels)
    if mask.shape != shape or not np.isin(mask, (0, 1)).all():
        raise RecordingError(f"valid_pixels: expected 0 and 1 of shape {shape}, got {mask.dtype} {mask.shape}")
    return mask.astype(bool)
