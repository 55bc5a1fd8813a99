"""Loops in parts: each item once, and errors of any part reach the caller."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cdi_stream.numerics.parts import LEAST_LENGTH, in_parts


@pytest.fixture(params=[1, 2, 5])
def n_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(("length", "least"), [(0, 1), (1, 1), (3, 2), (17, 2), (LEAST_LENGTH, LEAST_LENGTH), (10, 11)])
def test_each_item_is_in_one_part(n_threads, length, least):
    done, parts = np.zeros(length, dtype=int), []

    def work(begin, end):
        parts.append((begin, end))
        done[begin:end] += 1

    in_parts(work, length, least)
    assert (done == 1).all()
    assert len(parts) == (1 if length < max(least, 2) else min(n_threads, length))


@pytest.mark.parametrize("broken", [0, 1])
def test_an_error_in_a_part_reaches_the_caller(broken, two_threads):
    ended = []

    def work(begin, end):
        ended.append(begin)
        if begin == 50 * broken:
            raise ValueError("this part")

    with pytest.raises(ValueError, match="this part"):
        in_parts(work, 100, least=2)
    assert sorted(ended) == [0, 50]
