"""Each fault of the menu once, at one service: the right volume or a declared one, and the next scan is right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from sim_beamline.faults.menu import MENU
from tests.system.spoiling import spoiled_beamline

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Join, frames missing, duplicate and bad, and a part of the reasons."""

    join: str = "good"
    missing: int = 0
    duplicate: int = 0
    bad: int = 0
    reason: str = ""


WHOLE = Expected()
EXPECTED = {
    "drop": Expected(join="doubtful", missing=3, reason="incomplete: 3 of 32 frames missing"),
    "duplicate": Expected(duplicate=3),
    "reorder": WHOLE,
    "truncate": Expected(join="doubtful", missing=3, reason="3 messages of the detector could not be decoded"),
    "flip": Expected(join="doubtful", reason="hot pixels in single frames"),
    "wrong_shape": Expected(join="doubtful", missing=4, bad=4, reason="incomplete: 4 of 32 frames missing (16, 17"),
    "wrong_dtype": Expected(join="doubtful", missing=4, bad=4, reason="incomplete: 4 of 32 frames missing (16, 17"),
    "late_join": Expected(join="doubtful", missing=5, reason="was not received: the header of series"),
    "interleave": Expected(join="doubtful", reason="the detector began another series"),
    "end_lost": WHOLE,
    "end_twice": WHOLE,
    "stall": WHOLE,
    "stall_long": Expected(join="doubtful", missing=16, reason="the end of the series was lost"),
    "burst": WHOLE,
    "documents_before": WHOLE,
    "frames_lost": Expected(join="doubtful", missing=32, reason="of which no frame came"),
    "documents_after": WHOLE,
    "documents_lost": Expected(join="doubtful", reason="whose documents were not received: no other run fits"),
    "events_lost": Expected(join="doubtful", reason="3 documents of the run were lost on the bus"),
    "start_lost": Expected(join="doubtful", reason="the start document of the run was not received"),
    "stop_lost": WHOLE,
    "clock_skew": WHOLE,
    "clock_jump": WHOLE,
    "abort": Expected(join="doubtful", missing=16, reason="exit_status 'abort' after 16 of 32 points"),
    "detector_restart": Expected(join="doubtful", missing=16, reason="exit_status 'fail' after 16 of 32 points"),
}
"""Outcome of each fault; two are not listed: ``corrupt``, of which a frame is refused or comes altered, and
``proxy_restart``, which loses the documents of a moment, or none."""


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    with spoiled_beamline(tmp_path_factory.mktemp("faults"), has_tiled=False) as line:
        yield line


@pytest.mark.parametrize("name", [name for name in MENU if name != "tiled_restart"])
def test_a_fault_ends_in_the_right_or_a_declared_volume_and_the_next_scan_is_right(line, name):
    outcome = line.measure(name)
    assert not outcome.problems(), outcome
    is_right, after = line.is_next_right()
    assert is_right, after
    if name not in EXPECTED:
        return
    expected, (_, _, missing, duplicate, _, bad) = EXPECTED[name], outcome.counts
    got = Expected(join=outcome.verdict_join, missing=missing, duplicate=duplicate, bad=bad, reason=expected.reason)
    assert (got, expected.reason in outcome.reasons) == (expected, True), outcome


def test_a_tiled_server_that_is_killed_in_mid_scan_gets_the_result_of_the_scan(line):
    line.restart_with_tiled()
    is_right, before = line.is_next_right()
    assert is_right, before
    assert line.is_in_tiled(before)
    outcome = line.measure("tiled_restart")
    assert outcome.is_whole(), outcome
    is_right, after = line.is_next_right()
    assert is_right, after
    assert line.is_in_tiled(outcome)
    assert line.is_in_tiled(after)


def test_the_outcome_of_each_fault_is_known():
    assert MENU.keys() - EXPECTED.keys() == {"corrupt", "proxy_restart", "tiled_restart"}


def test_the_page_of_the_faults_has_every_fault_of_the_menu():
    page = (Path(__file__).parents[2] / "deploy" / "docs" / "reference" / "faults.md").read_text()
    assert not [fault for fault in MENU.values() if f"| `{fault.name}` | {fault.sentence} |" not in page]
