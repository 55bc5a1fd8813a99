"""Locks that pause workers, and that end with the process that holds them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cdi_stream.refine import turn as turn_module
from cdi_stream.refine.turn import Turn, UrgentLock, WorkerStopped, orphan_lock, slot

PATIENCE_S = 300.0

HOLDER = """
import sys, time
from pathlib import Path
from cdi_stream.refine.turn import Turn, UrgentLock, slot
folder, what = Path(sys.argv[1]), sys.argv[2]
if what == "urgency":
    UrgentLock(folder).begin()
    print("held", flush=True)
    time.sleep(60)
with slot(folder) as name:
    print(name, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def child(tmp_path):
    """Start processes that hold a lock in ``tmp_path``; they are killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(what):
            command = [sys.executable, "-c", HOLDER, str(tmp_path), what]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            return process, process.stdout.readline().strip()

        yield start


@pytest.fixture
def urgency(tmp_path):
    with contextlib.closing(UrgentLock(tmp_path)) as urgency:
        yield urgency


class Sleep:
    """Counts the waits of a turn, and stops it at the end."""

    def __init__(self, n_looks=10) -> None:
        self.n = 0
        self._n_looks = n_looks

    def __call__(self, seconds) -> None:
        self.n += 1

    def is_stopped(self) -> bool:
        return self.n >= self._n_looks


def killed(process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait(PATIENCE_S)


def is_held_up(folder):
    """Whether a worker would have to wait now."""
    sleep = Sleep()
    with contextlib.closing(Turn(folder, sleep.is_stopped, sleep)) as turn:
        try:
            turn.wait()
        except WorkerStopped:
            assert sleep.n == 10
            return True
    assert sleep.n == 0
    return False


def owner_is_dead(folder, owner):
    with orphan_lock(folder, owner) as is_orphaned:
        return is_orphaned


# --- turns --------------------------------------------------------------------------------------------------


def test_a_worker_has_its_turn_when_nothing_is_urgent(tmp_path):
    assert not is_held_up(tmp_path)


def test_urgency_holds_workers_up_until_its_end(tmp_path, urgency):
    for _ in range(2):
        urgency.begin()
        assert is_held_up(tmp_path)
        assert is_held_up(tmp_path)
        urgency.end()
        assert not is_held_up(tmp_path)


def test_beginning_and_ending_twice_changes_nothing(tmp_path, urgency):
    urgency.end()
    urgency.begin()
    urgency.begin()
    assert is_held_up(tmp_path)
    urgency.end()
    assert not is_held_up(tmp_path)
    urgency.end()
    assert not is_held_up(tmp_path)


def test_urgency_that_is_closed_is_over(tmp_path):
    urgency = UrgentLock(tmp_path)
    urgency.begin()
    urgency.close()
    assert not is_held_up(tmp_path)


def test_a_worker_that_waits_goes_on_when_the_urgency_ends(tmp_path, urgency):
    urgency.begin()
    went_on = threading.Event()

    def work():
        with contextlib.closing(Turn(tmp_path, lambda: False)) as turn:
            turn.wait()
        went_on.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not went_on.wait(0.1)
    urgency.end()
    assert went_on.wait(PATIENCE_S)
    thread.join()


def test_a_turn_does_something_meanwhile(tmp_path, urgency):
    urgency.begin()
    calls, sleep = [], Sleep(4)
    with contextlib.closing(Turn(tmp_path, sleep.is_stopped, sleep)) as turn, pytest.raises(WorkerStopped):
        turn.wait(lambda: calls.append(1))
    assert len(calls) == 4


def test_a_worker_told_to_stop_stops_though_it_is_its_turn(tmp_path):
    with contextlib.closing(Turn(tmp_path, lambda: True)) as turn, pytest.raises(WorkerStopped):
        turn.wait()


def test_urgency_does_not_wait_for_workers_that_look_all_the_time(tmp_path, urgency):
    stop = threading.Event()

    def look():
        with contextlib.closing(Turn(tmp_path, stop.is_set)) as turn, contextlib.suppress(WorkerStopped):
            while True:
                turn.wait()

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    took_s = []
    for _ in range(20):
        begin_s = time.monotonic()
        urgency.begin()
        took_s.append(time.monotonic() - begin_s)
        urgency.end()
    stop.set()
    for thread in threads:
        thread.join()
    assert sorted(took_s)[10] < 0.05


def test_urgency_of_another_process_ends_when_it_is_killed(tmp_path, child):
    process, said = child("urgency")
    assert said == "held"
    assert is_held_up(tmp_path)
    killed(process)
    assert not is_held_up(tmp_path)


# --- slots --------------------------------------------------------------------------------------------------


def test_every_worker_has_a_slot_of_its_own(tmp_path, child):
    with slot(tmp_path) as first, slot(tmp_path) as second:
        _, third = child("slot")
        assert [first, second, third] == ["worker_0", "worker_1", "worker_2"]


def test_a_slot_that_is_left_is_taken_again(tmp_path):
    with slot(tmp_path) as first, slot(tmp_path):
        pass
    with slot(tmp_path) as again:
        assert again == first


def test_a_slot_is_left_by_an_error_too(tmp_path):
    with pytest.raises(KeyError), slot(tmp_path):
        raise KeyError
    with slot(tmp_path) as again:
        assert again == "worker_0"


def test_a_killed_worker_is_dead_and_its_slot_free(tmp_path, child):
    process, name = child("slot")
    assert not owner_is_dead(tmp_path, name)
    with slot(tmp_path) as other:
        assert other == "worker_1"
        killed(process)
        assert owner_is_dead(tmp_path, name)
        assert not owner_is_dead(tmp_path, other)
    with slot(tmp_path) as again:
        assert again == name
        assert not owner_is_dead(tmp_path, again)


def test_a_worker_that_ends_by_itself_is_dead_too(tmp_path, child):
    process, name = child("slot")
    process.communicate("\n", timeout=PATIENCE_S)
    assert process.returncode == 0
    assert owner_is_dead(tmp_path, name)


def test_an_owner_that_never_was_is_dead(tmp_path):
    assert owner_is_dead(tmp_path, "worker_7")


def test_nobody_takes_a_slot_while_its_dead_owner_is_buried(tmp_path):
    with orphan_lock(tmp_path, "worker_0") as is_orphaned, slot(tmp_path) as name:
        assert is_orphaned
        assert name == "worker_1"
    with slot(tmp_path) as name:
        assert name == "worker_0"


def test_too_many_workers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(turn_module, "MAX_SLOTS", 2)
    with slot(tmp_path), slot(tmp_path), pytest.raises(OSError, match="fewer than 2 workers"), slot(tmp_path):
        pass


def test_no_handle_is_left_open(tmp_path):
    def n_open():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - of this process

    before = n_open()
    for _ in range(5):
        with slot(tmp_path), slot(tmp_path):
            owner_is_dead(tmp_path, "worker_0")
        is_held_up(tmp_path)
    assert n_open() == before
