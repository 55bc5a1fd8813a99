"""A past scan again: its curves by the stages of the service, published as a run of their own."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cdi_stream.assemble.past_run import curves_of_run
from cdi_stream.config import Config
from cdi_stream.documents.publish import Emit, RunPublisher, derived_uid, reconstruction_identity
from cdi_stream.errors import RecordingError, ServiceError
from cdi_stream.files.intensities.scans import curve_of
from cdi_stream.inversion.chain import infer_curve, phase_curve
from cdi_stream.live.serve import assemble_settings, chain_settings, provenance_of
from cdi_stream.messages import Box, RecordedScan, Result, RockingCurve
from cdi_stream.networks.torchscript import load as load_network
from cdi_stream.protocols import Archive, PastRun


@dataclass(frozen=True, slots=True, kw_only=True)
class PastScan:
    """Curves of a past scan with the uid of their raw run; ``parents`` are reconstructions by which it was named."""

    raw_uid: str
    curves: tuple[RockingCurve, ...]
    parents: tuple[str, ...] = ()


def raw_run(archive: Archive, uid: str) -> tuple[PastRun, tuple[str, ...]]:
    """Return the raw run of a uid, and the uids of the reconstructions on the way to it.

    Raises
    ------
    RecordingError
        If the archive has no such run.
    """
    parents: list[str] = []
    while True:
        run = archive.run(uid)
        if run is None:
            place = f"the raw run of {parents[-1]}" if parents else "a run"
            raise RecordingError(
                f"{uid}: expected {place} in the archive, got none: give the address of the server that has it "
                "(--tiled), or a recorded file"
            )
        if (original := run.start.get("original_run_uid")) is None or str(original) in (*parents, uid):
            return run, tuple(parents)
        parents.append(uid)
        uid = str(original)


def scan_of_run(run: PastRun, parents: tuple[str, ...], config: Config, detector: str | None) -> PastScan:
    """Return the curves of a run from an archive; raises `RecordingError` if it gives none."""
    settings = assemble_settings(config, chain_settings(config))
    curves = curves_of_run(run, settings, detector)
    return PastScan(raw_uid=str(run.start["uid"]), curves=tuple(curves), parents=parents)


def scan_of_record(scan: RecordedScan, config: Config) -> PastScan:
    """Return the curve of a recorded scan; one without the uid of its raw run gets a uid made of its frames."""
    curve, doubts = curve_of(scan)
    raw_uid = scan.run_uid or derived_uid("recorded scan", scan.name, _digest(scan))
    origin = {"simulated": True} if scan.truth is not None else {"replay_of": scan.name}
    run = replace(curve.run, uid=raw_uid, sample=scan.name, metadata=origin, motors=tuple(scan.scanned)[:1])
    track = scan.scanned.get(config.assemble.monitor or "")
    monitor = curve.monitor if track is None or not np.all(track[scan.has_frame] > 0) else track
    curve = replace(curve, run=run, monitor=monitor, doubts=doubts, notes=scan.notes)
    return PastScan(raw_uid=raw_uid, curves=(_cut(curve, config.detector.roi),))


def _digest(scan: RecordedScan) -> str:
    return hashlib.sha256(np.ascontiguousarray(scan.frames).tobytes()).hexdigest()


def _cut(curve: RockingCurve, roi: Box | None) -> RockingCurve:
    """Return a curve cut to a region of interest."""
    if roi is None:
        return curve
    window = (slice(roi[0], roi[1]), slice(roi[2], roi[3]))
    mask = None if curve.series.pixel_mask is None else curve.series.pixel_mask[window]
    series = replace(curve.series, roi=roi, pixel_mask=mask)
    return replace(curve, counts=curve.counts[:, *window], series=series)


def reconstruct_again(
    scan: PastScan, config: Config, directory: Path, emit: Emit, report: Callable[[str], None] = lambda _: None
) -> str:
    """Reconstruct the curves of a past scan, and return the uid of the run that publishes them.

    The uid follows from the raw run and the settings: with the settings of the service it is the uid of the service's
    run, with other settings another one.

    Parameters
    ----------
    scan
        Curves of the scan.
    config
        Settings.
    directory
        Folder of the result files.
    emit
        Takes each document with its name.
    report
        Called with the name of each stage.
    """
    report("loading the network")
    torch.set_num_threads(config.threads)
    network, chain = load_network(config.network.file, config.device), chain_settings(config)
    provenance = provenance_of(config, chain, network)
    identity = replace(reconstruction_identity(scan.raw_uid, provenance.config_sha256), parents=scan.parents)
    shapes = {"inference": network.lab_shape, "reconstruction": chain.lab_shape}
    publisher = RunPublisher(scan.curves[0].run, provenance, shapes, directory, emit, identity)
    for curve in scan.curves:
        report(f"curve {curve.curve_index}: asking the network")
        inferred = infer_curve(replace(curve, complete_s=time.monotonic()), network, chain)
        _store(publisher, inferred.result)
        report(f"curve {curve.curve_index}: retrieving the phase")
        _store(publisher, phase_curve(inferred, chain))
    publisher.close()
    return publisher.uid


def _store(publisher: RunPublisher, result: Result) -> None:
    """Publish a result; raises `ServiceError` if the disk takes no file."""
    if (problem := publisher.result(result).problem) is not None:
        raise ServiceError(f"{problem}: make room, or give another folder with --out")
