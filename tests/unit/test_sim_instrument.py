"""Parts of the simulated instrument: axes with play and backlash, sensor, beam."""

from __future__ import annotations

import time
from dataclasses import fields

import numpy as np
import pytest
import zmq

from cdi_stream.errors import InputError
from sim_beamline.diffract import q_sample
from sim_beamline.frame_buffer import FrameBuffer
from sim_beamline.instrument.axis import Axis, AxisModel
from sim_beamline.instrument.beam import Beam
from sim_beamline.instrument.instrument import Instrument
from sim_beamline.instrument.sensor import MASKED, Sensor, SensorModel
from sim_beamline.scan import recorded_scan
from sim_beamline.simplon.camera import Camera
from sim_beamline.station import StationSettings, instrument_of


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def axis(clock, **properties):
    return Axis(AxisModel(unit="deg", **properties), clock, np.random.default_rng(0))


def test_an_axis_moves_at_its_speed(clock):
    theta = axis(clock, value=1.0, speed=2.0)
    theta.move(5.0)
    clock.now_s += 1.5
    assert theta.is_moving
    assert theta.readback == pytest.approx(4.0)
    clock.now_s += 1.0
    assert not theta.is_moving
    assert theta.readback == 5.0


def test_an_axis_can_be_stopped_and_turned(clock):
    theta = axis(clock, value=0.0, speed=1.0)
    theta.move(10.0)
    clock.now_s += 3.0
    theta.stop()
    clock.now_s += 3.0
    assert theta.readback == pytest.approx(3.0)
    theta.move(1.0)
    clock.now_s += 1.0
    assert theta.readback == pytest.approx(2.0)


def test_a_position_outside_the_limits_is_refused(clock):
    with pytest.raises(InputError, match="from -5 to 5 deg, got 6"):
        axis(clock, value=0.0, low=-5.0, high=5.0).move(6.0)


def test_play_shows_after_a_move_in_negative_direction_unless_backlash_is_corrected(clock):
    theta = axis(clock, value=0.0, speed=10.0, play=0.01)
    theta.move(1.0)
    clock.now_s += 1.0
    assert theta.true_position == 1.0
    theta.move(0.5)
    clock.now_s += 1.0
    assert theta.readback == 0.5
    assert theta.true_position == pytest.approx(0.51)
    theta.move(0.4, backlash=0.05)
    clock.now_s += 0.011
    assert theta.is_moving
    clock.now_s += 1.0
    assert theta.readback == theta.true_position == 0.4


def test_stops_are_off_by_the_jitter(clock):
    theta = axis(clock, value=0.0, speed=1e9, jitter=1e-3)
    errors = []
    for _ in range(200):
        theta.move(1.0)
        clock.now_s += 1.0
        errors.append(theta.readback - 1.0)
    assert np.std(errors) == pytest.approx(1e-3, rel=0.2)


def test_the_beam_decays_and_leaves_the_crystal():
    beam = Beam(lifetime_s=100.0, fwhm_um=2.0, drift_um_per_s=(0.1, 0.0))
    assert beam.flux(100.0) == pytest.approx(np.exp(-1))
    assert beam.illumination(0, 0, 0) == 1.0
    assert beam.illumination(0, 0, 10) == pytest.approx(0.5)
    assert beam.illumination(1.0, 0, 10) == pytest.approx(1.0)


def test_the_sensor_marks_what_it_cannot_read():
    model = SensorModel(gap_column=3, n_dead=5, cutoff_counts=500)
    sensor = Sensor((20, 30), model, np.random.default_rng(1))
    expected = np.full((20, 30), 100.0)
    expected[10, 20] = 10_000.0
    counts = sensor.counts(expected)
    assert (counts[:, 3:5] == MASKED).all()
    assert not sensor.mask[:, 3:5].any()
    assert counts[10, 20] == MASKED
    assert (counts[~sensor.mask] % MASKED == 0).all()
    assert counts[sensor.mask & (counts < MASKED)].mean() == pytest.approx(100, rel=0.05)


def test_a_frame_of_the_instrument_is_the_frame_of_the_simulated_scan(clock):
    """At the same angles the instrument, without flaws, sees the intensities of the recorded scan."""
    instrument = instrument_of(StationSettings(is_clean=True), clock)
    scan = recorded_scan("plain")
    frame = int(np.argmax([f[f < MASKED].sum() for f in scan.frames]))
    instrument.axes["theta"].move(float(scan.scanned["theta"][frame]))
    clock.now_s += 1e3
    counts = instrument.expose(5.0).counts.astype(float)
    known = (scan.frames[frame] < MASKED) & scan.pixel_mask
    recorded = scan.frames[frame].astype(float)
    a, b = counts[known], recorded[known]
    assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.999


def test_a_crystal_out_of_the_beam_gives_no_counts(clock):
    instrument = instrument_of(StationSettings(is_clean=True), clock)
    instrument.axes["sample_x"].move(200.0)
    clock.now_s += 1e3
    assert instrument.expose(10.0).counts.sum() == 0


def test_temperature_strains_the_crystal(clock):
    instrument = instrument_of(StationSettings(is_clean=True), clock)
    cold = instrument.crystals[0].at(300.0).phase_range_rad
    assert instrument.crystals[0].at(320.0).phase_range_rad == pytest.approx(cold + 1.0)
    assert q_sample(instrument.experiment, 0).shape == (*instrument.shape, 3)


def test_frames_wait_for_a_receiver_and_are_dropped_when_the_buffer_is_full():
    with zmq.Context() as context, context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
        port = push.bind_to_random_port("tcp://127.0.0.1")
        buffer = FrameBuffer(push, capacity=3)
        for number in range(10):
            buffer.send_multipart([bytes([number])])
            time.sleep(0.02)
        assert buffer.n_dropped == 6  # one is with the thread, three wait
        pull.connect(f"tcp://127.0.0.1:{port}")
        assert [pull.recv() for _ in range(4)] == [b"\0", b"\1", b"\2", b"\3"]
        buffer.close()


class SlowInstrument(Instrument):
    """Instrument that needs a part of the period of a frame to simulate it."""

    def expose(self, exposure_s):
        self.clock.now_s += 0.03
        return super().expose(exposure_s)


class Tape:
    """Keeps what a camera sends, and when."""

    def __init__(self, clock):
        self.clock, self.header, self.sent = clock, {}, []

    def begin(self, faults):
        pass

    def pass_on(self, message):
        self.sent.append((message.kind, self.clock.now_s))


@pytest.fixture
def camera(clock):
    known = instrument_of(StationSettings(is_fast=True, is_clean=True), clock)
    slow = SlowInstrument(**{field.name: getattr(known, field.name) for field in fields(known)})

    def pause(time_s):
        clock.now_s += time_s

    return Camera(slow, Tape(clock), {}, pause)


def test_frames_of_a_series_keep_their_period_so_that_a_fly_scan_has_even_angles(camera):
    camera.put("nimages", 6)
    camera.arm()
    camera.trigger()
    times_s = [time_s for kind, time_s in camera.stream.sent if kind == "image"]
    assert np.diff(times_s) == pytest.approx([0.1] * 5)


def test_the_header_states_the_rocking_axis_if_a_step_is_set(camera):
    camera.arm()
    assert "omega_deg" not in camera.stream.header
    camera.disarm()
    for name, value in (("omega_start", 0.5), ("omega_increment", 0.01)):
        camera.put(name, value)
    camera.arm()
    assert camera.stream.header["omega_deg"] == (0.5, 0.01)
