"""Remove what diffraction cannot tell: global phase, shift and twin.

A displaced crystal, its twin and any global phase have the same diffraction, so crystals are compared only
after these are taken out.  A phase ramp moves the diffraction and is left alone.
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
_NEWTON_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """A crystal laid on another: variant first, then shift, then phase; its amplitude is untouched.

    ``crystal (*shape)``; ``shift_vox`` per axis, within half an array; ``phase_rad`` was added to its phase;
    ``correlation`` is |<reference, crystal>| over the norms, 0 to 1.
    """

    crystal: Tensor
    variant: Variant
    shift_vox: tuple[float, ...]
    phase_rad: float
    correlation: float


def align(reference: Tensor, crystal: Tensor, variants: Sequence[Variant] = ("same", "twin")) -> Aligned:
    """Lay a crystal on a reference, both complex ``(*shape)`` with their origin at the same voxel, whichever.

    The best of ``variants``: ``same``, ``twin`` rho*(-r), and what another sign of the Fourier transform leaves,
    ``flip`` rho(-r) and ``conj`` rho*(r); flips are about voxel 0, edges periodic.  The shift is the whole one
    of highest |correlation|, then Newton's on its logarithm, evaluated from the Fourier sum; the crystal
    is shifted by the Fourier transform.

    Raises
    ------
    InputError
        If the shapes differ.
    """
    return align_all(reference, [crystal], variants)[0]


def align_all(
    reference: Tensor, crystals: Iterable[Tensor], variants: Sequence[Variant] = ("same", "twin")
) -> tuple[Aligned, ...]:
    """Lay each of several crystals on one reference; see `align`."""
    spectrum = _unit_spectrum(reference)[0]
    return tuple(_align(reference, spectrum, crystal, variants) for crystal in crystals)


def _align(reference: Tensor, wanted: Tensor, crystal: Tensor, variants: Sequence[Variant]) -> Aligned:
    if crystal.shape != reference.shape:
        raise InputError(
            f"align: expected a crystal of the reference's shape {tuple(reference.shape)}, got {tuple(crystal.shape)}"
        )
    spectrum, norm = _unit_spectrum(crystal)
    spectra = {variant: _SPECTRA[variant](spectrum) for variant in variants}
    found = {variant: _best_shift(wanted * spectra[variant].conj()) for variant in variants}
    variant = max(found, key=lambda name: abs(found[name][1]))
    shift, overlap = found[variant]
    phase = float(np.angle(overlap))
    moved = torch.polar(norm, torch.full_like(norm, phase)) * spectra[variant]
    for axis, (n, s) in enumerate(zip(crystal.shape, shift, strict=True)):
        wave = _waves(n, -s)[:, 0].to(moved)
        moved = moved * wave.reshape([-1 if k == axis else 1 for k in range(crystal.ndim)])
    half = np.array(crystal.shape) / 2
    return Aligned(
        crystal=torch.fft.ifftn(moved, norm="ortho"),
        variant=variant,
        shift_vox=tuple(map(float, (shift + half) % (2 * half) - half)),
        phase_rad=phase,
        correlation=min(float(abs(overlap)), 1.0),
    )


def _unit_spectrum(crystal: Tensor) -> tuple[Tensor, Tensor]:
    """Spectrum of norm one, and the norm it had (Parseval)."""
    spectrum = torch.fft.fftn(crystal, norm="ortho")
    norm = torch.linalg.vector_norm(spectrum, dtype=torch.complex128).to(spectrum.real.dtype)
    return spectrum / norm.clamp_min(_TINY), norm


def _reversed(spectrum: Tensor) -> Tensor:
    """X(-k)."""
    axes = tuple(range(spectrum.ndim))
    return torch.roll(torch.flip(spectrum, axes), (1,) * spectrum.ndim, axes)


_SPECTRA: dict[Variant, Callable[[Tensor], Tensor]] = {
    "same": lambda spectrum: spectrum,
    "twin": lambda spectrum: spectrum.conj(),
    "flip": _reversed,
    "conj": lambda spectrum: _reversed(spectrum).conj(),
}


def _best_shift(product: Tensor) -> tuple[Floats, complex]:
    """Shift s of largest |c|, c(s) = sum_k P(k) exp(2 pi i k.s), and c there: whole voxels, then Newton on log|c|.

    Of L = log c the gradient is c_i / c and the Hessian c_ij / c - c_i c_j / c^2; their real parts are those of
    log|c|, which is concave over the whole peak.  An uphill step is taken along every principal axis.
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
    """c, its gradient ``(n_axes,)`` and its Hessian ``(n_axes, n_axes)`` at a shift, one contraction per axis."""
    orders = product
    for n, s in zip(product.shape[::-1], shift[::-1], strict=True):
        orders = torch.movedim(orders @ _waves(n, s).to(orders), -1, 0).to(torch.complex128)
    table, unit = orders.cpu().numpy(), np.eye(product.ndim, dtype=int)
    first = np.array([table[tuple(a)] for a in unit])
    second = np.array([[table[tuple(a + b)] for b in unit] for a in unit])
    return complex(table[(0,) * product.ndim]), first, second


def _waves(n: int, shift: float) -> Tensor:
    """exp(2 pi i k s) and its first two derivatives in s at the n frequencies k, ``(n, 3)``."""
    slope = 2j * np.pi * np.fft.fftfreq(n)[:, None]
    return torch.from_numpy(np.exp(slope * shift) * slope ** np.arange(3))
