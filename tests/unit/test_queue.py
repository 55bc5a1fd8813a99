"""The queue of refinements: no job is lost or done twice, whichever process is killed at any moment."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cdi_stream.refine import tables
from cdi_stream.refine.queue import STATES, Queue, open_queue

LEASE_S = 10.0
WORKERS = ("a", "b")


class Clock:
    """Clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / "queue.sqlite3"


@pytest.fixture
def queue(path, clock):
    with contextlib.closing(Queue(path, clock, steady=clock)) as queue:
        yield queue


def add(queue, *keys, priority=0, input="volume.h5"):
    return [queue.enqueue(key, "recipe", {"raw_uid": f"raw of {key}", "n": 1}, input, priority) for key in keys]


def documents(key, n=3):
    return [("start" if k == 0 else "event", {"uid": f"{key}-{k}", "value": k / 7, "list": [k]}) for k in range(n)]


def leased(queue, owner="a"):
    job = queue.lease(owner, LEASE_S)
    assert job is not None
    return job


def computed(queue, key="one", owner="a"):
    add(queue, key)
    job = leased(queue, owner)
    assert queue.complete(job, owner, documents(key))
    return job


def only(queue, state):
    """Return the only job of the queue."""
    (job,) = queue.jobs()
    assert job.state == state
    assert queue.counts() == dict.fromkeys(STATES, 0) | {state: 1}
    return job


# --- waiting and leasing ------------------------------------------------------------------------------------


def test_a_job_keeps_what_it_was_given(queue, clock):
    assert queue.enqueue("key", "network", {"a": [1, {"b": None}], "c": "ö"}, "x.h5", 3)
    job = only(queue, "ready")
    assert (job.key, job.method, job.input, job.priority) == ("key", "network", "x.h5", 3)
    assert job.spec == {"a": [1, {"b": None}], "c": "ö"}
    assert (job.created_s, job.attempts, job.owner, job.error) == (clock.now_s, 0, None, None)


def test_a_job_is_added_once_whatever_became_of_it(queue):
    assert add(queue, "one", "one", "two") == [True, False, True]
    job = leased(queue)
    assert add(queue, "one") == [False]
    queue.complete(job, "a", [])
    queue.finish(job)
    assert add(queue, "one") == [False]
    assert queue.counts()["done"] == queue.counts()["ready"] == 1


def test_the_highest_priority_goes_first_then_the_oldest(queue):
    add(queue, "old", "older than high")
    add(queue, "high", "high too", priority=5)
    add(queue, "low", priority=-1)
    add(queue, "new")
    order = [queue.lease("a", LEASE_S).key for _ in range(6)]
    assert order == ["high", "high too", "old", "older than high", "new", "low"]
    assert queue.lease("a", LEASE_S) is None


def test_a_waiting_job_can_be_put_first(queue):
    add(queue, "one", "two", "three")
    assert queue.prioritise(3, 1)
    assert leased(queue).key == "three"
    assert not queue.prioritise(3, 2)
    assert not queue.prioritise(99, 2)


def test_a_raised_job_is_before_all_others(queue):
    add(queue, "one", "two", "three")
    add(queue, "urgent", priority=7)
    assert queue.put_first(3)
    assert queue.put_first(2)
    assert [leased(queue).key for _ in range(4)] == ["two", "three", "urgent", "one"]
    assert not queue.put_first(99)


def test_a_lease_that_is_no_attempt_does_not_count(queue):
    add(queue, "one")
    job = queue.lease("a", LEASE_S, is_attempt=False)
    assert job.attempts == 0
    queue.give_back(job, "a", attempts=0)
    assert only(queue, "ready").attempts == 0
    queue.give_back(queue.lease("a", LEASE_S, is_attempt=False), "a", attempts=1)
    assert only(queue, "ready").attempts == 1


def test_a_clock_that_is_set_takes_no_lease_away(path):
    wall, steady = Clock(), Clock()
    with contextlib.closing(Queue(path, wall, steady=steady)) as queue:
        add(queue, "one")
        job = leased(queue)
        for jump_s in (1e9, -2e9):
            wall.now_s += jump_s
            assert queue.lease("b", LEASE_S) is None
            assert queue.renew(job, "a", LEASE_S)


