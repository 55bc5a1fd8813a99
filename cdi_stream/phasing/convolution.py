"""Periodic convolution of real arrays with a filter that is given by its transform, and the Gaussian filter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cdi_stream.phasing.kernels import multiply


def convolve(values: Tensor, transform: Tensor, n_axes: int) -> Tensor:
    """Return real arrays ``(..., *shape)`` of ``n_axes`` axes, convolved with a filter; differentiable.

    ``transform`` is the filter's transform on the half spectrum of ``rfftn``, real or complex.
    """
    axes, shape = tuple(range(-n_axes, 0)), tuple(values.shape[-n_axes:])
    spectrum = torch.fft.rfftn(values, dim=axes)
    is_plain = not (transform.is_complex() or spectrum.requires_grad)
    if is_plain and spectrum.device.type == "cpu" and spectrum.is_contiguous():
        multiply(spectrum.reshape(-1, *transform.shape), transform[None].contiguous())
    else:
        spectrum = spectrum * transform
    result: Tensor = torch.fft.irfftn(spectrum, s=shape, dim=axes)
    return result


def gaussian_transform(
    shape: Sequence[int], widths_vox: Sequence[float], dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Tensor:
    """Return the transform of a Gaussian, exp(-2 pi^2 sum (width k)^2) with k in 1/voxel, on the half spectrum.

    ``widths_vox`` are the standard deviations along the axes of an array of this shape [voxels].
    """
    result = torch.ones((), dtype=dtype, device=device)
    for axis, (n, width) in enumerate(zip(shape, widths_vox, strict=True)):
        frequencies = torch.fft.rfftfreq if axis == len(shape) - 1 else torch.fft.fftfreq
        weight = torch.exp(-2 * (math.pi * width * frequencies(n, dtype=dtype, device=device)) ** 2)
        result = result * weight.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return result
