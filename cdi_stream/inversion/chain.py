"""The stages of one curve in their order: locate, prepare, correct, infer, then phase retrieval."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cdi_stream.config import FixedGeometry, PhaseConfig, PrepareConfig
from cdi_stream.errors import CurveError, GeometryError
from cdi_stream.geometry.affine import AffineMap, Shape
from cdi_stream.geometry.circles import Beamline
from cdi_stream.inversion.correct import centre_of_mass, crystal_to, fitting_lab_grid, support_to, to_lab
from cdi_stream.inversion.describe import describe
from cdi_stream.inversion.filling import FilledFrames
from cdi_stream.inversion.frame_work import FrameWork
from cdi_stream.inversion.infer import UNREFINED, infer
from cdi_stream.inversion.locate import locate
from cdi_stream.inversion.measurement import measurement_of
from cdi_stream.inversion.phase_retrieval import Start, retrieve_phase
from cdi_stream.inversion.pixels import DetectorKnowledge
from cdi_stream.inversion.prepare import prepare
from cdi_stream.inversion.previous import laid_on_peak, like_previous, turned
from cdi_stream.inversion.tracks import run_readings
from cdi_stream.inversion.units import factor
from cdi_stream.inversion.verdict import combined, failed_verdict
from cdi_stream.messages import (
    PREVIOUS_RUN,
    Crystal,
    LabVolume,
    PhasedVolume,
    PreparedVolume,
    Result,
    RockingCurve,
    Verdict,
    read_only,
)
from cdi_stream.metrics import Metrics
from cdi_stream.networks.mirrors import is_sure
from cdi_stream.networks.torchscript import Network
from cdi_stream.numerics.fourier import from_fourier_order, to_fourier_order
from cdi_stream.numerics.memory import keep_freed_memory
from cdi_stream.phasing.support import grow, smooth

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSettings:
    """Settings of the stages from a curve to a crystal: geometry, detector, preparation, phase retrieval, device."""

    beamline: Beamline
    fixed: FixedGeometry
    detector: DetectorKnowledge
    prepare: PrepareConfig
    phase: PhaseConfig
    lab_shape: Shape
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class InferredCurve:
    """A curve with the network's result, the input of the phase retrieval.

    ``result`` is published at once.  ``volume`` and ``find_start`` are None if the curve cannot be inverted; ``result``
    then gives the reason.  ``find_start`` returns the start of the phase retrieval.
    """

    curve: RockingCurve
    result: Result
    volume: PreparedVolume | None
    find_start: Callable[[], Start] | None
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    laps: _Laps


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousCrystal:
    """The same crystal as an earlier raw run gave it, in lab coordinates, and the uid of that run."""

    run_uid: str
    crystal: Crystal


_PREVIOUS_NOTE = "the crystal of run {uid} was one of the starts; its correlation with this one is {correlation:.2f}"


def reconstruct(
    curve: RockingCurve, network: Network, settings: ChainSettings, clock: Clock = time.monotonic
) -> tuple[Result, Result]:
    """Return both results of a curve: of the network, and of the phase retrieval."""
    inferred = infer_curve(curve, network, settings, clock)
    return inferred.result, phase_curve(inferred, settings)


def infer_curve(
    curve: RockingCurve,
    network: Network,
    settings: ChainSettings,
    clock: Clock = time.monotonic,
    proceed: Callable[[], None] = lambda: None,
    work: FrameWork | None = None,
) -> InferredCurve:
    """Locate, prepare and correct a curve, and ask the network for its crystal.

    Parameters
    ----------
    curve, network, settings, clock
        Curve, network, settings of the stages, and monotonic time [s].
    proceed
        Called between the stages; it may raise an error to end them.
    work
        Work on the frames of the curve that was done before its last frame came; the crystal is the same without it.
    """
    work = work or FrameWork()
    laps = _Laps(clock, curve.complete_s)
    doubts, notes = curve.doubts + _doubts_of_missing_frames(curve), curve.notes
    try:
        if not curve.account.received:
            raise CurveError("no frame of this curve arrived")
        geometry, more_doubts, more_notes = locate(curve, settings.beamline, settings.fixed)
        doubts, notes = doubts + more_doubts, notes + more_notes
        detector = detector_of(curve, settings.detector)
        laps.mark("assemble")
        proceed()
        volume = prepare(curve, geometry, detector, settings.prepare, work)
        doubts += volume.doubts
        laps.mark("prepare")
        proceed()
        lab = lab_volume(volume, network, settings.device, work.filled)
        if not curve.awaited:
            work.give_up()
        laps.mark("correct")
        proceed()
        crystal = infer(lab, network)
        laps.mark("infer")
    except (CurveError, GeometryError) as error:
        result = failed("inference", curve, failed_verdict(str(error), doubts, notes), laps.added_to(Metrics()))
        return InferredCurve(
            curve=curve, result=result, volume=None, find_start=None, doubts=doubts, notes=notes, laps=laps
        )
    verdict = combined(crystal.verdict, doubts, notes)
    result = _result("inference", curve, crystal, verdict, laps.added_to(metrics_in_lab(crystal, volume)))

    def find_start() -> Start:
        """Return the network's crystal on the measured voxels, after its document went out."""
        magnitude = torch.from_numpy(np.array(lab.magnitude))
        return replace(starting_point(crystal, volume, settings.device), ask_sure=partial(is_sure, network, magnitude))

    return InferredCurve(
        curve=curve, result=result, volume=volume, find_start=find_start, doubts=doubts, notes=notes, laps=laps
    )


