"""What operators do to the queue, as the command line and the dashboard do it."""

from __future__ import annotations

import contextlib

import pytest

from cdi_stream.errors import InputError
from cdi_stream.refine.control import cancel_job, list_jobs, prioritise_job, raise_job, retry_job
from cdi_stream.refine.desk import QueueDesk
from cdi_stream.refine.queue import QUEUE, Queue
from tests.refinements import enqueue_jobs


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    enqueue_jobs(folder, range(3), "1*ER")
    return folder


@pytest.fixture
def folder(filled, tmp_path):
    with contextlib.closing(Queue(filled / QUEUE)) as source, contextlib.closing(Queue(tmp_path / QUEUE)) as target:
        source._db.backup(target._db)
    return tmp_path


def states(folder):
    return {entry.job: entry.state for entry in list_jobs(folder).jobs}


def order(folder):
    with contextlib.closing(Queue(folder / QUEUE)) as queue:
        return [queue.lease("worker", 60.0).id for _ in range(3)]


def test_all_jobs_are_listed(folder):
    created_s = list_jobs(folder, now=lambda: 0.0).jobs[0].age_s
    found = list_jobs(folder, now=lambda: 10.0)
    assert found.counts["ready"] == 3
    first = found.jobs[0]
    assert (first.job, first.state, first.method, first.raw_uid, first.curve_index) == (
        1,
        "ready",
        "recipe",
        "raw-0",
        0,
    )
    assert (first.priority, first.attempts, first.owner, first.error) == (0, 0, None, None)
    assert first.age_s == pytest.approx(created_s + 10.0)
    assert list_jobs(folder, "failed").jobs == ()


def test_a_raised_job_is_next(folder):
    raise_job(folder, 3)
    assert order(folder) == [3, 1, 2]


def test_a_job_of_higher_priority_is_next(folder):
    prioritise_job(folder, 2, 5)
    prioritise_job(folder, 1, -1)
    assert order(folder) == [2, 3, 1]


def test_a_job_is_cancelled_and_comes_back(folder):
    cancel_job(folder, 2)
    assert states(folder) == {1: "ready", 2: "cancelled", 3: "ready"}
    retry_job(folder, 2)
    assert states(folder)[2] == "ready"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder, job: retry_job(folder, job), "failed or cancelled"),
        (lambda folder, job: raise_job(folder, 99), "ready"),
        (lambda folder, job: prioritise_job(folder, 99, 1), "ready"),
        (lambda folder, job: cancel_job(folder, 99), "ready, leased or failed"),
    ],
    ids=["retry", "raise", "prioritise", "cancel"],
)
def test_a_change_that_is_not_possible_says_what_is(folder, change, expected):
    with pytest.raises(InputError, match=rf"job \d+: expected a job that is {expected}, got another"):
        change(folder, 1)
    assert set(states(folder).values()) == {"ready"}


def test_a_state_that_does_not_exist_is_refused(folder):
    with pytest.raises(InputError, match="expected one of ready, leased"):
        list_jobs(folder, "waiting")


def test_a_folder_without_a_queue_stays_without(tmp_path):
    with pytest.raises(InputError, match=r"queue\.sqlite3 does not exist"):
        list_jobs(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_desk_lists_the_jobs_in_their_order_and_changes_them(folder):
    desk = QueueDesk(folder)
    assert [(job["id"], job["state"], job["raw_uid"]) for job in desk.jobs(10)][:3] == [
        (1, "ready", "raw-0"),
        (2, "ready", "raw-1"),
        (3, "ready", "raw-2"),
    ]
    assert desk.change(3, "raise") is True
    assert desk.change(1, "cancel") is True
    assert desk.change(1, "cancel") is False
    assert desk.change(2, "retry") is False
    assert desk.change(99, "raise") is None
    assert [(job["id"], job["state"]) for job in desk.jobs(10)] == [(3, "ready"), (2, "ready"), (1, "cancelled")]
    assert desk.change(1, "retry") is True
    assert len(desk.jobs(2)) == 2


def test_a_folder_without_a_queue_has_no_jobs(tmp_path):
    assert QueueDesk(tmp_path).jobs(10) == []
    assert QueueDesk(tmp_path).change(1, "raise") is None
    assert list(tmp_path.iterdir()) == []
