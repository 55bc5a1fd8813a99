"""The frozen values that travel from stage to stage; each step of the pipeline passes on one type.

Arrays are set read-only on construction.  ``received_s`` and all times of latency are on the monotonic
clock; ``wall_s`` is seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdi_stream.geometry.affine import AffineMap
from cdi_stream.metrics import Metrics

Document = Mapping[str, Any]
"""Bluesky document."""

POINTS_PER_CURVE = "points_per_curve"
"""Key of a start document: number of points of each curve, for a run with several curves."""

PREVIOUS_RUN = "previous_run"
"""Key of a start document: uid of the raw run in which the same crystal was measured before."""

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
    """Header of a detector series, sent before the frames; all values but ``series`` may be absent or wrong.

    ``image_dtype`` is a name such as ``uint16``.  ``goniometer`` maps axis names to (start, increment) in degrees.
    ``pixel_mask`` is true where a pixel may be used; it covers the detector before a region of interest is cut.
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

    ``pixels`` may share the memory of the wire message: copy them before the next message is read.  ``series`` is None
    where the format has no series.  ``wire`` holds the parts of the message from which the decoder makes this frame
    alone; it may be empty.
    """

    series: SeriesId | None
    image_id: int
    pixels: NDArray[Any]
    exposure_s: float | None = None
    wire: tuple[bytes | memoryview, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesEnd:
    """Message of a detector that a series is over."""

    series: SeriesId


WireMessage = SeriesStart | DetectorFrame | SeriesEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameAccount:
    """Numbers of the frames of a curve, and the indices of the missing frames.

    ``received + len(missing) == expected``.
    """

    expected: int
    received: int
    missing: tuple[int, ...] = ()
    duplicate: int = 0
    late: int = 0
    bad: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The Bluesky run of a curve, from its documents; ``is_heard`` is false if no document of the run is known.

    ``sample``, ``plan_name`` and ``motors`` come from the run's start document.  ``metadata`` holds further keys of the
    start document, which this service copies into its own start document.
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
class Reading:
    """A finite number that the run recorded for a device, and its unit; empty if the run states none."""

    value: float
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RockingCurve:
    """All frames of one rocking curve in scan order, with the readings that place them.

    ``counts`` is ``(n_frames, rows, cols)`` raw; rows of missing frames are zero and not in
    ``has_frame``.  ``scanned`` maps a motor (or ``energy``) to its value at each frame, in its own units.
    ``doubts`` are sentences about uncertain steps of the assembly, ``notes`` are sentences that change no verdict.
    ``complete_s`` is the time at which the last frame's message was received.  ``key`` is a name of the curve that does
    not depend on the detector's id of the series.  ``awaited`` are the points whose frames are not measured yet; only a
    curve that is still measured has any.  ``image_ids`` are the places of the frames in the detector's series
    ``(n_frames,)``, -1 for no frame; None if there is no series.
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
    awaited: tuple[int, ...] = ()
    image_ids: NDArray[np.intp] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialCurve:
    """The frames so far of a curve that is still measured, handed over without a copy.

    ``memory`` is the memory of the series ``(n_slots, rows, cols)``, into which later frames are still written.  The
    frame of point k is ``memory[slots[k]]`` where ``curve.has_frame[k]`` is true, and does not change any more; all
    other frames must not be read.  ``curve`` itself has no counts.  ``fraction`` is the fraction of the
    frames at which it was asked for, ``ends_s`` the time at which the last frame is expected (monotonic) [s].
    ``is_preview`` tells whether a preview is to be published; else the work on the frames so far is done ahead.
    """

    curve: RockingCurve
    memory: NDArray[np.uint32]
    slots: NDArray[np.intp]
    fraction: float
    ends_s: float
    is_preview: bool = True

    def in_place(self) -> RockingCurve:
        """Return the curve with its frames where they are if they lie in order, forward or backward, else with a copy.

        Only the frames of ``has_frame`` may be read; they do not change, all other frames may.
        """
        n, places = len(self.slots), np.flatnonzero(self.curve.has_frame)
        for step in (1, -1):
            first = self.slots[places] - step * places
            if not len(places) or (first != first[0]).any() or not self._holds(first[0], first[0] + step * (n - 1)):
                continue
            end = first[0] + step * n
            return replace(self.curve, counts=read_only(self.memory[first[0] : None if end < 0 else end : step]))
        return self.with_counts()

    def _holds(self, *slots: np.intp) -> bool:
        return all(0 <= slot < len(self.memory) for slot in slots)

    def with_counts(self) -> RockingCurve:
        """Return the curve with a copy of its frames, zeros where a frame is not measured."""
        has_frame = self.curve.has_frame
        counts = np.zeros((len(has_frame), *self.memory.shape[1:]), np.uint32)
        counts[has_frame] = self.memory[self.slots[has_frame]]
        return replace(self.curve, counts=read_only(counts))


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveProgress:
    """Progress of a curve that is being measured; ``key`` is the key of its `RockingCurve`."""

    series: SeriesId
    run: RunContext
    curve_index: int
    account: FrameAccount
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedVolume:
    """Counts around the Bragg peak, with their valid voxels, their expected scale and their map to q.

    ``expected_scale`` multiplies the modelled intensity of each voxel (exposure, monitor, white field);
    ``counts`` stay raw.  All three arrays share the shape of ``affine``, in detector coordinates.  ``frame_shifts`` are
    the distances of the frames from even steps ``(n_frames,)`` [steps]; None for even steps.  ``doubts`` are sentences
    about the counts.
    """

    counts: NDArray[np.uint32]
    valid_pixels: NDArray[np.bool_]
    expected_scale: NDArray[np.float32]
    affine: AffineMap
    crystal_extent_m: tuple[float, float, float]
    oversampling: tuple[float, float, float]
    n_bad: int = 0
    n_alien: int = 0
    frame_shifts: NDArray[np.float64] | None = None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabVolume:
    """Measured magnitudes on an orthogonal lab grid, the input of a network; maximum 1, zero where not known."""

    magnitude: NDArray[np.float32]
    valid_pixels: NDArray[np.bool_]
    affine: AffineMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Grade of a result, with the reasons.

    ``grade`` is ``good``, ``doubtful`` or ``failed``; a network's first answer is ``preliminary``.  The grade is the
    worse of two grades: ``crystal`` judges the phase retrieval, ``join`` judges whether frames, angles and run belong
    together.  Both are empty where they were not judged separately.
    """

    grade: str
    reasons: tuple[str, ...] = ()
    crystal: str = ""
    join: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crystal:
    """A complex crystal with the map of its diffraction, its metrics and its verdict.

    ``density`` and ``support`` share the shape of ``affine``.
    """

    density: NDArray[np.complex64]
    support: NDArray[np.bool_]
    affine: AffineMap
    metrics: Metrics
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasedVolume:
    """A measured volume and its reconstructed crystal, both on the measured voxels: the input of a refinement.

    ``doubts`` about the measurement make any verdict doubtful, ``notes`` change no verdict.
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
        Name of the beamline plugin that has these motors, or the beamline written out; None if unknown.
    scanned
        Motors recorded at every frame, ``(n_frames,)`` each; the plan moves the first motor.
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
        Description of the crystal, if the scan is simulated.
    missing
        Points of the scan whose frame is lost, counted from 0.  Their place in ``frames`` holds zeros; motors and
        ``frame_sums`` are as recorded.
    frame_files
        File of each frame, where each is a file of its own; empty text where there is none.
    notes, doubts
        Sentences that change no verdict, and sentences that make a verdict doubtful.
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
    """Content of one event: a crystal in lab coordinates (None: no crystal) with its verdict, frames and metrics.

    ``complete_s`` is the monotonic time of the last frame's message; ``notes`` are texts by name.  ``phased`` holds the
    result on the measured voxels; ``key`` is the key of the curve.  ``readings`` are the readings of the run by data
    key, each the mean over the frames where it was read at the frames.
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
    readings: Mapping[str, Reading] = field(default_factory=dict)
