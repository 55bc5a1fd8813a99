"""Pace: a curve is searched, unless curves have piled up."""

from __future__ import annotations

import pytest

from cdi_stream.live.pace import FIRST_SEARCH_S, LONGEST_WAIT, Pace


class Line:
    """Curves that come at a steady pace, and searches of a given length; the time goes on in steps of 0.1 s."""

    def __init__(self, every_s=float("inf")):
        self.now_s = self.next_s = 0.0
        self.every_s = every_s
        self.pace = Pace(lambda: self.now_s)

    def wait(self, seconds, must_end=lambda: False):
        """Let curves come for a time; return whether the time was not ended."""
        for _ in range(round(10 * seconds)):
            while self.now_s >= self.next_s:
                self.pace.arrive()
                self.next_s += self.every_s
            self.now_s += 0.1
            if must_end():
                return False
        return True

    def next_result(self, search_s):
        """Make the result of the next curve: by a search, or within 0.1 s without one; return which."""
        while not self.pace.n_curves:
            self.wait(0.1)
        if self.pace.has_piled_up():
            self.wait(0.1)
            made = "unsearched"
        else:
            self.pace.begin()
            made = "searched" if self.wait(search_s, self.pace.must_end) else "ended"
            if made == "searched":
                self.pace.complete()
        self.pace.leave()
        return made


def pile(n):
    """Pace with ``n`` curves that wait behind the one at work."""
    pace = Pace(lambda: 0.0)
    for _ in range(n + 1):
        pace.arrive()
    return pace


def test_a_pile_is_a_pile_until_no_curve_waits():
    pace = pile(1)
    assert not pace.has_piled_up(), "one may wait"
    pace.arrive()
    answers = []
    for _ in range(3):
        answers.append((pace.n_waiting, pace.has_piled_up()))
        pace.leave()
    assert answers == [(2, True), (1, True), (0, False)]
    pace.arrive()
    assert not pace.has_piled_up()


@pytest.mark.parametrize("every_s", [0.3, 0.5, 1.0, 1.5, 2.5, 5.0])
@pytest.mark.parametrize("first_s", [0.1, 3.0, 30.0])
def test_steady_curves_do_not_end_searches(every_s, first_s):
    """Even if one search took much longer, or much shorter, than is usual."""
    line = Line(every_s)
    line.next_result(first_s)
    made = [line.next_result(3.0) for _ in range(200)]
    assert "searched" in made[:100]
    assert "ended" not in made[100:]


@pytest.mark.parametrize("every_s", [0.3, 1.0, 5.0])
def test_steady_curves_do_not_pile_up(every_s):
    line = Line(every_s)
    waiting = []
    for _ in range(200):
        line.next_result(3.0)
        waiting.append(line.pace.n_waiting)
    assert max(waiting[20:]) <= 3.0 / every_s + 1, "those that came during one search"
    assert min(waiting[-20:]) == 0


def test_a_search_ends_when_a_curve_has_waited_for_too_long():
    line = Line(0.2)
    assert line.next_result(100.0) == "ended"
    assert line.now_s == pytest.approx(LONGEST_WAIT * FIRST_SEARCH_S + 0.2, abs=0.15)
    assert [line.next_result(100.0) for _ in range(5)] == 5 * ["unsearched"]


@pytest.mark.parametrize("is_refined", [True, False])
@pytest.mark.parametrize(("n", "who"), [(7, "7 curves"), (1, "1 curve")])
def test_a_curve_without_a_search_says_why(n, who, is_refined):
    after = "; the refinement goes on" if is_refined else ""
    assert pile(n).reason(is_refined=is_refined) == f"there was no time for a search, since {who} waited{after}"
