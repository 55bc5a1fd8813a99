"""Windows of plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

from cdi_stream.errors import CurveError
from cdi_stream.inversion.window import crop_window, cut, fast_length


def test_cut_pads_with_zeros_and_says_where_the_data_were():
    array = np.arange(24).reshape(2, 3, 4)
    window, inside = cut(array, (-1, 1, 2), (3, 3, 3))
    assert window[1, 0, 0] == array[0, 1, 2]
    assert inside.sum() == 2 * 2 * 2
    assert not window[~inside].any()


def test_windows_are_fast_and_centred():
    assert [fast_length(n) for n in (256, 201, 104, 88, 17, 16)] == [256, 200, 100, 84, 16, 16]
    start, shape = crop_window((201, 256, 256), (99, 126, 127), (128, 128, 128))
    assert shape == (128, 128, 128)
    assert start == (99 - 64, 126 - 64, 127 - 64)
    with pytest.raises(CurveError, match="at least 16 voxels"):
        crop_window((12, 256, 256), (6, 126, 127), (128, 128, 128), 16)
