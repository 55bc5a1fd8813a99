"""The two-decoder networks of Wu et al. (2021), in three axes and in two.

Sources: Wu et al., npj Computational Materials 7, 175 (2021), doi:10.1038/s41524-021-00644-z, figure 1, and Wu et al.,
IUCrJ 8, 12 (2021), doi:10.1107/S2052252520013780, figure 1.  An encoder of convolution blocks and max-pooling is
followed by two decoders, which return amplitude and phase of the crystal on half of the input's array along each axis.

Differences from the papers:

* The papers do not give the numbers of channels; they were chosen here.
* Batch normalisation comes before the activation, so that it can be merged into the convolution.
* The papers scale each phase to [0, 1] and end with a ReLU, which loses the scale of the strain.  Here the amplitude
  ends with a sigmoid, and the phase, in radians, without an activation.
* The magnitudes are compressed by a logarithm, so that weak fringes have weight.
* The small size folds 2 x 2 x 2 voxels into channels first.  With eight times fewer voxels at full width a forward pass
  is fast enough for the live service on two CPU cores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdi_stream.networks.blocks import Fold, compress_magnitude, decoder, encoder

Widths = tuple[int, ...]


class TwoDecoders(nn.Module):
    """Network from magnitudes ``(batch, n, ...)`` in [0, 1] to amplitude and phase ``(batch, n/2, ...)``.

    Parameters
    ----------
    widths
        Channels of each level of the encoder; there is max-pooling by two between levels.
    up
        Channels of each level of the decoders; there is upsampling by two before each level.
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
        code = self.encoder(self.fold(compress_magnitude(magnitude).unsqueeze(1)))
        return torch.sigmoid(self.amplitude(code)).squeeze(1), self.phase(code).squeeze(1)


def small(widths: Widths = (24, 48, 96, 160), up: Widths = (96, 24, 12)) -> TwoDecoders:
    """Return the network in the size for the live service, 64^3 to 32^3, with folded space: 2.1 million weights."""
    return TwoDecoders(widths, up, is_folded=True)


def whole() -> TwoDecoders:
    """Return the network in the layout of the paper, 64^3 to 32^3: 4.7 million weights."""
    return TwoDecoders((16, 32, 64, 128, 256), (128, 64, 32))


def plane() -> TwoDecoders:
    """Return the network in the layout of the paper in two axes, 64^2 to 32^2: 1.9 million weights."""
    return TwoDecoders((32, 64, 128, 256), (128, 64), n_axes=2)
