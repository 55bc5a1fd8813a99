"""Bluesky plans for Bragg coherent diffraction."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import get_hinted_fields, root_ancestor
from numpy.typing import NDArray

from cdi_stream.errors import InputError
from cdi_stream.messages import POINTS_PER_CURVE
from cdi_stream_plugins.bluesky.run_uid import Device, Plan, with_run_uid

Metadata = Mapping[str, Any]
"""Metadata of a run."""

logger = logging.getLogger(__name__)


def rocking_curve(
    detector: Device,
    motor: Device,
    start: float,
    stop: float,
    num: int,
    *,
    reconstruction: Device = None,
    md: Metadata | None = None,
    field: str | None = None,
) -> Plan:
    """Return a plan that measures one rocking curve in one run, with one series of frames that carries the run's uid.

    The goniometer (the device of ``motor``, or the motor itself if it has no parent) is read into the stream
    ``baseline``, unless a `bluesky.preprocessors.SupplementalData` has read a baseline.  The detector is staged, read
    at each position, and unstaged before the run ends.

    Parameters
    ----------
    detector
        Detector with one frame for each trigger.
    motor
        Circle that rocks the crystal, or the energy.
    start, stop, num
        First and last position [unit of the motor], and the number of positions.
    reconstruction
        Device whose ``trigger`` waits for this run's crystal (`Reconstruction`); it is read once after the scan into
        the stream ``reconstruction``, while the run is open.
    md
        Metadata of the run.
    field
        Field of the detector for the run's uid, see `with_run_uid`.  A detector without such a field is used
        with a warning; its events must then name the series of frames.

    Raises
    ------
    InputError
        If ``num`` is below 2, or ``start`` and ``stop`` are not two finite numbers.

    Examples
    --------
    >>> RE(rocking_curve(eiger, theta, -0.3, 0.3, 61, md={"sample": "Au 12"}))  # doctest: +SKIP
    """
    if num < 2 or not np.all(np.isfinite([start, stop])) or start == stop:
        raise InputError(f"rocking_curve: expected two different positions and num >= 2, got {start}, {stop}, {num}")
    positions = np.linspace(start, stop, num)
    metadata = {**curve_metadata("rocking_curve", detector, motor, positions), **(md or {})}
    curve = detector_curve(detector, motor, positions, reconstruction)
    return in_one_run([curve], detector, motor, metadata, field=field, reconstruction=reconstruction)


def in_one_run(
    curves: Iterable[Plan],
    detector: Device,
    motor: Device,
    metadata: Metadata,
    *,
    field: str | None = None,
    reconstruction: Device = None,
) -> Plan:
    """Return a plan that opens a run, reads the goniometer into the baseline, and measures the curves one by one.

    ``field`` is the field of the detector for the run's uid, as in `rocking_curve`.  ``reconstruction`` is told which
    run is open.
    """
    streams: list[str] = []

    def measure() -> Plan:
        """Read the baseline, then measure the curves."""
        if "baseline" not in streams:
            yield from bps.trigger_and_read([root_ancestor(motor)], name="baseline")
        for curve in curves:
            yield from curve

    run = bpp.run_wrapper(measure(), md=dict(metadata))
    subscribers = {"descriptor": [lambda _, doc: streams.append(doc["name"])]}
    if hasattr(reconstruction, "on_document"):
        subscribers["all"] = [reconstruction.on_document]
    plan = bpp.subs_wrapper(run, subscribers)
    try:
        return with_run_uid(plan, detector, field)
    except InputError as error:
        if field is not None:
            raise
        logger.warning("%s", error)
        result: Plan = plan
        return result


def detector_curve(
    detector: Device, motor: Device, positions: NDArray[np.float64], reconstruction: Device = None
) -> Plan:
    """Measure one curve inside an open run, in a staging of its own; then wait for its crystal, if asked."""

    def points() -> Plan:
        """Measure all points of the curve."""
        for position in positions.tolist():
            yield from bps.one_1d_step([detector], motor, position)

    yield from bpp.stage_wrapper(points(), [detector, motor])
    if reconstruction is not None:
        yield from wait_for_reconstruction(reconstruction)


def wait_for_reconstruction(reconstruction: Device, stream: str = "reconstruction") -> Plan:
    """Wait for the next crystal of the open run, and read it into a stream of the run.

    Parameters
    ----------
    reconstruction
        Device `Reconstruction` or `AsyncReconstruction`.
    stream
        Name of the stream.

    Returns
    -------
    ReconstructionResult
        Result of the curve; its verdict is ``none`` if no result came in time.
    """
    yield from bps.trigger_and_read([reconstruction], name=stream)
    return getattr(reconstruction, "result", None)


def curve_metadata(plan_name: str, detector: Device, motor: Device, positions: NDArray[np.float64]) -> dict[str, Any]:
    """Return the metadata of a run with one curve, under the names of bluesky's own scans."""
    start, stop, num = float(positions[0]), float(positions[-1]), len(positions)
    return {
        "plan_name": plan_name,
        "plan_args": {"detector": repr(detector), "motor": repr(motor), "start": start, "stop": stop, "num": num},
        "detectors": [detector.name],
        "motors": [motor.name],
        "num_points": num,
        POINTS_PER_CURVE: num,
        "num_intervals": num - 1,
        "hints": {"dimensions": [(get_hinted_fields(motor), "primary")]},
    }
