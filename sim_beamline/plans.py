"""The rocking-curve plan, which a real RunEngine runs with simulated devices."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import bluesky.plan_stubs as bps
import zmq
from bluesky import RunEngine
from bluesky.callbacks.zmq import Publisher

from cdi_stream.documents.bus import writer
from cdi_stream.messages import RecordedScan
from sim_beamline.devices import Axis, DetectorClient

SETTLE_S = 1.0
"""Pause after connecting [s]; a ZeroMQ publisher loses messages sent before its subscribers are connected."""


def rocking_curves(
    scan: RecordedScan,
    detector: DetectorClient,
    axes: dict[str, Axis],
    n_curves: int,
    speed: float | None,
    pause_s: float,
) -> Iterator[Any]:
    """Open one run, read the baseline, and measure the scan ``n_curves`` times.

    The run's uid is written into the detector's ``user_data`` before it is armed, so that frames and events are joined
    by id.

    Parameters
    ----------
    scan
        Scan that is replayed.
    detector, axes
        Simulated detector, and motors by name.
    n_curves, pause_s
        Number of curves, and pause between two [s].
    speed
        Factor of the recorded speed; None: without pauses.
    """
    moving = [axes[name] for name in scan.scanned]
    still = [axes[name] for name in scan.baseline]
    n_points = len(scan.frames)
    metadata = {
        "plan_name": "rocking_curves",
        "motors": [next(iter(scan.scanned))],
        "detectors": [detector.name],
        "num_points": n_points * n_curves,
        "sample": scan.name,
        **origin(scan),
    }
    uid = yield from bps.open_run(metadata)
    yield from bps.trigger_and_read(still, name="baseline")
    for index in range(n_curves):
        detector.user_data = {"run_uid": uid, "curve_index": index, "n_points": n_points}
        detector.n_images = n_points
        yield from bps.stage(detector)
        for point in range(n_points):
            yield from _pace(scan, point, speed)
            yield from bps.checkpoint()
            for axis, values in zip(moving, scan.scanned.values(), strict=True):
                yield from bps.abs_set(axis, float(values[point]), wait=True)
            detector.point = point
            yield from bps.trigger_and_read([detector, *moving])
        yield from bps.unstage(detector)
        if index + 1 < n_curves:
            yield from bps.sleep(pause_s)
    yield from bps.close_run()


def origin(scan: RecordedScan) -> dict[str, Any]:
    """Return the origin of a replayed run for its start document: ``simulated``, or ``replay_of`` with a known uid."""
    if scan.truth is not None:
        return {"simulated": True}
    recorded_uid = {} if scan.run_uid is None else {"replay_of_uid": scan.run_uid}
    return {"replay_of": scan.name, **recorded_uid}


def _pace(scan: RecordedScan, point: int, speed: float | None) -> Iterator[Any]:
    if speed is not None and scan.times_s is not None and point:
        yield from bps.sleep(float(scan.times_s[point] - scan.times_s[point - 1]) / speed)


def run_plan(
    scan: RecordedScan,
    control_endpoint: str,
    documents: str,
    *,
    n_curves: int,
    speed: float | None,
    pause_s: float,
    prefix: str,
    serializer: str,
) -> str:
    """Run the plan, publish its documents, and return the run's uid.

    Parameters
    ----------
    scan
        Scan that is replayed.
    control_endpoint
        Control socket of the simulated detector.
    documents
        In address of the document proxy.
    n_curves, speed, pause_s
        As in `rocking_curves`.
    prefix, serializer
        Prefix and format of the documents.
    """
    engine = RunEngine({})
    publisher = Publisher(documents, prefix=prefix.encode(), serializer=writer(serializer))
    engine.subscribe(publisher)
    time.sleep(SETTLE_S)
    with zmq.Context() as context:
        detector = DetectorClient(name="detector", control_endpoint=control_endpoint, context=context)
        values = {name: float(track[0]) for name, track in scan.scanned.items()} | dict(scan.baseline)
        axes = {name: Axis(name=name, unit=scan.units.get(name, ""), value=value) for name, value in values.items()}
        try:
            uids = engine(rocking_curves(scan, detector, axes, n_curves, speed, pause_s))
        finally:
            detector.close()
    time.sleep(0.2)
    publisher.close()
    return str(uids[0] if isinstance(uids, tuple) else uids.run_start_uids[0])
