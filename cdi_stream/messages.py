"""The frozen values that travel from stage to stage; each arrow of the pipeline carries one of them.

Arrays are set read-only on construction.  ``received_s`` and all times of latency are on the monotonic
clock; ``wall_s`` is seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.geometry.affine import AffineMap
from cdi_stream.metrics import Metrics

Document = Mapping[str, Any]
"""Bluesky document."""

POINTS_PER_CURVE = "points_per_curve"
"""Key of a start document: number of points of each curve, for a run with several curves."""

SeriesId = int | str
"""Id of a detector series: number or name."""

Box = tuple[int, int, int, int]
"""Region of interest: first row, row after the last, first column, column after the last."""


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array with writing switched off."""
    array = array.view()
    array.flags.writeable = False
    return array


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesStart:
    """What a detector says before its frames; everything but the series may be absent or wrong.

    ``image_dtype`` is a name such as ``uint16``.  ``goniometer`` maps axis names to (start, increment) in degrees.
    ``pixel_mask`` is true where a pixel may be used, as the wire had it, before any region of interest.
    """

    series: SeriesId
    n_images: int | None = None
    image_shape: tuple[int, int] | None = None
    image_dtype: str | None = None
    roi: Box | None = None
    pixel_mask: NDArray[np.bool_] | None = None
    goniometer: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    photon_energy_ev: float | None = None
    pixel_row_m: float | None = None
    pixel_col_m: float | None = None
    distance_m: float | None = None
    beam_row: float | None = None
    beam_col: float | None = None
    saturation_counts: float | None = None
    count_time_s: float | None = None
    user_data: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorFrame:
    """One image of a series, cut to the region of interest; ``pixels`` is ``(rows, cols)``, raw counts.

    Its memory may belong to the wire message: copy before the next message is read.  ``series`` is None where
    the wire knows no series.  ``wire`` holds those parts of the message from which the decoder makes this frame and no
    other; a decoder may leave it empty.
    """

    series: SeriesId | None
    image_id: int
    pixels: NDArray[Any]
    exposure_s: float | None = None
    wire: tuple[bytes | memoryview, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesEnd:
    """The detector says that a series is over."""

    series: SeriesId


WireMessage = SeriesStart | DetectorFrame | SeriesEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameAccount:
    """Where every frame of a curve went.  ``received + len(missing) == expected``."""

    expected: int
    received: int
    missing: tuple[int, ...] = ()
    duplicate: int = 0
    late: int = 0
    bad: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What is known of the Bluesky run that a curve belongs to; ``is_heard`` is false if nothing is.

    ``sample``, ``plan_name`` and ``motors`` are those of the run's start document, ``metadata`` further keys of it
    that our own start document copies.
    """

    uid: str
    scan_id: int | None = None
    sample: str | None = None
    plan_name: str | None = None
    motors: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    data_groups: tuple[str, ...] = ()
    readings: Mapping[str, float] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    is_heard: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RockingCurve:
    """All frames of one rocking curve in scan order, with the readings that place them.

    ``counts`` is ``(n_frames, rows, cols)`` raw; rows of missing frames are zero and not in
    ``has_frame``.  ``scanned`` maps a motor (or ``energy``) to its value at each frame, in its own units.
    ``doubts`` say how the frames were joined where that was not certain, ``notes`` what is only told; ``complete_s`` is
    when the last frame's message was received.  ``key`` names the curve, whatever the detector calls its series.
    """

    series: SeriesStart
    run: RunContext
    curve_index: int
    counts: NDArray[np.uint32]
    sentinel: int
    has_frame: NDArray[np.bool_]
    scanned: Mapping[str, NDArray[np.float64]]
    monitor: NDArray[np.float64] | None
    exposure_s: NDArray[np.float64] | None = None
    account: FrameAccount
    doubts: tuple[str, ...]
    complete_s: float
    notes: tuple[str, ...] = ()
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveProgress:
    """How far a curve has come while it is being measured; ``key`` names it, whatever the detector calls its series."""

    series: SeriesId
    run: RunContext
    curve_index: int
    account: FrameAccount
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedVolume:
    """Counts about the peak, what may be trusted of them, and where they lie.

    ``expected_scale`` multiplies the modelled intensity of each voxel (exposure, monitor, white field);
    ``counts`` stay raw.  All three arrays share the shape of ``affine``, in detector coordinates.
    """

    counts: NDArray[np.uint32]
    valid_pixels: NDArray[np.bool_]
    expected_scale: NDArray[np.float32]
    affine: AffineMap
    crystal_extent_m: tuple[float, float, float]
    oversampling: tuple[float, float, float]
    n_bad: int = 0
    n_alien: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabVolume:
    """Measured magnitudes on an orthogonal lab grid, for a network to look at; maximum 1, zero if unknown."""

    magnitude: NDArray[np.float32]
    valid_pixels: NDArray[np.bool_]
    affine: AffineMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How far to trust a result, and why.

    ``grade`` is ``good``, ``doubtful`` or ``failed``, of a network's first answer ``preliminary``.  It is the worse of
    ``crystal``, what the phasing says of itself, and ``join``, whether frames, angles and run belong together; both are
    empty where they were not judged apart.
    """

    grade: str
    reasons: tuple[str, ...] = ()
    crystal: str = ""
    join: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crystal:
    """A complex crystal with the map of its diffraction and the numbers that speak of it.

    ``density`` and ``support`` share the shape of ``affine``.
    """

    density: NDArray[np.complex64]
    support: NDArray[np.bool_]
    affine: AffineMap
    metrics: Metrics
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasedVolume:
    """A measured volume with a crystal that explains it, both on the measured voxels: where refinement starts.

    ``doubts`` about the measurement make any verdict doubtful, ``notes`` are only told.
    """

    volume: PreparedVolume
    crystal: Crystal
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedScan:
    """Frames and motors of one rocking curve, enough to play it again.

    Parameters
    ----------
    frames
        Raw counts ``(n_frames, rows, cols)``, unsigned integers.
    beamline
        Name of the beamline plugin that understands the motors, or the beamline written out; None if unknown.
    scanned
        Motors recorded at every frame, ``(n_frames,)`` each; the first is the one that the plan moves.
    baseline, units
        Motors that stood still, and the unit of every motor by name.
    detector
        Header values as the detector would send them: pixel sizes, beam centre, count time and the like.
    pixel_mask, white_field
        Pixels to use ``(rows, cols)``, and relative response.
    times_s
        When each frame was taken, for playing at the recorded pace.
    frame_sums
        Counts of each frame on record beside the frames, such as SPEC's ImageTot; pixels at the data type's maximum
        (gaps) left out.
    truth
        Description of the simulated crystal, if it is one.
    missing
        Points of the scan whose frame is lost, counted from 0.  Their place in ``frames`` holds zeros; motors and
        ``frame_sums`` are as recorded.
    frame_files
        File of each frame, where each is a file of its own; empty text where there is none.
    notes, doubts
        What is only told, and what makes a result doubtful.
    run_uid
        Uid of the Bluesky run that was recorded, where it is known.
    """

    name: str
    frames: NDArray[Any]
    beamline: str | Mapping[str, Any] | None
    scanned: Mapping[str, NDArray[np.float64]]
    baseline: Mapping[str, float]
    units: Mapping[str, str]
    detector: Mapping[str, float] = field(default_factory=dict)
    pixel_mask: NDArray[np.bool_] | None = None
    white_field: NDArray[np.float32] | None = None
    times_s: NDArray[np.float64] | None = None
    frame_sums: NDArray[np.int64] | None = None
    truth: Mapping[str, Any] | None = None
    missing: tuple[int, ...] = ()
    frame_files: tuple[str, ...] = ()
    run_uid: str | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def has_frame(self) -> NDArray[np.bool_]:
        """Whether the frame of each point is there, ``(n_frames,)``."""
        return ~np.isin(np.arange(len(self.frames)), self.missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One event's worth: a crystal in lab coordinates (None: no picture), and how it came about.

    ``complete_s`` is the monotonic time of the last frame's message; ``notes`` are texts by name.  ``phased`` is what
    the result was on the measured voxels; ``key`` names the curve.
    """

    stream: str
    curve_index: int
    series: str
    crystal: Crystal | None
    verdict: Verdict
    account: FrameAccount
    metrics: Metrics
    complete_s: float
    frame_sums: NDArray[np.int64] | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    phased: PhasedVolume | None = None
    key: str = ""
