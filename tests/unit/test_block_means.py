"""Means over blocks are those of torch's pooling."""

from __future__ import annotations

import pytest
import torch

from cdi_stream.numerics.block_means import block_means


@pytest.mark.parametrize("factors", [(1, 2, 3), (2, 2, 2), (3, 1, 1)])
@pytest.mark.parametrize("is_mask", [True, False])
def test_means_are_those_of_torch(factors, is_mask):
    volume = torch.rand((9, 14, 23), generator=torch.Generator().manual_seed(3))
    volume = volume > 0.4 if is_mask else volume
    expected = torch.nn.functional.avg_pool3d(volume[None, None].float(), factors)[0, 0]
    torch.testing.assert_close(block_means(volume, factors), expected)
