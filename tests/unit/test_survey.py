"""The survey of a pattern is that of its definition, for patterns of two and three axes and of any kind of number."""

from __future__ import annotations

import numpy as np
import pytest

from cdi_stream.inversion.survey import BLOCK, Surveyor, survey, without


@pytest.mark.parametrize("shape", [(7, 10, 13), (8, 8, 8), (1, 5, 6), (9, 14)])
@pytest.mark.parametrize("dtype", [np.uint32, np.uint16, np.float64])
def test_a_survey_is_as_defined(shape, dtype):
    rng = np.random.default_rng(3)
    counts, valid = rng.poisson(3, shape).astype(dtype), rng.random(shape) > 0.4
    valid[..., 2] = False
    seen = survey(counts, valid)
    known = np.where(valid, counts, np.inf)
    np.testing.assert_array_equal(seen.values, np.where(valid, counts.astype(float), -1))
    assert seen.total == counts[valid].sum()
    for axis, lowest in enumerate(seen.lowest):
        np.testing.assert_array_equal(lowest, known.min(axis=axis))
    for place in np.ndindex(seen.block_means.shape):
        block = tuple(slice(BLOCK * k, BLOCK * (k + 1)) for k in place)
        assert seen.block_means[place] == pytest.approx((counts * valid)[block].mean(), rel=1e-6)
        assert seen.known_share[place] == pytest.approx(valid[block].mean(), rel=1e-6)


def test_nothing_of_the_pattern_changes():
    counts, valid = np.full((4, 4, 4), 5, np.uint32), np.ones((4, 4, 4), bool)
    counts.flags.writeable = valid.flags.writeable = False
    assert survey(counts, valid).values.sum() == 320


@pytest.mark.parametrize("shape", [(7, 10, 13), (9, 14)])
def test_a_survey_without_some_voxels_has_the_blocks_of_the_others(shape):
    rng = np.random.default_rng(4)
    counts, valid = rng.poisson(3, shape).astype(np.uint32), rng.random(shape) > 0.3
    hot = rng.random(shape) < 0.03
    counts[hot] += 2**26  # so bright that the small counts beside it are lost in a sum of float32
    seen, expected = without(survey(counts, valid), hot & valid), survey(counts, valid & ~hot)
    np.testing.assert_allclose(seen.block_means, expected.block_means, rtol=1e-6)
    np.testing.assert_allclose(seen.known_share, expected.known_share, rtol=1e-6)


def test_planes_may_come_in_any_order():
    rng = np.random.default_rng(5)
    counts, valid = rng.poisson(3, (7, 10, 13)).astype(np.uint32), rng.random((7, 10, 13)) > 0.4
    surveyor, expected = Surveyor(counts.shape), survey(counts, valid)
    for begin, end in ((4, 6), (0, 1), (6, 7), (1, 4)):
        surveyor.add(counts[begin:end], valid[begin:end], begin)
    seen = surveyor.survey()
    assert seen.total == expected.total
    for name in ("values", "block_means", "known_share"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(expected, name))
    for low, one in zip(seen.lowest, expected.lowest, strict=True):
        np.testing.assert_array_equal(low, one)