def test_a_lease_from_before_a_boot_has_expired(queue, clock):
    clock.now_s = 1e6
    add(queue, "one")
    leased(queue)
    clock.now_s = 5.0
    assert leased(queue, "b").attempts == 2


def test_an_empty_queue_has_no_work(queue):
    assert queue.lease("a", LEASE_S) is None
    assert not queue.has_work()
    assert queue.counts() == dict.fromkeys(STATES, 0)
    assert queue.jobs() == []


def test_a_lease_that_ran_out_goes_to_the_next(queue, clock):
    add(queue, "one")
    first = leased(queue, "a")
    clock.now_s += LEASE_S - 0.1
    assert queue.lease("b", LEASE_S) is None
    clock.now_s += 0.2
    second = leased(queue, "b")
    assert (second.id, second.owner, second.attempts) == (first.id, "b", 2)


def test_a_renewed_lease_lives_on(queue, clock):
    add(queue, "one")
    job = leased(queue)
    for _ in range(5):
        clock.now_s += LEASE_S - 0.1
        assert queue.renew(job, "a", LEASE_S)
    assert queue.lease("b", LEASE_S) is None
    clock.now_s += LEASE_S + 0.1
    assert queue.lease("b", LEASE_S) is not None


def test_who_lost_a_lease_can_do_nothing_with_the_job(queue, clock):
    add(queue, "one")
    lost = leased(queue, "a")
    clock.now_s += LEASE_S + 1
    mine = leased(queue, "b")
    assert not queue.renew(lost, "a", LEASE_S)
    assert not queue.complete(lost, "a", documents("one"))
    queue.fail(lost, "a", "out of memory")
    queue.give_back(lost, "a")
    job = only(queue, "leased")
    assert (job.owner, job.error, job.attempts) == ("b", None, 2)
    assert queue.documents_to_send(job) == []
    assert queue.complete(mine, "b", documents("one"))


def test_a_lease_that_ran_out_but_was_not_taken_is_still_the_owner_s(queue, clock):
    add(queue, "one")
    job = leased(queue)
    clock.now_s += 100 * LEASE_S
    assert queue.complete(job, "a", documents("one"))
    assert queue.lease("b", LEASE_S) is None


def test_a_job_given_back_is_as_it_was(queue):
    add(queue, "one")
    queue.give_back(leased(queue), "a")
    job = only(queue, "ready")
    assert (job.attempts, job.owner) == (0, None)
    assert leased(queue, "b").attempts == 1


def test_a_failed_job_tells_why_and_can_be_tried_again(queue):
    add(queue, "one")
    job = leased(queue)
    queue.fail(job, "a", "no peak")
    assert only(queue, "failed").error == "no peak"
    assert queue.lease("a", LEASE_S) is None
    assert not queue.has_work()
    assert queue.retry(job.id)
    assert (only(queue, "ready").error, only(queue, "ready").attempts) == (None, 0)
    assert leased(queue).id == job.id


def test_a_cancelled_job_is_left_out_until_it_is_wanted_again(queue):
    add(queue, "one", "two")
    assert queue.cancel(1)
    assert leased(queue).key == "two"
    assert queue.retry(1)
    assert leased(queue).key == "one"


def test_a_cancelled_job_is_lost_to_its_worker(queue):
    add(queue, "one")
    job = leased(queue)
    assert queue.cancel(job.id)
    assert not queue.renew(job, "a", LEASE_S)
    assert not queue.complete(job, "a", documents("one"))
    queue.give_back(job, "a")
    queue.fail(job, "a", "late")
    assert (only(queue, "cancelled").owner, only(queue, "cancelled").error) == (None, None)


def test_what_is_being_done_or_is_done_is_neither_cancelled_nor_retried(queue):
    add(queue, "one")
    job = leased(queue)
    for state in ("leased", "computed", "done"):
        assert state == "leased" or not queue.cancel(job.id)
        assert not queue.retry(job.id)
        assert not queue.put_first(job.id)
        assert not queue.prioritise(job.id, 9)
        assert only(queue, state).id == job.id
        queue.complete(job, "a", documents("one"))
        if state == "computed":
            queue.finish(job)
    assert not queue.cancel(99)
    assert not queue.retry(99)


# --- documents ----------------------------------------------------------------------------------------------


