"""Heartbeats and claims: files that tell who lives, and who may go on."""

from __future__ import annotations

import os

import pytest

from cdi_stream.refine import pulse as pulse_module
from cdi_stream.refine.claim import HeldClaim, claim_of, new_claim
from cdi_stream.refine.pulse import Beat, Pulse
from cdi_stream.refine.turn import WorkerStopped


class Clock:
    """Clock that is set by hand."""

    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr(pulse_module, "BEAT_S", 0.0)


def test_a_pulse_is_young_while_the_file_changes_whatever_time_it_names(tmp_path):
    path, clock = tmp_path / "alive", Clock()
    pulse = Pulse(path, clock)
    assert not pulse.has_beaten
    for time_s in (5e9, 1.0, 2.0):  # a clock that is set forward, back, and goes on
        clock.now_s += 50.0
        path.touch()
        os.utime(path, (time_s, time_s))
        assert pulse.age_s() == 0.0
    clock.now_s += 7.0
    assert pulse.age_s() == 7.0
    assert pulse.has_beaten


def test_a_beat_touches_at_most_once_in_its_time(tmp_path):
    beat = Beat(tmp_path / "alive")
    beat.touch()
    os.utime(tmp_path / "alive", (1.0, 1.0))
    beat.touch()
    assert (tmp_path / "alive").stat().st_mtime == 1.0
    beat.end()
    assert not (tmp_path / "alive").exists()


def test_a_claim_shows_that_it_is_taken_and_alive(tmp_path, no_pause):
    claim = new_claim(tmp_path, 7)
    assert claim.path == claim_of(tmp_path, 7)
    assert not claim.is_taken()
    held = HeldClaim(claim)
    assert claim.is_taken()
    os.utime(claim.path, (1.0, 1.0))
    held.check()
    assert claim.path.stat().st_mtime > 1.0


@pytest.mark.parametrize(
    "change",
    [lambda claim, folder: claim.end(), lambda claim, folder: new_claim(folder, 7), lambda claim, _: HeldClaim(claim)],
    ids=["cancelled", "given away", "started again elsewhere"],
)
def test_who_has_lost_a_claim_stops_and_does_not_bring_it_back(tmp_path, no_pause, change):
    claim = new_claim(tmp_path, 7)
    held = HeldClaim(claim)
    change(claim, tmp_path)
    before = claim.path.exists()
    with pytest.raises(WorkerStopped):
        held.check()
    assert claim.path.exists() == before


def test_a_claim_of_a_former_attempt_cannot_be_taken(tmp_path):
    claim = new_claim(tmp_path, 7)
    new_claim(tmp_path, 7)
    with pytest.raises(WorkerStopped):
        HeldClaim(claim)
