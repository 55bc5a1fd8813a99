"""Projections of phase retrieval on a coarse grid, in the subset of Python that TorchScript supports.

Arrays are ``(batch, m, m, m)`` with the origin at voxel 0, unless a function says otherwise; the transform has the sign
of `cdi_stream.numerics.fourier`.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

RELAXATION: Final[float] = 0.87
"""Relaxation parameter beta of the relaxed averaged alternating reflections."""


def raar_cycles(
    density: Tensor, support: Tensor, measured: Tensor, cycles: int, relaxation: float = RELAXATION
) -> Tensor:
    """Return the crystal after cycles of relaxed averaged alternating reflections, with the measured magnitudes.

    The centre of mass is moved to the origin.  Source: Luke, Inverse Problems 21, 37 (2005),
    doi:10.1088/0266-5611/21/1/004.

    Parameters
    ----------
    density
        Complex crystal to start from.
    support
        True inside the crystal.
    measured
        Magnitudes.
    cycles
        Number of cycles.
    relaxation
        Parameter beta.
    """
    keep, take = _weights(support, 0.0, relaxation), _weights(support, 1.0, 1 - 2 * relaxation)
    for _ in range(cycles):  # products of real numbers: torch.where and complex products are slow on a CPU
        projection = torch.view_as_real(torch.fft.fftn(_with_magnitude(measured, density), dim=[1, 2, 3], norm="ortho"))
        density = torch.view_as_complex(projection.mul_(take).addcmul_(keep, torch.view_as_real(density)))
    field = _with_magnitude(measured, torch.where(support, density, torch.zeros_like(density)))
    crystal = torch.fft.fftn(field, dim=[1, 2, 3], norm="ortho")
    weight = torch.where(support, crystal.abs().square(), torch.zeros_like(measured))
    result: Tensor = torch.fft.fftn(field * _ramp(weight), dim=[1, 2, 3], norm="ortho")
    return result


def _weights(support: Tensor, inside: float, outside: float) -> Tensor:
    """Return one number inside a support and another outside, for real and imaginary part each."""
    return torch.where(support, inside, outside).unsqueeze(-1).expand(-1, -1, -1, -1, 2).contiguous()


def _ramp(weight: Tensor) -> Tensor:
    """Return the phase factors in reciprocal space that move the periodic centre of mass to the origin."""
    z, y, x = weight.sum([2, 3]), weight.sum([1, 3]), weight.sum([1, 2])
    return _axis_ramp(z)[:, :, None, None] * _axis_ramp(y)[:, None, :, None] * _axis_ramp(x)[:, None, None, :]


def _axis_ramp(mass: Tensor) -> Tensor:
    """Return the phase factors ``(batch, n)`` of one axis for masses ``(batch, n)`` along it."""
    n = mass.shape[1]
    frequency = torch.fft.fftfreq(n, device=mass.device)
    centre = torch.fft.ifft(mass.to(torch.complex64), dim=1)[:, 1].angle()  # in radians, 2 pi for the whole axis
    angle = -n * frequency * centre[:, None]
    return torch.polar(torch.ones_like(angle), angle)


def patterson(measured: Tensor) -> Tensor:
    """Return the crystal's autocorrelation with the square root of its modulus, scaled to 1 at the origin."""
    correlation = torch.fft.fftn(measured.square(), dim=[1, 2, 3])
    root = correlation.abs().clamp_min(1e-30).sqrt()
    result: Tensor = correlation / root / root[:, :1, :1, :1]
    return result


def scale_to_measured(crystal: Tensor, measured: Tensor) -> Tensor:
    """Return the crystal scaled to the energy of the measurement."""
    energy = measured.square().sum([1, 2, 3], keepdim=True)
    power = crystal.abs().square().sum([1, 2, 3], keepdim=True)
    return crystal * (energy / power.clamp_min(1e-30)).sqrt()


def _with_magnitude(measured: Tensor, density: Tensor) -> Tensor:
    field = torch.fft.ifftn(density, dim=[1, 2, 3], norm="ortho")
    real, imaginary = field.real, field.imag
    power = (real * real).addcmul_(imaginary, imaginary)  # a third of the time of abs, which avoids overflow
    result: Tensor = field.mul_(power.clamp_min_(1e-36).rsqrt_().mul_(measured))
    return result


def middle(magnitude: Tensor, m: int) -> Tensor:
    """Return the inner ``m`` voxels along each axis; the origin is voxel n//2 before and m//2 after."""
    begin = magnitude.shape[-1] // 2 - m // 2
    return magnitude[:, begin : begin + m, begin : begin + m, begin : begin + m]


def fourier_upsample(crystal: Tensor, n: int) -> Tensor:
    """Return a crystal ``(batch, m, m, m)`` Fourier-interpolated to ``(batch, n/2, n/2, n/2)``, origins at n//2.

    The same as to pad the diffraction from m to n voxels, which makes voxels m/n as long, and to keep the inner half of
    the crystal.  One product with a small matrix along each axis takes a tenth of the time of these transforms.
    """
    batch, m, half = crystal.shape[0], crystal.shape[-1], n // 2
    matrix = _upsampling(m, n, crystal.device)
    plane = torch.matmul(matrix, torch.matmul(crystal, matrix.transpose(0, 1)))
    return torch.matmul(matrix, plane.reshape(batch, m, half * half)).reshape(batch, half, half, half)


def _upsampling(m: int, n: int, device: torch.device) -> Tensor:
    """Return the matrix ``(n/2, m)`` from the voxels of one axis to its inner half in voxels m/n as long."""
    coarse = torch.arange(m, device=device).double() - m // 2
    fine = torch.arange(n // 2, device=device).double() - n // 4
    there, back = torch.outer(coarse, coarse / m), -torch.outer(fine / n, coarse)
    return torch.matmul(_turns(back), _turns(there)).div(m).to(torch.complex64)


def _turns(angle: Tensor) -> Tensor:
    """Return the phase factors of angles in turns."""
    return torch.polar(torch.ones_like(angle), 2 * torch.pi * angle)


def half_box(measured: Tensor) -> Tensor:
    """Return a support of half of the array along each axis, about the origin."""
    n = measured.shape[-1]
    near = torch.fft.fftfreq(n, device=measured.device).abs() <= 0.25
    box = near[:, None, None] & near[None, :, None] & near[None, None, :]
    result: Tensor = box.unsqueeze(0).expand_as(measured)
    return result


def grow_support(support: Tensor) -> Tensor:
    """Return a support grown by one voxel to all sides; the crystal must not reach across the array's middle."""
    centred = torch.fft.fftshift(support.float(), [1, 2, 3])
    larger = torch.nn.functional.max_pool3d(centred.unsqueeze(1), 3, stride=1, padding=1).squeeze(1)
    result: Tensor = torch.fft.ifftshift(larger, [1, 2, 3]) > 0.5
    return result