def test_documents_lie_beside_their_job_in_their_order(queue):
    job = computed(queue)
    assert queue.documents_to_send(job) == documents("one")
    assert [j.id for j in queue.jobs_to_send("a")] == [job.id]
    assert queue.jobs_to_send("b") == []
    assert queue.has_work()


def test_a_document_that_cannot_be_stored_leaves_all_as_it_was(queue):
    add(queue, "one")
    job = leased(queue)
    with pytest.raises(TypeError):
        queue.complete(job, "a", [*documents("one"), ("event", {"uid": "x", "value": object()})])
    with pytest.raises(KeyError):
        queue.complete(job, "a", [("event", {})])
    assert only(queue, "leased").owner == "a"
    assert queue.documents_to_send(job) == []
    assert queue.complete(job, "a", documents("one"))


def test_a_completion_that_breaks_half_way_is_undone(queue, path):
    job = computed(queue)
    with contextlib.closing(sqlite3.connect(path)) as meddler, meddler:
        meddler.execute("UPDATE jobs SET state = 'leased'")
    with pytest.raises(sqlite3.IntegrityError):  # its documents are there already
        queue.complete(job, "a", documents("one"))
    assert only(queue, "leased").owner == "a"
    assert add(queue, "two") == [True]


def test_a_job_is_completed_once(queue):
    job = computed(queue)
    assert not queue.complete(job, "a", documents("another"))
    assert queue.documents_to_send(job) == documents("one")


def test_documents_that_were_heard_are_not_unheard(queue):
    job = computed(queue)
    queue.mark_delivered("one-1")
    queue.mark_delivered("one-1")
    queue.mark_delivered("somebody else's")
    assert queue.documents_to_send(job) == [documents("one")[0], documents("one")[2]]
    assert queue.jobs()[0].state == "computed"


def test_a_finished_job_waits_for_the_archive_with_all_its_documents(queue):
    job = computed(queue)
    assert queue.jobs_to_archive() == []
    for k in range(3):
        queue.mark_delivered(f"one-{k}")
    queue.finish(job)
    assert only(queue, "done").owner is None
    ((found, stored),) = queue.jobs_to_archive()
    assert (found.id, stored) == (job.id, documents("one"))
    assert not queue.has_work()
    queue.mark_archived(job)
    assert queue.jobs_to_archive() == []


def test_only_a_computed_job_can_be_finished(queue):
    add(queue, "one")
    queue.finish(leased(queue))
    only(queue, "leased")


def test_what_a_dead_worker_left_is_taken_over(queue):
    add(queue, "computed", "leased", "another's")
    first, _, third = leased(queue, "dead"), leased(queue, "dead"), leased(queue, "living")
    queue.complete(first, "dead", documents("computed"))
    assert queue.owners() == {"dead", "living"}
    queue.take_over("dead", "heir")
    assert [(job.state, job.owner) for job in queue.jobs()] == [
        ("computed", "heir"),
        ("ready", None),
        ("leased", "living"),
    ]
    assert queue.owners() == {"heir", "living"}
    assert [job.id for job in queue.jobs_to_send("heir")] == [first.id]
    assert queue.renew(third, "living", LEASE_S)
    assert leased(queue, "heir").key == "leased"


def test_a_worker_takes_over_from_its_own_former_life(queue):
    job = computed(queue)
    add(queue, "two")
    leased(queue, "a")
    queue.take_over("a", "a")
    assert [j.id for j in queue.jobs_to_send("a")] == [job.id]
    assert leased(queue, "a").key == "two"


@pytest.mark.parametrize(
    ("change", "is_needed"),
    [
        (lambda queue, job: None, True),
        (lambda queue, job: queue.fail(job, "a", "x"), True),
        (lambda queue, job: queue.give_back(job, "a"), True),
        (lambda queue, job: queue.give_back(job, "a") or queue.cancel(job.id), True),  # it may be retried
        (lambda queue, job: queue.complete(job, "a", []), False),
        (lambda queue, job: queue.complete(job, "a", []) and queue.finish(job), False),
    ],
    ids=["leased", "failed", "ready", "cancelled", "computed", "done"],
)
def test_an_input_is_needed_while_a_job_may_start_from_it(queue, change, is_needed):
    add(queue, "one", input="x.h5")
    change(queue, leased(queue))
    assert queue.needs_input("x.h5") == is_needed
    assert not queue.needs_input("y.h5")


