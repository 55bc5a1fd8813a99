"""Tables of the names in BLISS files: detectors and counters of each beamline, and values of a detector's header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cdi_stream.inversion.units import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor:
    """Rows and columns of a detector's full image that have no sensor, each as (first, last + 1)."""

    shape: tuple[int, int]
    gap_rows: tuple[int, int]
    gap_cols: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlissBeamline:
    """Names of one beamline in its BLISS files.

    Parameters
    ----------
    instrument
        Text of ``instrument/name``, in small letters.
    plugin
        Name of the beamline's plugin in the group ``cdi_stream.beamline``.
    detectors
        Detectors of Bragg peaks, with their gaps where these are known; another detector is read only if it is alone.
    circles_at_zero
        Circles that stand at 0 deg if the file has no motor of that name.
    monitors
        Counters of the beam, which a configuration may name in ``assemble.monitor``.
    """

    instrument: str
    plugin: str
    detectors: Mapping[str, Sensor | None]
    circles_at_zero: tuple[str, ...] = ()
    monitors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderValue:
    """Value of the detector's header, and its dataset in the detector's group; ``kind`` if it has a unit.

    Without a unit on record it is in the project's unit of that kind.
    """

    key: str
    dataset: str
    kind: Kind | None = None
    is_positive: bool = True


MAXIPIX = Sensor(shape=(516, 516), gap_rows=(255, 261), gap_cols=(255, 261))
"""Four Timepix chips of 256 x 256 pixels: the double-width pixels at the seams and the gap between are left out."""

BEAMLINES = (
    BlissBeamline(
        instrument="esrf-id01",
        plugin="esrf_id01",
        detectors={"mpx1x4": MAXIPIX, "mpxgaas": MAXIPIX, "eiger2M": None},
        circles_at_zero=("mu",),
        monitors=("mon1", "mon2", "imon", "exp1", "exp2"),
    ),
)

STACKS = ("image", "data")
"""Datasets of a detector's group that may hold its frames; the first that does is read."""

HEADER = (
    HeaderValue(key="pixel_row_m", dataset="y_pixel_size", kind="length"),
    HeaderValue(key="pixel_col_m", dataset="x_pixel_size", kind="length"),
    HeaderValue(key="beam_row", dataset="beam_center_y", is_positive=False),
    HeaderValue(key="beam_col", dataset="beam_center_x", is_positive=False),
    HeaderValue(key="distance_m", dataset="distance", kind="length"),
    HeaderValue(key="count_time_s", dataset="acq_parameters/acq_expo_time"),
    HeaderValue(key="saturation_counts", dataset="saturation_value"),
)
"""Values of the detector's header; x is the direction of columns, y that of rows."""

N_PLANNED = "acq_parameters/acq_nb_frames"
"""Dataset of the detector's group with the number of frames that the scan planned."""

POSITIONERS = "instrument/positioners"
"""Group of a scan with the positions of all motors: an array of those that the scan moved, one number of the others."""

ENERGY = "instrument/monochromator/Energy"
"""Dataset of a scan with the photon energy [eV], used if no motor has it."""
