"""Bluesky plans for Bragg coherent diffraction."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import get_hinted_fields, root_ancestor
from numpy.typing import NDArray

from cdi_stream.errors import InputError
from cdi_stream_plugins.bluesky.run_uid import Plan, with_run_uid

logger = logging.getLogger(__name__)


def rocking_curve(
    detector: Any,
    motor: Any,
    start: float,
    stop: float,
    num: int,
    *,
    reconstruction: Any = None,
    md: Mapping[str, Any] | None = None,
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
        Device whose ``trigger`` waits for this run's crystal; it is read once after the scan into the stream
        ``reconstruction``.
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
    streams: list[str] = []
    curve = _curve(detector, motor, np.linspace(start, stop, num), reconstruction, streams)
    run = bpp.run_wrapper(curve, md={**_metadata(detector, motor, start, stop, num), **(md or {})})
    plan = bpp.subs_wrapper(run, {"descriptor": [lambda _, doc: streams.append(doc["name"])]})
    try:
        return with_run_uid(plan, detector, field)
    except InputError as error:
        if field is not None:
            raise
        logger.warning("%s", error)
        result: Plan = plan
        return result


def _curve(detector: Any, motor: Any, positions: NDArray[np.float64], reconstruction: Any, streams: list[str]) -> Plan:
    """Measure the curve inside an open run; ``streams`` holds the names of the run's streams so far."""
    if "baseline" not in streams:
        yield from bps.trigger_and_read([root_ancestor(motor)], name="baseline")

    def points() -> Plan:
        for position in positions.tolist():
            yield from bps.one_1d_step([detector], motor, position)

    yield from bpp.stage_wrapper(points(), [detector, motor])
    if reconstruction is not None:
        yield from bps.trigger_and_read([reconstruction], name="reconstruction")


def _metadata(detector: Any, motor: Any, start: float, stop: float, num: int) -> dict[str, Any]:
    """Return the metadata of the run, under the names of bluesky's own scans."""
    return {
        "plan_name": "rocking_curve",
        "plan_args": {"detector": repr(detector), "motor": repr(motor), "start": start, "stop": stop, "num": num},
        "detectors": [detector.name],
        "motors": [motor.name],
        "num_points": num,
        "num_intervals": num - 1,
        "hints": {"dimensions": [(get_hinted_fields(motor), "primary")]},
    }
