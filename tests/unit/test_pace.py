"""Pace: a curve alone has its whole time, and less the more curves wait."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdi_stream.live.pace import FIRST_SHARE, Pace
from tests.unit.test_publish import result


class Line:
    """Curves that wait, and phase retrievals of a given length."""

    def __init__(self, budget_s, *, is_refined=True):
        self.now_s, self.n_waiting = 100.0, 0
        self.pace = Pace(budget_s, lambda: self.n_waiting, is_refined=is_refined, clock=lambda: self.now_s)

    def phase(self, seconds, *, is_truncated=False):
        """Phase a curve; the reasons of its verdict."""

        def retrieve():
            self.now_s += seconds
            made = result("reconstruction")
            return replace(made, metrics=replace(made.metrics, is_truncated=is_truncated))

        return self.pace.run(retrieve).verdict.reasons

    def share(self, n_waiting):
        self.n_waiting = n_waiting
        return self.pace.allowed_share()


def test_a_curve_alone_has_the_whole_time_limit():
    line = Line(30.0)
    assert line.share(0) == 1.0
    line.phase(3.0)
    assert line.share(0) == 1.0


def test_curves_that_came_together_share_the_time_until_few_wait():
    line = Line(30.0)
    line.phase(6.0)
    assert [round(30 * line.share(n), 3) for n in (3, 5, 4, 3)] == [1.5, 1.0, 1.0, 1.0]
    assert [line.share(n) for n in (2, 1, 0)] == [1.0, 1.0, 1.0], "few curves are no pile"
    assert 30 * line.share(3) == pytest.approx(1.5)


def test_while_curves_wait_all_together_take_the_usual_time():
    line = Line(30.0)
    assert line.share(3) == pytest.approx(FIRST_SHARE / 4), "nothing is known of the usual time"
    for seconds in (5.0, 6.0, 60.0):
        line.phase(seconds)
    assert [30 * n * line.share(n - 1) for n in range(4, 20)] == pytest.approx([6.0] * 16)


def test_a_search_that_was_cut_tells_nothing_of_the_usual_time():
    line = Line(30.0)
    line.phase(6.0)
    line.n_waiting = 5
    line.phase(0.2, is_truncated=True)
    assert line.share(5) == pytest.approx(1 / 30)


def test_a_search_is_never_longer_than_its_limit():
    line = Line(2.0)
    line.phase(50.0)
    assert line.share(3) == 0.25


@pytest.mark.parametrize(
    ("n", "is_refined", "text"),
    [
        (3, True, "the search was ended after 1.5 s, since 3 more curves waited; the refinement goes on"),
        (7, False, "the search was ended after 1.5 s, since 7 more curves waited"),
    ],
)
def test_a_search_that_was_cut_says_why(n, is_refined, text):
    line = Line(30.0, is_refined=is_refined)
    line.n_waiting = n
    assert line.phase(1.52, is_truncated=True)[-1] == text
    assert text not in line.phase(1.52)
    line.n_waiting = 0
    assert text not in line.phase(30.0, is_truncated=True)
