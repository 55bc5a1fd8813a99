"""The rocking-curve plan, which a real RunEngine runs with simulated devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import bluesky.plan_stubs as bps
import zmq
from bluesky import RunEngine
from bluesky.callbacks.zmq import Publisher
from bluesky.utils import RequestAbort

from cdi_stream.documents.bus import writer
from cdi_stream.messages import Document, RecordedScan
from sim_beamline.devices import Axis, DetectorClient
from sim_beamline.faults.menu import Faults

SETTLE_S = 1.0
"""Pause after connecting [s]; a ZeroMQ publisher loses messages sent before its subscribers are connected."""

AFTER_DOCUMENTS_S = 0.3
"""Pause [s] between the last document of a run and the frames that a fault has held back until then."""

RUN_ENDING = frozenset({"abort", "detector_restart"})
"""Faults that end a run before its last point."""


def rocking_curves(
    scan: RecordedScan,
    detector: DetectorClient,
    axes: dict[str, Axis],
    n_curves: int,
    speed: float | None,
    pause_s: float,
    at_middle: Callable[[], None] = lambda: None,
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
    at_middle
        Called before the middle point of each curve; an error of it ends the run.
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
            if point == n_points // 2:
                at_middle()
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


class PlanSession:
    """RunEngine with a detector and a publisher, both connected for any number of runs.

    Parameters
    ----------
    scan
        Scan that is replayed.
    control_endpoint
        Control socket of the simulated detector.
    documents
        In address of the document proxy.
    prefix, serializer
        Prefix and format of the documents.
    """

    def __init__(
        self,
        scan: RecordedScan,
        control_endpoint: str,
        documents: str,
        prefix: str = "",
        serializer: str = "msgpack",
    ) -> None:
        self._scan = scan
        self._publisher = Publisher(documents, prefix=prefix.encode(), serializer=writer(serializer))
        self._stage = Faults().on_documents()
        self._run_uid = ""
        self._engine = RunEngine({})
        self._engine.subscribe(self._publish)
        self._context = zmq.Context()
        self._detector = DetectorClient(name="detector", control_endpoint=control_endpoint, context=self._context)
        values = {name: float(track[0]) for name, track in scan.scanned.items()} | dict(scan.baseline)
        self._axes = {
            name: Axis(name=name, unit=scan.units.get(name, ""), value=value) for name, value in values.items()
        }
        time.sleep(SETTLE_S)

    def measure(
        self,
        *,
        n_curves: int = 1,
        speed: float | None = None,
        pause_s: float = 0.0,
        faults: Faults | None = None,
        at_middle: Callable[[], None] = lambda: None,
    ) -> str:
        """Run the plan once, and return the run's uid.

        Parameters
        ----------
        n_curves, speed, pause_s, at_middle
            As in `rocking_curves`.
        faults
            Faults of this run; a run that they end is no error.
        """
        faults = faults or Faults()
        self._detector.faults, self._stage = faults, faults.on_documents()
        plan = rocking_curves(self._scan, self._detector, self._axes, n_curves, speed, pause_s, _act(faults, at_middle))
        try:
            self._engine(plan)
        except (RequestAbort, RuntimeError):
            if not RUN_ENDING & set(faults.names):
                raise
        if faults.names:
            time.sleep(AFTER_DOCUMENTS_S)
            self._detector.finish()
        return self._run_uid

    def close(self) -> None:
        """Close the sockets, after the last documents are on their way."""
        self._detector.close()
        time.sleep(0.2)
        self._publisher.close()
        self._context.term()

    def _publish(self, name: str, doc: Document) -> None:
        if name == "start":
            self._run_uid = str(doc["uid"])
        for out_name, out in self._stage((name, doc)):
            self._publisher(out_name, dict(out))


def _act(faults: Faults, at_middle: Callable[[], None]) -> Callable[[], None]:
    """Return what happens at the middle point: the act of the caller, and the abort if it is one of the faults."""

    def act() -> None:
        """Act at the middle point."""
        at_middle()
        if "abort" in faults.names:
            raise RequestAbort

    return act


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
    faults: Faults | None = None,
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
    faults
        Faults of the run.
    """
    session = PlanSession(scan, control_endpoint, documents, prefix, serializer)
    try:
        return session.measure(n_curves=n_curves, speed=speed, pause_s=pause_s, faults=faults)
    finally:
        session.close()