def test_an_input_is_needed_by_any_of_its_jobs(queue):
    add(queue, "one", "two", input="x.h5")
    queue.complete(leased(queue), "a", [])
    assert queue.needs_input("x.h5")
    queue.complete(leased(queue), "a", [])
    assert not queue.needs_input("x.h5")


# --- old jobs ----------------------------------------------------------------------------------------------------


def done(queue, key, *, is_archived=True, input="volume.h5"):
    add(queue, key, input=input)
    job = leased(queue)
    queue.complete(job, "a", documents(key))
    queue.finish(job)
    if is_archived:
        queue.mark_archived(job)


def keys(queue):
    return [job.key for job in queue.jobs()]


def test_done_jobs_are_deleted_by_age_with_their_documents(queue, clock, path):
    done(queue, "old", input="old.h5")
    clock.now_s += 100.0
    done(queue, "new", input="new.h5")
    clock.now_s += 10.0
    assert queue.prune(50.0, 100) == {"old.h5"}
    assert keys(queue) == ["new"]
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT DISTINCT uid FROM documents ORDER BY seq").fetchall() == [
            ("new-0",), ("new-1",), ("new-2",)
        ]  # fmt: skip
    assert queue.prune(50.0, 100) == set()


def test_done_jobs_are_deleted_by_number_the_oldest_first(queue, clock):
    for key in "abcd":
        clock.now_s += 1.0
        done(queue, key)
    queue.prune(1e9, 2)
    assert keys(queue) == ["c", "d"]
    queue.prune(1e9, 0)
    assert keys(queue) == []


def test_a_deleted_job_is_not_added_again(queue, clock):
    done(queue, "one")
    queue.prune(1e9, 0)
    assert add(queue, "one", "two") == [False, True]
    assert keys(queue) == ["two"]


def test_only_jobs_that_are_over_are_deleted(queue, clock):
    done(queue, "not archived", is_archived=False)
    computed(queue, "computed")
    add(queue, "failed", "cancelled", "leased", "ready", input="shared.h5")
    queue.fail(leased(queue), "a", "why")
    assert queue.cancel(4)
    leased(queue)
    clock.now_s += 1000.0
    assert queue.prune(1.0, 0) == set(), "another job needs the input of the cancelled one"
    assert keys(queue) == ["not archived", "computed", "failed", "leased", "ready"]


def test_a_queue_of_version_1_keeps_its_jobs(path, clock):
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.executescript(tables._SCHEMA)
        database.execute("PRAGMA user_version = 1")
        row = "INSERT INTO jobs (key, method, spec, input, state, created_s, lease_until_s) VALUES "
        database.execute(row + "('one', 'recipe', '{}', 'x.h5', 'leased', 5.0, 1.7e9)")
        database.execute(row + "('two', 'recipe', '{}', 'x.h5', 'cancelled', 6.0, NULL)")
    with contextlib.closing(open_queue(path)) as queue:
        assert [(job.key, job.state) for job in queue.jobs()] == [("one", "leased"), ("two", "cancelled")]
        assert queue.prune(3600.0, 100) == set()
        assert keys(queue) == ["one"]
        assert leased(queue, "b").key == "one", "a lease by the former clock has expired"
    assert not list(path.parent.glob("*.broken"))


# --- files and processes ------------------------------------------------------------------------------------


def test_all_is_there_when_the_queue_is_opened_again(path, clock):
    with contextlib.closing(Queue(path, clock, steady=clock)) as queue:
        computed(queue)
        add(queue, "two", priority=2)
        before = queue.jobs()
    with contextlib.closing(Queue(path, clock, steady=clock)) as queue:
        assert queue.jobs() == before
        assert queue.documents_to_send(before[0]) == documents("one")
        assert leased(queue, "b").key == "two"


def test_a_connection_that_is_not_closed_loses_nothing(path, clock):
    left_open = Queue(path, clock, steady=clock)
    add(left_open, "one")
    with contextlib.closing(Queue(path, clock, steady=clock)) as queue:
        assert leased(queue).key == "one"
        assert left_open.counts()["leased"] == 1
    left_open.close()


