"""The two-decoder networks of Wu et al. (2021), in three axes and in two.

npj Computational Materials 7, 175, doi:10.1038/s41524-021-00644-z, figure 1, and IUCrJ 8, 12,
doi:10.1107/S2052252520013780, figure 1: one encoder of convolution blocks and max-pooling, and two decoders that return
amplitude and phase of the crystal on half of the input's array along each axis.

Where these differ from the papers, and why:

* the papers do not say how many channels there are: the numbers are ours;
* batch normalisation comes before the activation, so that it folds into the convolution;
* the papers scale each phase to [0, 1] and end with a ReLU, which loses the strain scale; here the amplitude ends in
  a sigmoid and the phase, in radians, in no activation at all;
* the magnitudes are compressed by a logarithm, so that weak fringes count;
* the small size folds 2 x 2 x 2 voxels into channels first: eight times fewer voxels at full width, which is what
  makes a forward pass fit the live path on two CPU cores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdi_stream.networks.blocks import Fold, compressed, decoder, encoder

Widths = tuple[int, ...]


class TwoDecoders(nn.Module):
    """Magnitudes ``(batch, n, ...)`` in [0, 1] to amplitude and phase ``(batch, n/2, ...)``.

    Parameters
    ----------
    widths
        Channels after each level of the encoder; between two levels lies a max-pooling by two.
    up
        Channels of each decoder's levels, each after an upsampling by two.
    n_axes
        Two or three.
    is_folded
        Whether space is folded into channels first.
    """

    def __init__(self, widths: Widths, up: Widths, n_axes: int = 3, is_folded: bool = False) -> None:
        super().__init__()
        self.fold = (Fold() if n_axes == 3 else nn.PixelUnshuffle(2)) if is_folded else nn.Identity()
        self.encoder = encoder((2**n_axes if is_folded else 1, *widths), n_axes)
        self.amplitude = decoder((widths[-1], *up), -2.0, n_axes)  # most of the array is empty
        self.phase = decoder((widths[-1], *up), 0.0, n_axes)

    def forward(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Return amplitude in [0, 1] and phase in radians; the origin is voxel n//2 of each array."""
        code = self.encoder(self.fold(compressed(magnitude).unsqueeze(1)))
        return torch.sigmoid(self.amplitude(code)).squeeze(1), self.phase(code).squeeze(1)


def small(widths: Widths = (24, 48, 96, 160), up: Widths = (96, 24, 12)) -> TwoDecoders:
    """The size of the live path, 64^3 to 32^3: 2.1 million weights, folded."""
    return TwoDecoders(widths, up, is_folded=True)


def whole() -> TwoDecoders:
    """The paper's layout, 64^3 to 32^3: 4.7 million weights."""
    return TwoDecoders((16, 32, 64, 128, 256), (128, 64, 32))


def plane() -> TwoDecoders:
    """The paper's layout in two axes, 64^2 to 32^2: 1.9 million weights."""
    return TwoDecoders((32, 64, 128, 256), (128, 64), n_axes=2)