def phase_curve(
    inferred: InferredCurve,
    settings: ChainSettings,
    wait_turn: Callable[[], None] = lambda: None,
    previous: PreviousCrystal | None = None,
) -> Result:
    """Retrieve the phase on the measured voxels; return the crystal in lab coordinates.

    Parameters
    ----------
    inferred
        The curve, with the network's result.
    settings
        Settings of the stages.
    wait_turn
        Called at every cycle; it may hold the phase retrieval up for more urgent work.
    previous
        The same crystal in an earlier run, which becomes one of the starts.
    """
    if inferred.volume is None or inferred.find_start is None:
        return replace(inferred.result, stream="reconstruction")
    before = None if previous is None else _start_from(previous.crystal, inferred.volume, settings.device)
    crystal = retrieve_phase(inferred.volume, inferred.find_start(), settings.phase, wait_turn, before)
    notes = inferred.notes
    if previous is not None and before is not None:
        crystal, correlation = like_previous(crystal, before.density.cpu())
        notes = (*notes, _PREVIOUS_NOTE.format(uid=previous.run_uid, correlation=correlation))
    elif (uid := inferred.curve.run.metadata.get(PREVIOUS_RUN)) is not None:
        cause = "none is among the results" if previous is None else "it lies outside the field of view"
        notes = (*notes, f"no crystal of the previous run {uid!s:.36} was a start: {cause}")
    return _reconstruction(inferred, inferred.volume, crystal_in_lab(crystal, settings.lab_shape), crystal, notes)


def keep_network_crystal(inferred: InferredCurve, lab_shape: Shape, reason: str, *, is_refined: bool) -> Result:
    """Return the network's crystal as the doubtful reconstruction of a curve, without a phase retrieval.

    A network's answer that shows no crystal makes a failed result.  The misfit is that of the inference, on the lab
    grid.

    Parameters
    ----------
    inferred
        The curve, as `infer_curve` returns it.
    lab_shape
        Shape of the crystal in lab coordinates.
    reason
        Why there is no phase retrieval; it stands in the verdict.
    is_refined
        Whether the result is to hold the crystal in detector coordinates, from which a refinement starts.
    """
    crystal, volume = inferred.result.crystal, inferred.volume
    if volume is None or inferred.find_start is None:
        return replace(inferred.result, stream="reconstruction")
    if crystal is None or crystal.verdict.grade == "failed":
        why = failed_verdict(reason, inferred.doubts, inferred.notes)
        return failed("reconstruction", inferred.curve, why, inferred.laps.added_to(Metrics()))
    verdict = Verdict(grade="doubtful", reasons=(UNREFINED, reason))
    crystal = replace(crystal, metrics=replace(crystal.metrics, is_truncated=True), verdict=verdict)
    on_detector = _laid_on_detector(crystal, inferred.find_start()) if is_refined else None
    return _reconstruction(inferred, volume, crystal_in_lab(crystal, lab_shape), on_detector, inferred.notes)


