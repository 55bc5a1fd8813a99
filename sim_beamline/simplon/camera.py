"""Camera with the states of a DECTRIS detector: idle, armed, acquiring; its frames leave by stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from cdi_stream.errors import InputError
from sim_beamline.faults.fault import Sending
from sim_beamline.faults.menu import Faults
from sim_beamline.instrument.instrument import Exposure, Instrument
from sim_beamline.spoiled_stream import SpoiledStream

MAX_IMAGES = 2_000_000
"""Largest number of images or triggers of a series."""


@dataclass(slots=True, kw_only=True)
class CameraSettings:
    """Settings of the next series, by SIMPLON's names.

    Parameters
    ----------
    nimages
        Number of images for each trigger.
    ntrigger
        Number of triggers of a series.
    count_time, frame_time
        Exposure of an image, and time from image to image [s].
    photon_energy
        Energy of the photons that the thresholds are set for [eV].
    omega_start, omega_increment
        Rocking angle of the first image, and its step [deg]; a step of 0 says nothing.
    header_appendix, image_appendix
        Texts that leave with the start of a series and with each image.
    faults
        Faults of the next series, names of `sim_beamline.faults.menu` separated by commas.
    fault_points
        Number of points of a curve, of which the faults choose theirs.
    """

    nimages: int = 1
    ntrigger: int = 1
    count_time: float = 0.1
    frame_time: float = 0.1
    photon_energy: float = 9000.0
    omega_start: float = 0.0
    omega_increment: float = 0.0
    header_appendix: str = ""
    image_appendix: str = ""
    faults: str = ""
    fault_points: int = 48

    def put(self, name: str, value: object) -> None:
        """Set one value.

        Raises
        ------
        InputError
            If there is no such setting, or the value is of another type or outside its range.
        """
        known = asdict(self)
        if name not in known:
            raise InputError(f"expected one of the settings {', '.join(known)}, got {name!r}")
        kind = type(known[name])
        if isinstance(value, bool) or not isinstance(value, (kind, int) if kind is float else kind):
            raise InputError(f"setting {name}: expected a value of type {kind.__name__}, got {value!r}")
        high = MAX_IMAGES if kind is int else 1e6
        low = 1 if kind is int else (1e-6 if name.endswith("_time") else -1e6)
        if kind is not str and not low <= value <= high:
            raise InputError(f"setting {name}: expected a value from {low:g} to {high:g}, got {value:g}")
        if name == "faults":
            Faults.of(str(value), self.fault_points)
        setattr(self, name, kind(value))


@dataclass(slots=True, kw_only=True)
class CameraState:
    """State of the camera: ``idle``, ``ready`` (armed) or ``acquire``, and its counters."""

    state: str = "idle"
    series: int = 0
    n_in_series: int = 0
    n_triggers: int = 0
    n_images: int = 0
    last: Exposure | None = field(default=None, repr=False)


class Camera:
    """Camera that looks at an instrument.  Safe to use from several threads.

    Parameters
    ----------
    instrument
        Makes the frames.
    stream
        Sends the frames.
    header
        Numbers of the detector in the header of a series, by the names of `cdi_stream.messages.SeriesStart`.
    changed
        Called after each change of state or of a setting.
    pause
        Waits for a time [s]: `time.sleep`, or nothing where the simulation shall be fast.
    """

    def __init__(
        self,
        instrument: Instrument,
        stream: SpoiledStream,
        header: dict[str, object],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.settings = CameraSettings()
        self.state = CameraState(series=int(time.time()) % 10**8)
        self.instrument = instrument
        self.stream = stream
        self.changed: Callable[[], None] = lambda: None
        self._header = header
        self._pause = pause
        self._clock = instrument.clock
        self._lock = threading.RLock()
        self._is_over = threading.Event()

    def put(self, name: str, value: object) -> None:
        """Change a setting; see `CameraSettings.put`.  Only an idle camera takes new settings, but for the exposure."""
        if self.state.state != "idle" and name not in ("count_time", "frame_time", "image_appendix"):
            raise InputError(f"setting {name}: expected an idle camera, its state is {self.state.state}; disarm first")
        with self._lock:
            self.settings.put(name, value)
        self.changed()

    def arm(self) -> int:
        """Start a series: send its header, and return its number."""
        with self._lock:
            if self.state.state != "idle":
                self.disarm()
            settings = self.settings
            self.state.series += 1
            self.state.n_in_series = self.state.n_triggers = 0
            self._is_over.clear()
            self.stream.header = {**self._header, "count_time_s": settings.count_time, **_omega(settings)}
            self.stream.begin(Faults.of(settings.faults, settings.fault_points, self.state.series))
            n_images, user_data = settings.nimages * settings.ntrigger, settings.header_appendix or None
            start = Sending(kind="start", series=self.state.series, n_images=n_images, user_data=user_data)
            self.stream.pass_on(start)
            self.state.state = "ready"
        self.changed()
        return self.state.series

    def trigger(self) -> None:
        """Take and send the images of one trigger; the series ends after its last trigger.

        Raises
        ------
        InputError
            If the camera is not armed.
        """
        with self._lock:
            if self.state.state != "ready":
                raise InputError(f"trigger: expected an armed camera, its state is {self.state.state}; send arm first")
            self.state.state = "acquire"
        self.changed()
        begin_s = self._clock()
        for number in range(self.settings.nimages):
            if self._is_over.is_set():
                break
            self._take(begin_s + number * max(self.settings.count_time, self.settings.frame_time))
        with self._lock:
            if self.state.state == "acquire":
                self.state.state = "ready"
            self.state.n_triggers += 1
            if self.state.n_triggers >= self.settings.ntrigger:
                self.disarm()
        self.changed()

    def disarm(self) -> None:
        """End the series, if one is open."""
        self._is_over.set()
        with self._lock:
            if self.state.state != "idle":
                self.stream.pass_on(Sending(kind="end", series=self.state.series))
                self.state.state = "idle"
        self.changed()

    def abort(self) -> None:
        """End the series at once, without its end message, as a detector that loses power does."""
        self._is_over.set()
        with self._lock:
            self.state.state = "idle"
        self.changed()

    def _take(self, begin_s: float) -> None:
        """Expose in the middle of the exposure that begins at a time, and send the frame when the frame is over."""
        count_time = self.settings.count_time
        self._wait_until(begin_s + count_time / 2)
        exposure = self.instrument.expose(count_time)
        self._wait_until(begin_s + max(count_time, self.settings.frame_time))
        with self._lock:
            if self._is_over.is_set():
                return
            state = self.state
            self.stream.pass_on(
                Sending(
                    kind="image",
                    series=state.series,
                    image_id=state.n_in_series,
                    number=state.n_images,
                    pixels=exposure.counts,
                )
            )
            state.n_in_series += 1
            state.n_images += 1
            state.last = exposure
        self.changed()

    def _wait_until(self, time_s: float) -> None:
        """Wait until a time on the instrument's clock: the simulation of a frame takes a part of its period."""
        self._pause(max(0.0, time_s - self._clock()))


def _omega(settings: CameraSettings) -> dict[str, object]:
    """Return the entry of the header for the rocking axis, if a step is set."""
    if not settings.omega_increment:
        return {}
    return {"omega_deg": (settings.omega_start, settings.omega_increment)}
