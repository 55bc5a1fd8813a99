"""Memory of volumes: used again when nobody uses it any more, never before, and within its limit."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from cdi_stream.stream.volumes import VolumePool

SHAPE = (4, 3, 5)
N_BYTES = 4 * 60


def address(volume: np.ndarray) -> int:
    return int(volume.__array_interface__["data"][0])


def test_memory_is_used_again_for_a_volume_that_is_not_larger():
    pool = VolumePool(N_BYTES)
    first = pool.volume(SHAPE)
    first[:] = 7
    place = address(first)
    del first
    again = pool.volume((2, 3, 5))
    assert (address(again), again.shape, again.dtype) == (place, (2, 3, 5), np.uint32)
    assert (again == 7).all()


@pytest.mark.parametrize(
    "view", [lambda v: v[1:], lambda v: v.reshape(-1)[::2], lambda v: v.view(np.uint8), memoryview]
)
def test_memory_is_not_used_again_while_a_view_is_there(view):
    pool = VolumePool(N_BYTES)
    volume = pool.volume(SHAPE)
    place, kept = address(volume), view(volume)
    del volume
    gc.collect()
    other = pool.volume(SHAPE)
    assert address(other) != place
    del kept
    assert address(pool.volume(SHAPE)) == place


def test_two_volumes_do_not_share_memory():
    pool = VolumePool(N_BYTES)
    assert not np.shares_memory(pool.volume(SHAPE), pool.volume(SHAPE))


def test_memory_above_the_limit_is_given_back():
    pool = VolumePool(N_BYTES - 4)
    pool.volume(SHAPE)
    assert pool._idle == []


def test_a_larger_volume_takes_fresh_memory():
    pool = VolumePool(10 * N_BYTES)
    pool.volume(SHAPE)
    assert pool.volume((8, 3, 5)).shape == (8, 3, 5)
    assert [block.size for block in pool._idle] == [120]