def _laid_on_detector(crystal: Crystal, start: Start) -> Crystal:
    """Return a crystal with density and support of a start, which lie on the measured voxels."""
    density, support = (read_only(array.cpu().numpy()) for array in (start.density, start.support))
    return replace(crystal, density=density, support=support, affine=start.affine)


def _reconstruction(
    inferred: InferredCurve,
    volume: PreparedVolume,
    in_lab: Crystal,
    on_detector: Crystal | None,
    notes: tuple[str, ...],
) -> Result:
    """Return a crystal as the second result of a curve; ``on_detector`` is None where no refinement starts from it."""
    curve = inferred.curve
    inferred.laps.mark("phase")
    verdict = combined(in_lab.verdict, inferred.doubts, notes)
    metrics = inferred.laps.added_to(metrics_in_lab(in_lab, volume))
    result = _result("reconstruction", curve, in_lab, verdict, metrics)
    result = replace(result, frame_sums=_frame_sums(curve), readings=run_readings(curve))
    if on_detector is None:
        return result
    phased = PhasedVolume(volume=volume, crystal=on_detector, doubts=inferred.doubts, notes=notes)
    return replace(result, phased=phased)


def warm_up(network: Network, settings: ChainSettings) -> None:
    """Run the stages once on an empty volume, so that threads, memory and units are ready for the first curve."""
    keep_freed_memory()
    factor("deg", "angle")  # reads the table of all units, which takes almost a second
    shape = settings.prepare.max_shape
    empty = PreparedVolume(
        counts=np.zeros(shape, dtype=np.uint32),
        valid_pixels=np.ones(shape, dtype=bool),
        expected_scale=np.ones(shape, dtype=np.float32),
        affine=AffineMap(shape=shape, q0=np.ones(3), bq=np.eye(3), sample_to_lab=np.eye(3), coordinates="detector"),
        crystal_extent_m=(2.0, 2.0, 2.0),
        oversampling=(3.0, 3.0, 3.0),
    )
    lab = lab_volume(empty, network, settings.device)
    metrics_in_lab(infer(lab, network), empty)
    once = PhaseConfig(budget_s=1.0, most_voxels=0, recipe="CLIP+1*HIO+1*RAAR+1*ER")
    retrieve_phase(empty, starting_point(infer(lab, network), empty, settings.device), once)


def lab_volume(
    volume: PreparedVolume, network: Network, device: str = "cpu", filled: FilledFrames | None = None
) -> LabVolume:
    """Resample intensities to the lab grid of a network; `NetworkFileError` if the network takes no volumes."""
    return to_lab(volume, network.lab_shape[0], network.contract.oversampling, device, filled)


def starting_point(crystal: Crystal, volume: PreparedVolume, device: str) -> Start:
    """Carry the network's crystal to the measured voxels; the support is grown by one voxel to be safe."""
    density = crystal_to(torch.from_numpy(np.array(crystal.density)).to(device), crystal.affine, volume.affine)
    amplitude = smooth(density.abs(), 0.5)
    support = grow(amplitude > 0.3 * amplitude.amax())
    return Start(density=density * support, support=support, affine=volume.affine)


def _start_from(crystal: Crystal, volume: PreparedVolume, device: str) -> Start | None:
    """Carry the crystal of an earlier scan to the measured voxels; None if nothing of it lies in their field of view.

    The support is grown by one voxel, because the crystal may have changed.
    """
    here = turned(crystal, volume.affine)
    density = crystal_to(torch.from_numpy(here.density.copy()), here.affine, volume.affine)
    support = grow(support_to(torch.from_numpy(here.support.copy()), here.affine, volume.affine))
    if not support.any():
        return None
    data = measurement_of(volume)
    density = from_fourier_order(laid_on_peak(to_fourier_order(density * support), data))
    return Start(density=density.to(device), support=support.to(device), affine=volume.affine)


