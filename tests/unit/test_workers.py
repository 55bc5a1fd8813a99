"""Work side by side: in order, one thread each, and no exception is lost."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from cdi_stream.numerics.workers import n_callers, one_thread_each, side_by_side


@pytest.fixture(params=[1, 2, 3])
def n_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("n_items", [0, 1, 2, 7])
def test_results_come_in_the_order_of_the_items(n_threads, n_items):
    def squared(item):
        time.sleep(0.005 * (item % 3))
        return item**2

    assert side_by_side(squared, range(n_items)) == [item**2 for item in range(n_items)]


def test_everyone_has_one_thread_and_the_caller_does_its_part(n_threads):
    def who(item):
        torch.fft.fft(torch.ones(8))
        return threading.get_ident(), torch.get_num_threads()

    found = side_by_side(who, range(6))
    assert {threads for _, threads in found} == {1}
    assert [ident == threading.get_ident() for ident, _ in found] == [k % n_threads == 0 for k in range(6)]
    assert torch.get_num_threads() == n_threads


def test_inside_one_thread_each_there_are_as_many_as_outside(n_threads):
    with one_thread_each() as found:
        assert (found, n_callers(), torch.get_num_threads()) == (n_threads, n_threads, 1)
        idents = side_by_side(lambda item: threading.get_ident(), range(6))
        assert [ident == threading.get_ident() for ident in idents] == [k % n_threads == 0 for k in range(6)]
        assert (n_callers(), torch.get_num_threads()) == (n_threads, 1)
    assert (n_callers(), torch.get_num_threads()) == (n_threads, n_threads)


def test_all_are_at_work_together():
    with one_thread_each() as n_threads:
        pass
    meeting = threading.Barrier(n_threads, timeout=300)
    side_by_side(lambda item: meeting.wait(), range(2 * n_threads))


@pytest.mark.parametrize("broken", range(5))
def test_an_exception_of_any_item_reaches_the_caller(n_threads, broken):
    def work(item):
        if item == broken:
            raise BrokenError(item)
        return item

    with pytest.raises(BrokenError) as found:
        side_by_side(work, range(5))
    assert found.value.args == (broken,)
    assert torch.get_num_threads() == n_threads


def test_what_has_not_begun_when_the_caller_fails_never_does():
    torch.set_num_threads(2)
    begun, is_broken = [], threading.Event()

    def work(item):
        begun.append(item)
        if item == 0:
            is_broken.set()
            raise BrokenError
        is_broken.wait(10)
        time.sleep(0.05)

    with pytest.raises(BrokenError):
        side_by_side(work, range(100))
    assert len(begun) < 5
