"""Pace: a curve is searched, unless curves have piled up."""

from __future__ import annotations

import pytest

from cdi_stream.live.pace import TOLERATED, Pace


class Line:
    """Curves that wait."""

    def __init__(self, *, is_refined=True):
        self.n_waiting = 0
        self.pace = Pace(lambda: self.n_waiting, is_refined=is_refined)

    def is_hurried(self, n_waiting):
        self.n_waiting = n_waiting
        return self.pace.is_hurried()


def test_few_curves_are_no_pile():
    line = Line()
    assert not any(line.is_hurried(n) for n in (0, 1, TOLERATED, 0))


def test_a_pile_is_a_pile_until_no_curve_waits():
    line = Line()
    answers = [line.is_hurried(n) for n in (1, 2, 5, 3, 2, 1, 0, 1, 0)]
    assert answers == [False, True, True, True, True, True, False, False, False]


@pytest.mark.parametrize("is_refined", [True, False])
@pytest.mark.parametrize(("n", "who"), [(7, "7 curves"), (1, "1 curve"), (0, "other curves")])
def test_a_curve_without_a_search_says_why_even_if_it_is_the_last_of_the_pile(n, who, is_refined):
    line = Line(is_refined=is_refined)
    line.n_waiting = n
    after = "; the refinement goes on" if is_refined else ""
    assert line.pace.reason() == f"there was no time for a search, since {who} waited{after}"
