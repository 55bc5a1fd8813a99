"""What one service writes down, the next one finds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cdi_stream.live.journal import Journal
from cdi_stream.messages import CurveProgress, FrameAccount, RunContext

ACCOUNT = FrameAccount(expected=61, received=58, missing=(3, 4, 60), duplicate=1, late=2, bad=5)
PROGRESS = CurveProgress(series=7, run=RunContext(uid="run-a", scan_id=12), curve_index=2, account=ACCOUNT)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / "journal.json"


def test_a_first_service_finds_nothing(path):
    journal = Journal(path)
    assert journal.broken_curves() == []
    assert journal.left_runs == {}


def test_an_open_curve_is_found_broken_with_its_account(path):
    Journal(path).curve_began(PROGRESS)
    (broken,) = Journal(path).broken_curves()
    assert (broken.series, broken.curve_index, broken.account) == (7, 2, ACCOUNT)
    assert (broken.run.uid, broken.run.scan_id) == ("run-a", 12)
    assert broken.reason.startswith("interrupted")


@pytest.mark.parametrize("series", [7, "01ABC", "with/slash"])
def test_the_series_keeps_its_name_and_type(path, series):
    Journal(path).curve_began(replace(PROGRESS, series=series))
    assert [broken.series for broken in Journal(path).broken_curves()] == [series]


def test_a_later_note_of_a_curve_replaces_the_first(path):
    journal = Journal(path)
    journal.curve_began(PROGRESS)
    journal.curve_began(replace(PROGRESS, account=replace(ACCOUNT, received=61, missing=())))
    assert [broken.account.received for broken in Journal(path).broken_curves()] == [61]


def test_a_curve_that_ended_is_not_found(path):
    journal = Journal(path)
    journal.curve_began(PROGRESS)
    journal.curve_began(replace(PROGRESS, series=8))
    journal.curve_ended(7)
    assert [broken.series for broken in Journal(path).broken_curves()] == [8]


def test_what_was_left_stays_until_it_is_settled(path):
    Journal(path).curve_began(PROGRESS)
    Journal(path).curve_began(replace(PROGRESS, series=8))
    third = Journal(path)
    assert [broken.series for broken in third.broken_curves()] == [7, 8]
    third.curve_ended(7)
    third.curve_ended(8)
    assert Journal(path).broken_curves() == []


def test_an_open_run_is_found_with_its_attempt(path):
    Journal(path).run_began("ours", "raw", 1)
    assert Journal(path).left_runs == {"ours": {"raw_uid": "raw", "attempt": 1}}


def test_a_run_that_ended_is_not_found(path):
    journal = Journal(path)
    journal.run_began("ours", "raw", 0)
    journal.run_ended("ours")
    assert Journal(path).left_runs == {}


def test_runs_left_behind_can_be_ended_one_by_one(path):
    first = Journal(path)
    for uid in ("a", "b", "c"):
        first.run_began(uid, f"raw-{uid}", 0)
    second = Journal(path)
    for uid in second.left_runs:
        second.run_ended(uid)
    assert Journal(path).left_runs == {}


def test_what_was_left_is_told_apart_from_what_is_new(path):
    Journal(path).run_began("old", "raw", 0)
    second = Journal(path)
    second.run_began("new", "raw", 1)
    second.run_ended("old")
    assert list(second.left_runs) == ["old"]
    assert list(Journal(path).left_runs) == ["new"]


def test_ending_what_never_began_changes_nothing(path):
    journal = Journal(path)
    journal.curve_ended(99)
    journal.run_ended("never")
    assert not path.exists()


def test_the_file_is_whole_json_with_nothing_beside_it(path):
    journal = Journal(path)
    journal.curve_began(PROGRESS)
    journal.run_began("ours", "raw", 0)
    assert set(json.loads(path.read_text())) == {"curves", "runs"}
    assert [file.name for file in path.parent.iterdir()] == ["journal.json"]
