"""Plans that decide by the reconstruction: count until good, centre the peak, map crystals, follow one crystal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import FailedStatus
from numpy.typing import NDArray

from cdi_stream.errors import InputError
from cdi_stream.messages import PREVIOUS_RUN, Document
from cdi_stream_plugins.bluesky.plans import Metadata, curve_metadata, detector_curve, in_one_run
from cdi_stream_plugins.bluesky.results import ReconstructionResult
from cdi_stream_plugins.bluesky.run_uid import Device, Plan
from cdi_stream_plugins.bluesky.series import INDEX, trends_run

logger = logging.getLogger(__name__)

Positions = Mapping[Device, float]
"""Positions by motor."""


def count_until_good(
    detector: Device,
    motor: Device,
    start: float,
    stop: float,
    num: int,
    *,
    reconstruction: Device,
    budget_s: float,
    exposure_s: float = 1.0,
    exposure: Device = None,
    factor: float = 2.0,
    md: Metadata | None = None,
) -> Plan:
    """Return a plan that measures a rocking curve again, with longer exposures, until the crystal is good.

    All curves are in one run, each with its own series of frames and its own reading in the stream ``reconstruction``.
    The plan ends at the first curve whose verdict is ``good``, or before a curve with which the exposures of all curves
    together would exceed the budget.

    Parameters
    ----------
    detector, motor, start, stop, num
        As in `rocking_curve`.
    reconstruction
        Device that waits for the crystal.
    budget_s
        Largest exposure of all frames together [s], the dose that the crystal may get.
    exposure_s, exposure
        Exposure of a frame in the first curve [s], and the signal of the detector that sets it; without a signal all
        curves have the same exposure.
    factor
        Factor of the exposure from curve to curve.
    md
        Metadata of the run.

    Returns
    -------
    ReconstructionResult
        Result of the last curve.

    Raises
    ------
    InputError
        If not even one curve fits the budget.
    """
    if not num * exposure_s <= budget_s:
        raise InputError(
            f"count_until_good: expected a budget for one curve at least, {num * exposure_s:g} s, got {budget_s:g} s"
        )
    positions = np.linspace(start, stop, num)

    def curves() -> Iterator[Plan]:
        """Yield curves of growing exposure, until the verdict is ``good`` or the budget is spent."""
        spent_s, frame_s = 0.0, exposure_s
        while spent_s + num * frame_s <= budget_s:
            yield _curve_with_exposure(detector, motor, positions, reconstruction, exposure, frame_s)
            spent_s += num * frame_s
            if reconstruction.result.verdict == "good":
                return
            frame_s *= factor if exposure is not None else 1.0

    known = curve_metadata("count_until_good", detector, motor, positions)
    metadata = {key: value for key, value in known.items() if key not in ("num_points", "num_intervals")}
    metadata |= {"budget_s": budget_s, **(md or {})}
    yield from in_one_run(curves(), detector, motor, metadata, reconstruction=reconstruction)
    return reconstruction.result


def recentre(
    detector: Device,
    motor: Device,
    start: float,
    stop: float,
    num: int,
    *,
    intensity: str,
    move_roi: Callable[[float, float], Plan] | None = None,
    centroid: tuple[str, str] | None = None,
    md: Metadata | None = None,
) -> Plan:
    """Return a plan that measures a quick curve and moves the motor, and the detector's region, to its peak.

    Parameters
    ----------
    detector, motor, start, stop, num
        As in `rocking_curve`.
    intensity
        Data key of the detector's total counts.
    move_roi
        Returns a plan that moves the detector's region of interest to a row and a column [pixels].
    centroid
        Data keys of the row and the column of the frame's centroid [pixels], needed by ``move_roi``.
    md
        Metadata of the run.

    Returns
    -------
    float
        Position of the peak: the mean position, weighted by the counts above half of the largest [unit of the motor].

    Raises
    ------
    InputError
        If the detector gives no such reading, or no counts.
    """
    positions = np.linspace(start, stop, num)
    rows: list[Mapping[str, float]] = []

    def note(_: str, doc: Document) -> None:
        """Keep the readings of an event that has the intensity."""
        if intensity in doc["data"]:
            rows.append(doc["data"])

    metadata = {**curve_metadata("recentre", detector, motor, positions), **(md or {})}
    run = in_one_run([detector_curve(detector, motor, positions)], detector, motor, metadata)
    yield from bpp.subs_wrapper(run, {"event": [note]})
    weights = _weights(np.array([float(row[intensity]) for row in rows]), intensity, num)
    peak = float(np.average(positions, weights=weights))
    yield from bps.mv(motor, peak)
    if move_roi is not None and centroid is not None:
        row, col = (float(np.average([float(r[key]) for r in rows], weights=weights)) for key in centroid)
        yield from move_roi(row, col)
    return peak


def map_crystals(
    crystals: Sequence[Positions], measure: Callable[[int], Plan], *, reconstruction: Device = None
) -> Plan:
    """Return a plan that goes from crystal to crystal and measures each; a crystal that fails is skipped.

    Parameters
    ----------
    crystals
        For each crystal the positions of the motors that bring it into the beam.
    measure
        Returns the plan that measures the crystal of a number, from 0.
    reconstruction
        Device whose result after each measurement is returned.

    Returns
    -------
    list of ReconstructionResult
        One for each crystal; the verdict of a crystal that could not be measured is ``none``.
    """
    results: list[ReconstructionResult] = []
    for number, positions in enumerate(crystals):
        try:
            yield from bps.mv(*(item for pair in positions.items() for item in pair))
            yield from measure(number)
            results.append(reconstruction.result if reconstruction is not None else ReconstructionResult())
        except (FailedStatus, TimeoutError, InputError) as error:
            logger.warning("crystal %d of %d is skipped: %r", number + 1, len(crystals), error)
            results.append(ReconstructionResult(reasons=f"not measured: {error!r:.200}"))
    return results


def follow_crystal(
    measure: Callable[[Metadata], Plan],
    num: int,
    *,
    reconstruction: Device,
    change: Callable[[int], Plan] | None = None,
) -> Plan:
    """Return a plan that measures one crystal again and again while its surroundings change.

    The service takes the crystal of the previous run as one of the starts of the next.  After the last measurement,
    also after an error, the plan writes the results as a run of their own (`series.trends_run`).

    Parameters
    ----------
    measure
        Returns the plan of one measurement; it takes the metadata of its run: ``series_uid`` (uid of the series' first
        run, absent in that run), ``series_index`` and ``previous_run``.
    num
        Number of measurements.
    reconstruction
        Device that waits for the crystal.
    change
        Returns the plan that changes temperature, voltage or gas before the measurement of a number, from 0.

    Returns
    -------
    list of ReconstructionResult
        Results in the order of the measurements.
    """
    results: list[ReconstructionResult] = []
    uids: list[str] = []

    def scans() -> Plan:
        """Measure the crystal again and again."""
        for index in range(num):
            if change is not None:
                yield from change(index)
            known = {"series_uid": uids[0], PREVIOUS_RUN: uids[-1]} if uids else {}
            metadata: Metadata = {INDEX: index, **known}
            plan = measure(metadata)
            yield from bpp.subs_wrapper(plan, {"start": [lambda _, doc: uids.append(doc["uid"])]})
            results.append(reconstruction.result)

    def trends() -> Plan:
        """Write the results so far, if there are any."""
        if results:
            yield from trends_run(reconstruction.name, uids[0], results)

    yield from bpp.finalize_wrapper(scans(), trends)
    return results


def _curve_with_exposure(
    detector: Device,
    motor: Device,
    positions: NDArray[np.float64],
    reconstruction: Device,
    exposure: Device,
    frame_s: float,
) -> Plan:
    if exposure is not None:
        yield from bps.abs_set(exposure, frame_s, wait=True)
    yield from detector_curve(detector, motor, positions, reconstruction)


def _weights(counts: NDArray[np.float64], intensity: str, num: int) -> NDArray[np.float64]:
    """Return the counts above half of the largest."""
    if len(counts) != num or not np.max(counts, initial=0.0) > 0:
        raise InputError(
            f"recentre: expected {num} readings {intensity!r} with counts, got {len(counts)} with at most "
            f"{np.max(counts, initial=0.0):g}; which data key has the detector's total counts?"
        )
    return np.where(counts >= counts.max() / 2, counts, 0.0)
