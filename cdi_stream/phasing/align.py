"""Alignment of crystals: removal of global phase, shift and twin, which diffraction does not determine.

A shifted crystal, its twin, and a crystal with another global phase have the same diffraction.  Crystals are therefore
aligned before they are compared.  A phase ramp is not removed: it shifts the diffraction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdi_stream.errors import InputError

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]
Variant = Literal["same", "twin", "flip", "conj"]

_TINY = 1e-30
"""Smallest divisor; avoids divisions by zero."""
_NEWTON_STEPS = 8
"""Largest number of Newton steps on the shift."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """A crystal that is aligned with a reference.

    Parameters
    ----------
    crystal
        The aligned crystal ``(*shape)``: the variant, then shifted, then with the phase added; its scale is unchanged.
    variant
        The image of the crystal that fits best, see `align`.
    shift_vox
        Shift along each axis [voxels], within half the array.
    phase_rad
        Phase that was added [rad].
    correlation
        |<reference, crystal>| over the product of their norms, 0 to 1.
    """

    crystal: Tensor
    variant: Variant
    shift_vox: tuple[float, ...]
    phase_rad: float
    correlation: float


def align(reference: Tensor, crystal: Tensor, variants: Sequence[Variant] = ("same", "twin")) -> Aligned:
    """Return a crystal aligned with a reference, both complex ``(*shape)``, with their origin at the same voxel.

    The best of ``variants`` is taken: ``same``, ``twin`` rho*(-r), and for data with the other sign of the Fourier
    transform ``flip`` rho(-r) and ``conj`` rho*(r).  Flips are about voxel 0, edges are periodic.  The shift is the
    whole number of voxels with the largest |correlation|, refined by Newton steps on its logarithm; the crystal is
    shifted by the Fourier transform.

    Raises
    ------
    InputError
        If the shapes differ.
    """
    return align_all(reference, [crystal], variants)[0]


def align_all(
    reference: Tensor, crystals: Iterable[Tensor], variants: Sequence[Variant] = ("same", "twin")
) -> tuple[Aligned, ...]:
    """Return several crystals, each aligned with one reference, see `align`."""
    spectrum = _unit_spectrum(reference)[0]
    return tuple(_align(reference, spectrum, crystal, variants) for crystal in crystals)


def _align(reference: Tensor, reference_spectrum: Tensor, crystal: Tensor, variants: Sequence[Variant]) -> Aligned:
    if crystal.shape != reference.shape:
        raise InputError(
            f"align: expected a crystal of the reference's shape {tuple(reference.shape)}, got {tuple(crystal.shape)}"
        )
    spectrum, norm = _unit_spectrum(crystal)
    spectra = {variant: _SPECTRA[variant](spectrum) for variant in variants}
    shifts = {variant: _best_shift(reference_spectrum * spectra[variant].conj()) for variant in variants}
    variant = max(shifts, key=lambda name: abs(shifts[name][1]))
    shift, overlap = shifts[variant]
    phase = float(np.angle(overlap))
    aligned_spectrum = torch.polar(norm, torch.full_like(norm, phase)) * spectra[variant]
    for axis, (n, s) in enumerate(zip(crystal.shape, shift, strict=True)):
        wave = _waves(n, -s)[:, 0].to(aligned_spectrum)
        aligned_spectrum = aligned_spectrum * wave.reshape([-1 if k == axis else 1 for k in range(crystal.ndim)])
    half = np.array(crystal.shape) / 2
    return Aligned(
        crystal=torch.fft.ifftn(aligned_spectrum, norm="ortho"),
        variant=variant,
        shift_vox=tuple(map(float, (shift + half) % (2 * half) - half)),
        phase_rad=phase,
        correlation=min(float(abs(overlap)), 1.0),
    )


def _unit_spectrum(crystal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spectrum of a crystal, scaled to norm one, and its norm before (Parseval)."""
    spectrum = torch.fft.fftn(crystal, norm="ortho")
    norm = torch.linalg.vector_norm(spectrum, dtype=torch.complex128).to(spectrum.real.dtype)
    return spectrum / norm.clamp_min(_TINY), norm


def _reversed(spectrum: Tensor) -> Tensor:
    """Return the spectrum X(-k)."""
    axes = tuple(range(spectrum.ndim))
    return torch.roll(torch.flip(spectrum, axes), (1,) * spectrum.ndim, axes)


_SPECTRA: dict[Variant, Callable[[Tensor], Tensor]] = {
    "same": lambda spectrum: spectrum,
    "twin": lambda spectrum: spectrum.conj(),
    "flip": _reversed,
    "conj": lambda spectrum: _reversed(spectrum).conj(),
}


def _best_shift(product: Tensor) -> tuple[Floats, complex]:
    """Return the shift s with the largest |c|, where c(s) = sum_k P(k) exp(2 pi i k.s), and c there.

    First in whole voxels, then by Newton steps on log|c|, which is concave over the whole peak.  The gradient of log c
    is c_i / c, its Hessian c_ij / c - c_i c_j / c^2; their real parts belong to log|c|.  A step goes uphill along every
    principal axis.
    """
    peak = int(torch.fft.ifftn(product, norm="forward").abs().argmax())
    shift: Floats = np.array(np.unravel_index(peak, product.shape), dtype=float)
    best = shift, 0j
    for _ in range(_NEWTON_STEPS):
        value, first, second = _derivatives(product, shift)
        if abs(value) <= abs(best[1]):
            break
        best = shift, value
        slope, bend = first / value, second / value
        curvature, axes = np.linalg.eigh((bend - np.outer(slope, slope)).real)
        step = axes @ ((axes.T @ slope.real) / np.maximum(np.abs(curvature), 1e-12))
        shift = shift + np.clip(step, -0.5, 0.5)
    return best


def _derivatives(product: Tensor, shift: Floats) -> tuple[complex, Complexes, Complexes]:
    """Return c, its gradient ``(n_axes,)`` and its Hessian ``(n_axes, n_axes)`` at a shift."""
    orders = product
    for n, s in zip(product.shape[::-1], shift[::-1], strict=True):
        orders = torch.movedim(orders @ _waves(n, s).to(orders), -1, 0).to(torch.complex128)
    table, unit = orders.cpu().numpy(), np.eye(product.ndim, dtype=int)
    first = np.array([table[tuple(a)] for a in unit])
    second = np.array([[table[tuple(a + b)] for b in unit] for a in unit])
    return complex(table[(0,) * product.ndim]), first, second


def _waves(n: int, shift: float) -> Tensor:
    """Return exp(2 pi i k s) and its first two derivatives by s at the n frequencies k, ``(n, 3)``."""
    slope = 2j * np.pi * np.fft.fftfreq(n)[:, None]
    return torch.from_numpy(np.exp(slope * shift) * slope ** np.arange(3))
