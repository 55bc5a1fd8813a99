"""The look for partial coherence: how long it follows a kernel."""

from __future__ import annotations

from itertools import count

import pytest

from cdi_stream.phasing.coherence_search import PLAIN_BLUR, Blur, look_for_blur
from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.grid_level import level_of
from cdi_stream.phasing.ranking import score_batch
from cdi_stream.phasing.tuning import TUNING
from tests.bench.crystals import Case
from tests.measurements import blurred_of


def look(width_vox: float, least_vox: float) -> tuple[Blur, int]:
    """Look for blur from the true crystal; return what was found, and how often the deadline was asked."""
    data, truth = blurred_of(Case(seed=21, kind="polyhedron", phase_pi=1.0, n=32), width_vox)
    scaled = truth * (data.magnitude.square().sum() ** 0.5 / truth.abs().square().sum() ** 0.5)
    pool = score_batch(data, Batch(crystal=scaled[None], support=truth[None].abs() > 0.3))
    asked = count()
    blur = look_for_blur(level_of(data), pool, Deadline(60.0, clock=lambda: 0.0 * next(asked)), least_vox=least_vox)
    return blur, next(asked)


def test_a_kernel_that_shrinks_is_not_followed():
    followed, n_followed = look(0.0, least_vox=0.0)
    ended, n_ended = look(0.0, TUNING.hopeless_blur_vox)
    assert n_ended < 0.5 * n_followed
    assert not ended.counts(PLAIN_BLUR)
    assert not followed.counts(PLAIN_BLUR)


@pytest.mark.parametrize("width_vox", [0.5, 0.8])
def test_a_kernel_that_grows_is_followed_to_the_end(width_vox):
    blur, n_asked = look(width_vox, TUNING.hopeless_blur_vox)
    to_the_end, n_all = look(width_vox, least_vox=0.0)
    assert n_asked == n_all
    assert blur.kernel.widths_vox == pytest.approx(to_the_end.kernel.widths_vox)
    assert blur.counts(PLAIN_BLUR)
    assert max(blur.kernel.widths_vox) == pytest.approx(width_vox, rel=0.2)
