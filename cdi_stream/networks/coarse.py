"""Projections on a coarse grid, in what TorchScript understands: no objects, the axes written out.

Arrays are ``(batch, m, m, m)`` with the origin at voxel 0, unless it says otherwise; the transform has the sign of
`cdi_stream.numerics.fourier`.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

RELAXATION: Final[float] = 0.87


def reached(density: Tensor, support: Tensor, measured: Tensor, cycles: int, relaxation: float = RELAXATION) -> Tensor:
    """What so many cycles reach, as the measurement explains it, the centre of its mass brought to the origin."""
    kept, taken = _paired(support, 0.0, relaxation), _paired(support, 1.0, 1 - 2 * relaxation)
    for _ in range(cycles):  # by products of real numbers: choices and complex products are dear on a CPU
        explained = torch.view_as_real(torch.fft.fftn(_with(measured, density), dim=[1, 2, 3], norm="ortho"))
        density = torch.view_as_complex(torch.addcmul(taken * explained, kept, torch.view_as_real(density)))
    field = _with(measured, torch.where(support, density, torch.zeros_like(density)))
    explained = torch.fft.fftn(field, dim=[1, 2, 3], norm="ortho")
    weight = torch.where(support, explained.abs().square(), torch.zeros_like(measured))
    result: Tensor = torch.fft.fftn(field * _ramp(weight), dim=[1, 2, 3], norm="ortho")
    return result


def _paired(support: Tensor, inside: float, outside: float) -> Tensor:
    """One number in a support and another outside of it, for the real and the imaginary part each."""
    return torch.where(support, inside, outside).unsqueeze(-1).expand(-1, -1, -1, -1, 2).contiguous()


def _ramp(weight: Tensor) -> Tensor:
    """Phases of the field that bring the centre of this mass to the origin, found on the circle of each axis."""
    z, y, x = weight.sum([2, 3]), weight.sum([1, 3]), weight.sum([1, 2])
    return _turns(z)[:, :, None, None] * _turns(y)[:, None, :, None] * _turns(x)[:, None, None, :]


def _turns(mass: Tensor) -> Tensor:
    """Along one axis: masses ``(batch, n)`` to phase factors ``(batch, n)``."""
    n = mass.shape[1]
    frequency = torch.fft.fftfreq(n, device=mass.device)
    centre = torch.fft.ifft(mass.to(torch.complex64), dim=1)[:, 1].angle()  # in radians of the circle
    angle = -n * frequency * centre[:, None]
    return torch.polar(torch.ones_like(angle), angle)


def patterson(measured: Tensor) -> Tensor:
    """Autocorrelation of the crystal, the root taken of its modulus, 1 at the origin."""
    correlation = torch.fft.fftn(measured.square(), dim=[1, 2, 3])
    root = correlation.abs().clamp_min(1e-30).sqrt()
    result: Tensor = correlation / root / root[:, :1, :1, :1]
    return result


def scaled_like(crystal: Tensor, measured: Tensor) -> Tensor:
    """The crystal with the measurement's energy."""
    wanted, there = measured.square().sum([1, 2, 3], keepdim=True), crystal.abs().square().sum([1, 2, 3], keepdim=True)
    return crystal * (wanted / there.clamp_min(1e-30)).sqrt()


def _with(measured: Tensor, density: Tensor) -> Tensor:
    field = torch.fft.ifftn(density, dim=[1, 2, 3], norm="ortho")
    real, imaginary = field.real, field.imag
    power = torch.addcmul(real * real, imaginary, imaginary)  # in a third of the time of abs, which minds overflow
    result: Tensor = field * (measured * power.clamp_min(1e-36).rsqrt())
    return result


def middle(magnitude: Tensor, m: int) -> Tensor:
    """The inner ``m`` voxels along each axis, the origin at n//2 as before."""
    begin = magnitude.shape[-1] // 2 - m // 2
    return magnitude[:, begin : begin + m, begin : begin + m, begin : begin + m]


def refined(crystal: Tensor, n: int) -> Tensor:
    """The same crystal on voxels half as long, origins at n//2: ``(batch, m, m, m)`` to ``(batch, n/2, n/2, n/2)``."""
    m = crystal.shape[-1]
    field = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(crystal, [1, 2, 3]), dim=[1, 2, 3]), [1, 2, 3])
    before = n // 2 - m // 2
    padded = torch.zeros((crystal.shape[0], n, n, n), dtype=crystal.dtype, device=crystal.device)
    padded[:, before : before + m, before : before + m, before : before + m] = field
    fine = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(padded, [1, 2, 3]), dim=[1, 2, 3]), [1, 2, 3])
    return middle(fine, n // 2)


def half_box(measured: Tensor) -> Tensor:
    """Half of the array along each axis, about the origin."""
    n = measured.shape[-1]
    near = torch.fft.fftfreq(n, device=measured.device).abs() <= 0.25
    box = near[:, None, None] & near[None, :, None] & near[None, None, :]
    result: Tensor = box.unsqueeze(0).expand_as(measured)
    return result


def grown(support: Tensor) -> Tensor:
    """Larger by a voxel to all sides; the origin is voxel 0, and a crystal does not reach across the array."""
    shifted = torch.fft.fftshift(support.float(), [1, 2, 3])
    grown = torch.nn.functional.max_pool3d(shifted.unsqueeze(1), 3, stride=1, padding=1).squeeze(1)
    result: Tensor = torch.fft.ifftshift(grown, [1, 2, 3]) > 0.5
    return result
