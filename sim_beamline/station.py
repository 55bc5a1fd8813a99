"""The simulated beamline as one process: instrument, camera, Channel Access server and REST interface."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import zmq

from sim_beamline.cases import simulated_scan
from sim_beamline.diffract import Experiment, at_frame
from sim_beamline.epics.area_detector import AreaDetector
from sim_beamline.epics.ioc import IocServer
from sim_beamline.frame_buffer import FrameBuffer
from sim_beamline.frame_stream import FrameStream
from sim_beamline.instrument.axis import Axis, AxisModel
from sim_beamline.instrument.beam import Beam
from sim_beamline.instrument.instrument import Instrument
from sim_beamline.instrument.sample import MountedCrystal
from sim_beamline.instrument.sensor import Sensor, SensorModel
from sim_beamline.simplon.camera import Camera
from sim_beamline.simplon.rest import CameraServer
from sim_beamline.spoiled_stream import SpoiledStream

_HC_EV_A = 12398.419843320025


@dataclass(frozen=True, slots=True, kw_only=True)
class StationSettings:
    """Settings of the simulated beamline.

    Parameters
    ----------
    prefix
        Begin of the names of the process variables.
    data
        Address of the stream of frames; the socket binds there.
    rest_port
        Port of the REST interface.
    socket, wire_format, codec
        Kind of the stream's socket, push or pub, and form of its frames.
    case
        Simulated scan whose geometry and crystal are used.
    is_fast
        Whether axes move at once, exposures take no time, and the direct sum has fewer steps.
    is_clean
        Whether beam, crystal, motors and sensor are without imperfections.
    seed
        Seed of all random numbers.
    """

    prefix: str = "SIM:"
    data: str = "tcp://127.0.0.1:31001"
    rest_port: int = 8080
    socket: str = "push"
    wire_format: str = "dectris2"
    codec: str = "bslz4"
    case: str = "plain"
    is_fast: bool = False
    is_clean: bool = False
    seed: int = 1


def instrument_of(settings: StationSettings, clock: Callable[[], float] = time.monotonic) -> Instrument:
    """Return the instrument: three crystals 20 um apart along x, bright, dim, and bright again."""
    rng = np.random.default_rng(settings.seed)
    scan = simulated_scan(settings.case)
    experiment, crystal = scan.experiment, scan.crystal
    flaws = 0.0 if settings.is_clean else 1.0
    mounted = tuple(
        MountedCrystal(
            crystal=replace(crystal, size_m=crystal.size_m * size),
            x_um=20.0 * number,
            brightness=brightness,
            theta_offset_deg=0.02 * number * flaws,
            spin_deg_per_s=2e-5 * flaws,
            phase_per_k=0.05,
        )
        for number, (size, brightness) in enumerate([(1.0, 1.0), (0.9, 0.05), (0.95, 0.8)])
    )
    rows, cols = experiment.shape[1:]
    model = SensorModel(gap_column=14, n_dead=12, n_hot=1, aliens_per_frame=0.02, cutoff_counts=2_000_000)
    return Instrument(
        experiment=experiment,
        rocking=scan.rocking,
        axes={
            name: Axis(model, clock, np.random.default_rng(rng.integers(2**63)))
            for name, model in _axis_models(experiment, settings).items()
        },
        crystals=mounted,
        beam=Beam() if settings.is_clean else Beam(lifetime_s=36_000.0, fwhm_um=2.0, drift_um_per_s=(1e-5, 1e-5)),
        sensor=Sensor((rows, cols), SensorModel() if settings.is_clean else model, rng),
        counts_per_s=2e5,
        pitch_parts=30 if settings.is_fast else 44,
        clock=clock,
        start_s=clock(),
    )


def _axis_models(experiment: Experiment, settings: StationSettings) -> dict[str, AxisModel]:
    """Return the properties of all axes; angles start where the Bragg peak is."""
    speed = 1e9 if settings.is_fast else 1.0
    flaws = 0.0 if settings.is_clean else 1.0
    models = {}
    for name, value in {**experiment.sample_deg, **experiment.arm_deg}.items():
        start = at_frame(value, experiment.shape[0] // 2)
        models[name] = AxisModel(
            unit="deg", value=start, speed=speed, low=-180.0, high=180.0, play=0.002 * flaws, jitter=2e-4 * flaws
        )
    energy_ev = at_frame(experiment.photon_energy_ev, experiment.shape[0] // 2)
    models["energy"] = AxisModel(unit="eV", value=energy_ev, speed=100 * speed, low=5000.0, high=25_000.0)
    for name in ("sample_x", "sample_y"):
        models[name] = AxisModel(unit="um", value=0.0, speed=50 * speed, low=-500.0, high=500.0, jitter=0.01 * flaws)
    models["temperature"] = AxisModel(unit="K", value=300.0, speed=10 * speed, low=4.0, high=1500.0)
    return models


class Station:
    """The running beamline; close it to end its threads and sockets."""

    def __init__(self, settings: StationSettings) -> None:
        self.instrument = instrument_of(settings)
        experiment = self.instrument.experiment
        with ExitStack() as stack:
            context = stack.enter_context(zmq.Context())
            socket = context.socket(zmq.PUSH if settings.socket == "push" else zmq.PUB)
            stack.callback(socket.close, 2000)
            socket.bind(settings.data)
            header: dict[str, object] = {
                "pixel_row_m": experiment.pixel_row_m,
                "pixel_col_m": experiment.pixel_col_m,
                "beam_row": experiment.beam_row,
                "beam_col": experiment.beam_col,
            }
            buffer = FrameBuffer(socket)
            stack.callback(buffer.close)
            images = np.zeros(self.instrument.shape, dtype=np.uint32)
            encoder = FrameStream(buffer, settings.wire_format, settings.codec)
            stream = SpoiledStream(encoder, images, header, self.instrument.sensor.mask)
            pause = _no_pause if settings.is_fast else time.sleep
            self.camera = Camera(self.instrument, stream, header, pause)
            detector = AreaDetector(f"{settings.prefix}eiger:", self.camera, _fixed(experiment), buffer)
            play = 0.0 if settings.is_clean else 0.01
            self.ioc = IocServer(settings.prefix, self.instrument.axes, detector, {self.instrument.rocking: play})
            stack.callback(self.ioc.close)
            self.camera.changed = self.ioc.publish
            rest = CameraServer(self.camera, settings.rest_port)
            stack.callback(rest.close)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """End threads and sockets."""
        self.camera.disarm()
        self._stack.close()


def _no_pause(_: float) -> None:
    """Return at once."""


def _fixed(experiment: Experiment) -> dict[str, float]:
    """Return the numbers of the detector that do not change, by areaDetector's names."""
    energy_ev = at_frame(experiment.photon_energy_ev, 0)
    return {
        "BeamX": experiment.beam_col,
        "BeamY": experiment.beam_row,
        "DetDist": experiment.distance_m,
        "XPixelSize": experiment.pixel_col_m,
        "YPixelSize": experiment.pixel_row_m,
        "Wavelength": _HC_EV_A / energy_ev,
        "ThresholdEnergy": energy_ev / 2,
        "CountCutoff": math.floor(2e6),
    }
