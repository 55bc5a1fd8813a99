"""The survey of a pattern is that of its definition, for patterns of two and three axes and of any kind of number."""

from __future__ import annotations

import numpy as np
import pytest

from cdi_stream.inversion.survey import BLOCK, survey


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
