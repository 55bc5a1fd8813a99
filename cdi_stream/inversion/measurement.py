"""Convert counts to the measurement that phase retrieval uses: magnitudes, scale and valid voxels in Fourier order."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdi_stream.numerics.fourier import to_fourier_order
from cdi_stream.phasing.find_background import with_background
from cdi_stream.phasing.projections import Measurement

Array = Tensor | NDArray[Any]


class CountsVolume(Protocol):
    """Counts with their valid voxels and expected scale; arrays or tensors of one shape, origin at N//2."""

    @property
    def counts(self) -> Array:
        """Raw counts."""
        ...

    @property
    def valid_pixels(self) -> Array:
        """True where a voxel may be used."""
        ...

    @property
    def expected_scale(self) -> Array:
        """Factor of the modelled intensity of each voxel, from monitor, exposure and flat field."""
        ...

    @property
    def frame_shifts(self) -> Array | None:
        """Distances of the frames from even steps ``(n_frames,)`` [steps]; None for even steps."""
        ...


def measurement_of(volume: CountsVolume, device: str | None = None) -> Measurement:
    """Return measured magnitudes, the scale of modelled magnitudes, valid voxels and background, in Fourier order.

    Magnitudes are square roots of counts; their scale is the square root of the expected scale.  The background is that
    of `cdi_stream.phasing.find_background`.

    Parameters
    ----------
    volume
        Counts, 2D or 3D.
    device
        Device of the result; None leaves tensors on their device, and arrays on the CPU.
    """
    shifts = volume.frame_shifts
    data = Measurement(
        frame_shifts=None if shifts is None else _ordered(shifts, torch.float32, device),
        magnitude=_ordered(volume.counts, torch.float32, device).sqrt(),
        magnitude_scale=_ordered(volume.expected_scale, torch.float32, device).sqrt(),
        valid=_ordered(volume.valid_pixels, torch.bool, device),
    )
    return with_background(data)


def _ordered(array: Array, dtype: torch.dtype, device: str | None) -> Tensor:
    """Return a copy in Fourier order."""
    if not isinstance(array, Tensor):
        array = torch.from_numpy(np.array(array, dtype=bool if dtype == torch.bool else np.float32))
    return to_fourier_order(array.to(device=device, dtype=dtype)).contiguous()
