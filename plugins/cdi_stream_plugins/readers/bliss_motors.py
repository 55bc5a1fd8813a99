"""Read the positions of a BLISS scan: motors that moved, motors that stood still, and counters of the beam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from cdi_stream.errors import RecordingError
from cdi_stream_plugins.readers.bliss_names import POSITIONERS, BlissBeamline
from cdi_stream_plugins.readers.bliss_scan import BlissScan, number_of, of_length, text_of, track_of, unit_of

MAX_DETOUR = 1.5
"""Largest path of a motor in one sweep, in units of the distance from its first to its last position.

A sweep with a settling error of a quarter step at each point stays below; a mesh or a scan forth and back lies above 2.
"""

Track = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Motors:
    """Motors and counters of a scan, by name; the first of ``scanned`` is the motor that the scan moved."""

    scanned: Mapping[str, Track]
    baseline: Mapping[str, float]
    units: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def n_points(self) -> int:
        """Number of points that the scan reached."""
        return len(next(iter(self.scanned.values())))


def motors_of(scan: BlissScan, beamline: BlissBeamline | None) -> Motors:
    """Return the motors of a scan, up to the last point at which the scanned motor has a position.

    Raises
    ------
    RecordingError
        If there are no positions, or the scan does not move a motor once from one end to the other.
    """
    group = scan.group.get(POSITIONERS)
    if not isinstance(group, h5py.Group):
        raise RecordingError(f"{scan.place}: expected the motors in {POSITIONERS}, got none: is the file complete?")
    tracks = _tracks(scan, group)
    first = _moved_motor(scan, tracks)
    n = int(np.flatnonzero(np.isfinite(tracks[first]))[-1]) + 1
    baseline = {name: value for name in group if name not in tracks and (value := number_of(group, name)) is not None}
    units = {name: unit for name in group if (unit := unit_of(group, name))}
    at_zero = [] if beamline is None else [c for c in beamline.circles_at_zero if c not in tracks | baseline]
    notes = tuple(f"the file has no motor {circle}: it is taken to stand at 0 deg" for circle in at_zero)
    monitors = {} if beamline is None else _monitors(scan, beamline)
    names = [first, *(name for name in tracks if name != first)]
    return Motors(
        scanned={name: of_length((tracks | monitors)[name], n) for name in [*names, *monitors]},
        baseline=baseline | dict.fromkeys(at_zero, 0.0),
        units=units | dict.fromkeys(at_zero, "deg"),
        notes=(*notes, *_monitor_note(monitors)),
    )


def _tracks(scan: BlissScan, group: h5py.Group) -> dict[str, Track]:
    """Return the motors with several positions; a motor of the command may have them in ``measurement`` alone."""
    tracks = {name: track for name in group if (track := track_of(group, name)) is not None and len(track) > 1}
    measured = scan.group.get("measurement")
    for name in _words(scan):
        if name in group and name not in tracks and isinstance(measured, h5py.Group):
            track = track_of(measured, name)
            tracks |= {} if track is None or len(track) < 2 else {name: track}
    return tracks


def _moved_motor(scan: BlissScan, tracks: Mapping[str, Track]) -> str:
    """Return the motor that the scan's command names first, else a motor that sweeps once from one end to the other."""
    named = [name for name in _words(scan) if name in tracks]
    turning = next((name for name in named if not _is_sweep(tracks[name])), None)
    if turning is not None:
        raise RecordingError(
            f"{scan.place} ({text_of(scan.group, 'title')}): expected a rocking curve, got {turning} going back and "
            "forth or standing still, as in a map: give a scan of one sweep"
        )
    candidates = named or [name for name, track in tracks.items() if _is_sweep(track)]
    if not candidates:
        raise RecordingError(
            f"{scan.place} ({text_of(scan.group, 'title')}): expected a motor with a position for each frame in "
            f"{POSITIONERS}, got {', '.join(tracks) or 'none'}: give a scan that moves a motor"
        )
    return candidates[0]


def _is_sweep(track: Track) -> bool:
    """Return whether a motor moves once from one end to the other, but for small errors."""
    positions = track[np.isfinite(track)]
    if len(positions) < 2:
        return False
    return bool(0 < np.abs(np.diff(positions)).sum() <= MAX_DETOUR * abs(positions[-1] - positions[0]))


def _words(scan: BlissScan) -> list[str]:
    return text_of(scan.group, "title").split()[1:]


def _monitors(scan: BlissScan, beamline: BlissBeamline) -> dict[str, Track]:
    measured = scan.group.get("measurement")
    if not isinstance(measured, h5py.Group):
        return {}
    return {name: track for name in beamline.monitors if (track := track_of(measured, name)) is not None}


def _monitor_note(monitors: Mapping[str, Track]) -> tuple[str, ...]:
    if not monitors:
        return ()
    return (f"the beam is taken to be constant; assemble.monitor may name a counter: {', '.join(monitors)}",)
