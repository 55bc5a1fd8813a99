"""A budget that is asked by many: its shares, its own thread, and its end by an exception."""

from __future__ import annotations

import threading
import time

import pytest

from cdi_stream.phasing.deadline import Deadline


class Clock:
    """Stands until it is moved."""

    def __init__(self, now_s: float = 100.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class Stopped(Exception):  # noqa: N818
    pass


def in_another_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_a_share_is_over_when_its_part_has_passed():
    clock = Clock()
    deadline = Deadline(10.0, clock)
    for now_s, over in ((100, []), (104, []), (104.5, [0.4]), (110, [0.4]), (110.5, [0.4, 1.0])):
        clock.now_s = now_s
        assert [share for share in (0.4, 1.0) if deadline.is_over(share)] == over
        assert deadline.is_over() == (1.0 in over)
    assert (deadline.passed_s, deadline.left_s) == (10.5, -0.5)


def test_it_may_have_begun_earlier():
    clock = Clock()
    deadline = Deadline(10.0, clock, begin_s=95.0)
    assert (deadline.passed_s, deadline.left_s) == (5.0, 5.0)
    assert deadline.is_over(0.4)
    assert not deadline.is_over()


def test_a_part_has_the_same_beginning():
    clock = Clock()
    whole = Deadline(10.0, clock)
    clock.now_s = 104.0
    part = whole.part(0.5)
    assert (part.budget_s, part.passed_s, part.left_s) == (5.0, 4.0, 1.0)
    assert (part.part(0.5).left_s, whole.left_s) == (-1.5, 6.0)
    assert (whole.passed_share, part.passed_share, part.part(0.5).passed_share) == (0.4, 0.8, 1.0)
    assert whole.part(0.0).passed_share == 1.0
    clock.now_s = 105.5
    assert part.is_over()
    assert not whole.is_over()


def test_no_budget_is_over_as_soon_as_time_passes():
    clock = Clock()
    deadline = Deadline(0.0, clock)
    clock.now_s += 1e-9
    assert deadline.is_over()
    assert deadline.is_over(0.0)


def test_the_wall_clock_is_the_default():
    deadline = Deadline(60.0)
    assert 0 <= deadline.passed_s < 5
    assert Deadline(1.0, begin_s=time.monotonic() - 2).is_over()


@pytest.mark.parametrize("share", [None, 0.5])
def test_only_its_own_thread_waits_for_its_turn(share):
    waited = []
    deadline = Deadline(10.0, Clock(), wait_turn=lambda: waited.append(threading.get_ident()))
    asked = deadline if share is None else deadline.part(share)
    assert not in_another_thread(asked.is_over)
    assert not waited
    assert not asked.is_over()
    assert waited == [threading.get_ident()]


def test_a_part_made_elsewhere_waits_where_the_whole_does():
    waited = []
    deadline = Deadline(10.0, Clock(), wait_turn=lambda: waited.append(1))
    part = in_another_thread(lambda: deadline.part(0.5))
    in_another_thread(part.is_over)
    assert not waited
    part.is_over()
    assert waited == [1]


def test_what_the_turn_raises_comes_out_and_ends_every_share_in_every_thread():
    def stop():
        raise Stopped

    deadline = Deadline(10.0, Clock(), wait_turn=stop)
    part = deadline.part(0.5)
    assert not in_another_thread(deadline.is_over)
    with pytest.raises(Stopped):
        part.is_over()
    assert in_another_thread(deadline.is_over)
    assert in_another_thread(deadline.part(0.9).is_over)


def test_time_spent_waiting_does_not_count():
    clock = Clock()

    def wait():
        clock.now_s += 11

    deadline = Deadline(10.0, clock, wait_turn=wait)
    part = deadline.part(0.5)
    assert not deadline.is_over()
    assert (deadline.left_s, part.left_s) == (10, 5)
    clock.now_s += 10.5
    assert deadline.is_over()


def test_other_threads_are_held_up_as_long_as_the_one_that_waits():
    waits, may_go = threading.Event(), threading.Event()

    def wait():
        waits.set()
        may_go.wait(10)

    answered = threading.Event()
    other = threading.Thread(target=lambda: (waits.wait(10), deadline.is_over(), answered.set()))
    other.start()
    releaser = threading.Thread(target=lambda: (waits.wait(10), seen.append(answered.wait(0.2)), may_go.set()))
    seen: list[bool] = []
    releaser.start()
    deadline = Deadline(10.0, wait_turn=wait)
    deadline.is_over()
    for thread in (other, releaser):
        thread.join(10)
    assert seen == [False]
    assert answered.is_set()
