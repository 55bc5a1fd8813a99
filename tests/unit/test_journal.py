from __future__ import annotations

import json

import pytest

from cdi_stream.errors import ConfigError
from cdi_stream.live.journal import Journal
from cdi_stream.messages import CurveProgress, FrameAccount, RunContext


def progress(series=7, received=3):
    account = FrameAccount(expected=10, received=received, missing=tuple(range(received, 10)), duplicate=1)
    return CurveProgress(series=series, run=RunContext(uid="raw", scan_id=4), curve_index=2, account=account)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / "journal.json"


def after_a_kill(path, before):
    """What the next service finds when the first dies after ``before``."""
    journal = Journal(path)
    before(journal)
    journal.close()
    found = Journal(path)
    found.close()
    return found


@pytest.mark.parametrize("series", [7, "01ABC", "with/slash"])
def test_an_open_curve_is_found_broken_with_its_account(path, series):
    (broken,) = after_a_kill(path, lambda j: j.curve_began(progress(series))).broken_curves()
    assert broken.series == series
    assert (broken.run.uid, broken.run.scan_id, broken.curve_index) == ("raw", 4, 2)
    assert broken.account == progress().account
    assert broken.reason.startswith("interrupted")


def test_a_later_note_of_a_curve_replaces_the_first(path):
    def before(journal):
        journal.curve_began(progress(received=3))
        journal.curve_began(progress(received=8))

    (broken,) = after_a_kill(path, before).broken_curves()
    assert broken.account.received == 8


def test_a_curve_or_run_that_ended_is_not_found(path):
    def before(journal):
        journal.curve_began(progress())
        journal.run_began("ours", "raw")
        journal.curve_ended(7)
        journal.run_ended("ours")

    found = after_a_kill(path, before)
    assert found.broken_curves() == []
    assert found.left_runs == {}


def test_the_next_run_of_a_raw_run_is_a_new_attempt_even_after_a_clean_end(path):
    def before(journal):
        assert journal.next_attempt("raw") == 0
        journal.run_began("ours", "raw")
        journal.run_ended("ours")
        assert journal.next_attempt("raw") == 1

    assert after_a_kill(path, before).next_attempt("raw") == 1


def test_runs_left_behind_can_be_ended_one_by_one_while_they_are_gone_through(path):
    def before(journal):
        for uid in ("a", "b", "c"):
            journal.run_began(uid, f"raw-{uid}")

    after_a_kill(path, before)
    journal = Journal(path)
    for uid in journal.left_runs:
        journal.run_ended(uid)
    journal.close()
    assert after_a_kill(path, lambda _: None).left_runs == {}


def test_the_file_is_whole_json(path):
    journal = Journal(path)
    journal.curve_began(progress())
    journal.run_began("ours", "raw")
    journal.close()
    assert json.loads(path.read_text()).keys() == {"curves", "runs", "attempts"}
    assert not list(path.parent.glob("*.part"))


def test_a_broken_file_is_put_aside_and_the_service_starts(path):
    path.parent.mkdir()
    path.write_text("{ half a")
    assert after_a_kill(path, lambda _: None).broken_curves() == []
    assert path.with_suffix(".broken").read_text() == "{ half a"


def test_a_second_service_on_the_same_folder_is_refused(path):
    first = Journal(path)
    with pytest.raises(ConfigError, match=r"another service.*publish\.directory"):
        Journal(path)
    first.close()
    Journal(path).close()