def test_two_connections_lease_different_jobs(path, clock):
    with (
        contextlib.closing(Queue(path, clock, steady=clock)) as one,
        contextlib.closing(Queue(path, clock, steady=clock)) as other,
    ):
        add(one, *"abcdef")
        keys = [leased(queue, owner).key for _ in range(3) for queue, owner in ((one, "1"), (other, "2"))]
        assert keys == list("abcdef")
        assert one.lease("1", LEASE_S) is other.lease("2", LEASE_S) is None


@pytest.mark.parametrize("content", [b"no database at all, but longer than a header " * 30, "another version"])
def test_a_file_that_cannot_be_used_is_put_aside(path, content):
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE jobs (id INTEGER)")
    with contextlib.closing(open_queue(path)) as queue:
        assert add(queue, "one") == [True]
    assert len(list(path.parent.glob("*.broken"))) == 1
    with contextlib.closing(open_queue(path)) as queue:
        assert queue.counts()["ready"] == 1


def test_a_file_that_is_only_locked_is_left_alone(path, monkeypatch):
    with contextlib.closing(Queue(path)) as queue:
        add(queue, "one")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 0")
        database.execute("BEGIN IMMEDIATE")
        connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda path, **how: connect(path, **(how | {"timeout": 0.01})))
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            open_queue(path)
    assert not list(path.parent.glob("*.broken"))


WORKER = """
import sys, time
from pathlib import Path
from cdi_stream.refine.queue import Queue
path, owner = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
queue = Queue(path)
for k in range(5):
    queue.enqueue(f"late {k}", "recipe", {}, "x.h5", 1)
while (job := queue.lease(owner, 60.0)) is not None:
    print(job.key)
    time.sleep(0.004)
    assert queue.complete(job, owner, [("event", {"uid": f"{job.key}-{k}"}) for k in range(2)])
queue.close()
"""


def test_two_processes_do_every_job_once(path):
    with contextlib.closing(Queue(path)) as queue:
        queue._db.execute("BEGIN")
        keys = [f"job {k}" for k in range(200)]
        add(queue, *keys)
        queue._db.execute("COMMIT")
        commands = [[sys.executable, "-c", WORKER, str(path), owner] for owner in WORKERS]
        answers = at_once(commands)
        done = [answer.split("\n")[:-1] for answer in answers]
        assert min(map(len, done)) > 10
        assert sorted(done[0] + done[1]) == sorted(keys + [f"late {k}" for k in range(5)])
        assert queue.counts()["computed"] == 205
        assert all(len(queue.documents_to_send(job)) == 2 for job in queue.jobs())


def at_once(commands):
    """Start processes, let them run when all are ready, and return their output."""
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    assert [child.stdout.readline() for child in children] == ["ready\n"] * len(children)
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [child.communicate(timeout=600) for child in children]
    assert [error for _, error in answers] == [""] * len(children)
    return [answer for answer, _ in answers]


OPENER = """
import sys, time
from pathlib import Path
from cdi_stream.refine.queue import Queue
print("ready", flush=True)
sys.stdin.readline()
for k in range(20):
    while time.time() < float(sys.argv[3]) + k / 20:
        pass
    queue = Queue(Path(sys.argv[1]) / f"{k}.sqlite3")
    queue.enqueue(sys.argv[2], "recipe", {}, "x.h5")
    queue.close()
"""


def test_a_new_queue_may_be_opened_by_several_at_once(tmp_path):
    begin_s = time.time() + 0.5
    at_once([[sys.executable, "-c", OPENER, str(tmp_path), owner, str(begin_s)] for owner in ("a", "b")])
    for k in range(20):
        with contextlib.closing(Queue(tmp_path / f"{k}.sqlite3")) as queue:
            assert sorted(job.key for job in queue.jobs()) == ["a", "b"]


# --- against a model ----------------------------------------------------------------------------------------