def crystal_in_lab(crystal: Crystal, shape: Shape) -> Crystal:
    """Resample a crystal to a lab grid that its support fills, its centre of mass at the origin voxel."""
    target = fitting_lab_grid(crystal.support, crystal.affine, shape)
    centre = centre_of_mass(crystal.density)
    density = crystal_to(torch.from_numpy(np.array(crystal.density)), crystal.affine, target, centre)
    support = support_to(torch.from_numpy(np.array(crystal.support)), crystal.affine, target, centre)
    return replace(
        crystal,
        density=read_only(density.numpy()),
        support=read_only(support.numpy()),
        affine=target,
    )


def _frame_sums(curve: RockingCurve) -> NDArray[np.int64]:
    """Return the sum of the counts of each frame, without voxels at the maximum of the data type."""
    is_gap = curve.counts == curve.sentinel
    result: NDArray[np.int64] = curve.counts.sum(axis=(1, 2), dtype=np.int64) - curve.sentinel * is_gap.sum(axis=(1, 2))
    return result


def _doubts_of_missing_frames(curve: RockingCurve) -> tuple[str, ...]:
    """Return a doubt if frames are missing that are not awaited; else none."""
    awaited = frozenset(curve.awaited)
    missing = [index for index in curve.account.missing if index not in awaited]
    if not missing:
        return ()
    indices = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
    return (f"incomplete: {len(missing)} of {curve.account.expected} frames missing ({indices})",)


def detector_of(curve: RockingCurve, detector: DetectorKnowledge) -> DetectorKnowledge:
    """Return the detector of the configuration, completed from the header; `CurveError` if image sizes differ."""
    header = curve.series
    images = {"white field": detector.white_field, "bad pixels": detector.good_pixels, "pixel mask": header.pixel_mask}
    for name, image in images.items():
        if image is not None and image.shape != curve.counts.shape[1:]:
            raise CurveError(f"{name}: expected {curve.counts.shape[1:]} pixels like the frames, got {image.shape}")
    if detector.saturation_counts is None:
        detector = replace(detector, saturation_counts=header.saturation_counts)
    return detector


def failed(stream: str, curve: RockingCurve, verdict: Verdict, metrics: Metrics) -> Result:
    """Return the result of a curve without a crystal; ``verdict`` gives the reasons."""
    result = _result(stream, curve, None, verdict, metrics)
    return replace(result, frame_sums=_frame_sums(curve), readings=run_readings(curve))


def metrics_in_lab(crystal: Crystal, volume: PreparedVolume) -> Metrics:
    """Return the metrics of a crystal in lab coordinates, with size and strain, and of the measured volume."""
    frame, row, col = volume.oversampling
    return replace(
        crystal.metrics,
        **describe(crystal.density, crystal.support, crystal.affine),
        oversampling_frame=frame,
        oversampling_row=row,
        oversampling_col=col,
        bad_pixels=volume.n_bad,
        alien_voxels=volume.n_alien + (crystal.metrics.alien_voxels or 0),
    )


def _result(stream: str, curve: RockingCurve, crystal: Crystal | None, verdict: Verdict, metrics: Metrics) -> Result:
    return Result(
        stream=stream,
        curve_index=curve.curve_index,
        series=str(curve.series.series),
        crystal=crystal,
        verdict=verdict,
        account=curve.account,
        metrics=metrics,
        complete_s=curve.complete_s,
        key=curve.key,
    )


class _Laps:
    """Latencies [s] of the stages; the first stage begins at the last frame."""

    def __init__(self, clock: Clock, start_s: float) -> None:
        self._latencies_s: dict[str, Any] = {}
        self._clock = clock
        self._last_s = start_s

    def mark(self, stage: str) -> None:
        """Note the end of a stage."""
        now = self._clock()
        self._latencies_s[f"latency_{stage}_s"] = now - self._last_s
        self._last_s = now

    def added_to(self, metrics: Metrics) -> Metrics:
        """Return the metrics with the latencies of the stages so far."""
        return replace(metrics, **self._latencies_s)