class QueueMachine(RuleBasedStateMachine):
    """The queue compared with plain dictionaries, through a connection for each worker."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.queues = {owner: self.opened() for owner in WORKERS}
        self.jobs = {}
        self.held = {owner: [] for owner in WORKERS}

    def opened(self):
        queue = Queue(Path(self.folder.name) / "queue.sqlite3", self.clock, steady=self.clock)
        queue._db.execute("PRAGMA synchronous = OFF")  # no test of the disk
        return queue

    def teardown(self):
        for queue in self.queues.values():
            queue.close()
        self.folder.cleanup()

    def mine(self, job, owner):
        return self.jobs[job.id]["state"] == "leased" and self.jobs[job.id]["owner"] == owner

    owners = st.sampled_from(WORKERS)
    picks = st.integers(0, 5)

    @rule(priority=st.integers(0, 2), key=picks)
    def enqueue(self, priority, key):
        is_new = str(key) not in {job["key"] for job in self.jobs.values()}
        assert self.queues["a"].enqueue(str(key), "recipe", {}, "x", priority) == is_new
        if is_new:
            fresh = {"key": str(key), "state": "ready", "priority": priority, "owner": None, "until_s": 0.0, "heard": 0}
            self.jobs[len(self.jobs) + 1] = fresh

    @rule(owner=owners)
    def lease(self, owner):
        free = [
            (-job["priority"], number)
            for number, job in self.jobs.items()
            if job["state"] == "ready" or (job["state"] == "leased" and job["until_s"] < self.clock.now_s)
        ]
        job = self.queues[owner].lease(owner, LEASE_S)
        assert (job and job.id) == (min(free)[1] if free else None)
        if job:
            self.jobs[job.id] |= {"state": "leased", "owner": owner, "until_s": self.clock.now_s + LEASE_S}
            self.held[owner].append(job)

    @rule(seconds=st.sampled_from([1.0, LEASE_S / 2, LEASE_S + 1]))
    def wait(self, seconds):
        self.clock.now_s += seconds

    @rule(owner=owners, pick=picks, what=st.sampled_from(["renew", "complete", "fail", "give_back"]))
    def end_a_lease(self, owner, pick, what):
        if not self.held[owner]:
            return
        job = self.held[owner][pick % len(self.held[owner])]
        is_mine, queue, known = self.mine(job, owner), self.queues[owner], self.jobs[job.id]
        if what == "renew":
            assert queue.renew(job, owner, LEASE_S) == is_mine
        elif what == "complete":
            assert queue.complete(job, owner, documents(job.key, 2)) == is_mine
        elif what == "fail":
            queue.fail(job, owner, "why")
        else:
            queue.give_back(job, owner)
        state = {"renew": "leased", "complete": "computed", "fail": "failed", "give_back": "ready"}[what]
        if is_mine:
            known |= {"state": state, "until_s": self.clock.now_s + LEASE_S if what == "renew" else known["until_s"]}

    @rule(owner=owners, pick=picks)
    def hear(self, owner, pick):
        for job in self.queues[owner].jobs_to_send(owner):
            heard = self.jobs[job.id]["heard"]
            assert len(self.queues[owner].documents_to_send(job)) == 2 - heard
            if heard == 2:
                self.queues[owner].finish(job)
                self.jobs[job.id]["state"] = "done"
            else:
                self.queues[owner].mark_delivered(f"{job.key}-{heard}")
                self.jobs[job.id]["heard"] += 1

    @rule(dead=owners)
    def die(self, dead):
        heir = WORKERS[1 - WORKERS.index(dead)]
        self.queues[dead].close()
        self.queues[dead] = self.opened()
        self.queues[heir].take_over(dead, heir)
        self.held[dead] = []
        for job in self.jobs.values():
            if job["owner"] == dead and job["state"] in ("leased", "computed"):
                job |= {"state": "ready"} if job["state"] == "leased" else {"owner": heir}

    @rule(pick=st.integers(1, 6), what=st.sampled_from(["cancel", "retry"]))
    def operate(self, pick, what):
        source, target = {
            "cancel": (("ready", "leased", "failed"), "cancelled"),
            "retry": (("failed", "cancelled"), "ready"),
        }[what]
        is_possible = pick in self.jobs and self.jobs[pick]["state"] in source
        assert getattr(self.queues["b"], what)(pick) == is_possible
        if is_possible:
            self.jobs[pick]["state"] = target

    @invariant()
    def states_agree(self):
        for queue in self.queues.values():
            assert {job.id: job.state for job in queue.jobs()} == {k: job["state"] for k, job in self.jobs.items()}


QueueMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, derandomize=True, database=None
)
test_any_order_of_events = QueueMachine.TestCase
