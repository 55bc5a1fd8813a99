"""Partial coherence: refinement of the kernel that blurs the intensities, together with the crystal.

The expected counts are magnitude_scale^2 (kernel convolved with |F|^2) + background.  The transform of the kernel at a
distance is the degree of coherence between two points of the crystal at that distance.  Crystal and kernel are refined
in turn: Clark, Huang, Harder and Robinson (2012), Nat. Commun. 3, 993, doi:10.1038/ncomms1994.  Kernels are arrays of
reciprocal space, in Fourier order, not negative, with a sum of one; their transforms
``(*shape[:-1], shape[-1]//2 + 1)`` are those of `torch.fft.rfftn`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cdi_stream.phasing.background import LinearBackground, parts
from cdi_stream.phasing.blurred import FAINTEST
from cdi_stream.phasing.convolution import convolve, gaussian_transform
from cdi_stream.phasing.engine import Batch, run
from cdi_stream.phasing.frames import along_first, frame_matrix
from cdi_stream.phasing.projections import Measurement, expected_counts, reciprocal
from cdi_stream.phasing.steps import descent

K = TypeVar("K", bound="Kernel")


class Kernel(Protocol):
    """A coherence kernel that can be refined."""

    def apply_to(self, data: Measurement) -> Measurement:
        """Return the measurement with this kernel as its coherence."""
        ...

    def improve(self, field: Tensor, data: Measurement) -> Self:
        """Return a kernel that explains the counts better; ``field (*shape)`` is F(q) of the crystal."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianKernel:
    """Gaussian kernel with a linear background.

    ``widths_vox`` are its standard deviations, one per axis [voxels of reciprocal space]; all zero: coherent light.
    ``background`` is refined too, and replaces the background of the measurement.  None keeps the background of the
    measurement.  ``errors_vox`` are the standard deviations of the widths that counting noise alone leaves [voxels];
    empty before a refinement.
    """

    widths_vox: tuple[float, ...]
    background: LinearBackground | None = None
    errors_vox: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        """Widths along the axes and background, for a report."""
        widths = "kernel " + " x ".join(f"{width:.2f}" for width in self.widths_vox) + " voxels rms"
        return widths if self.background is None else f"{widths}, background {self.background.counts:.3g} counts"

    @property
    def relative_noise(self) -> float:
        """Standard deviation of the largest width over that width; NaN before a refinement."""
        if not self.errors_vox:
            return math.nan
        width, error = max(zip(self.widths_vox, self.errors_vox, strict=True))
        return error / max(width, 1e-9)

    def apply_to(self, data: Measurement) -> Measurement:
        """Return the measurement with this kernel and this background."""
        coherence = _gaussian(data.magnitude, self.widths_vox) if any(self.widths_vox) else None
        background = data.background if self.background is None else self.background.on(data.magnitude)
        return replace(data, coherence=coherence, background=background)

    def improve(self, field: Tensor, data: Measurement) -> GaussianKernel:
        """Return the kernel after one step of Fisher scoring, in the variances and the background.

        The step maximises the Poisson likelihood of the counts.  A step of the amplitude loss would make the kernel too
        narrow: the mean of sqrt(n) lies below sqrt(lambda) where few counts are expected.  The variance of a voxel is
        taken as lambda + 1.
        """
        model = self.apply_to(data)
        expected = expected_counts(field, model)
        slopes = _by_variance(field, model)
        if self.background is not None:
            slopes += parts(expected)
        jacobian = torch.stack([slope[data.valid] for slope in slopes], 1).double()
        weighted = jacobian / (expected[data.valid].double() + 1)[:, None]
        misfit = (data.magnitude.square() - expected)[data.valid].double()
        information = weighted.T @ jacobian
        errors = torch.linalg.pinv(information).diagonal().clamp_min(0).sqrt().tolist()
        return self._moved(torch.linalg.lstsq(information, weighted.T @ misfit).solution.tolist(), errors)

    def _moved(self, step: Sequence[float], errors: Sequence[float]) -> GaussianKernel:
        """Return the kernel after a step of the variances; ``errors`` are the standard deviations of the variances."""
        n_axes, background = len(self.widths_vox), self.background
        variances = [max(w * w + change, 0.0) for w, change in zip(self.widths_vox, step[:n_axes], strict=True)]
        widths = tuple(map(math.sqrt, variances))
        return GaussianKernel(
            widths_vox=widths,
            errors_vox=tuple(e / (2 * max(w, math.sqrt(e), 1e-9)) for w, e in zip(widths, errors, strict=False)),
            background=None if background is None else background.move(step[n_axes:]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeKernel:
    """Kernel of any shape, ``values (*shape)``, refined by the algorithm of Richardson and Lucy.

    Values that are zero stay zero: the kernel of `free_kernel` is zero far from its centre, so it cannot fit noise
    there.  ``iterations`` is the number of iterations of each refinement.
    """

    values: Tensor
    iterations: int = 10

    def apply_to(self, data: Measurement) -> Measurement:
        """Return the measurement with this kernel; its background stays."""
        return replace(data, coherence=torch.fft.rfftn(self.values))

    def improve(self, field: Tensor, data: Measurement) -> FreeKernel:
        """Return the kernel after ``iterations`` of the algorithm.

        Each iteration multiplies the kernel by the correlation of |F|^2 with the ratio of counts to expected counts.

        Richardson (1972), J. Opt. Soc. Am. 62, 55, doi:10.1364/JOSA.62.000055; Lucy (1974), Astron. J. 79, 745.
        """
        kernel, weight = self, torch.where(data.valid, data.magnitude_scale.square(), 0.0)
        spectrum = torch.fft.rfftn(field.abs().square()).conj()
        possible = convolve(weight, spectrum, weight.ndim).clamp_min(FAINTEST)
        for _ in range(self.iterations):
            expected = expected_counts(field, kernel.apply_to(data)).clamp_min(FAINTEST)
            observed = convolve(weight * data.magnitude.square() / expected, spectrum, weight.ndim)
            values = kernel.values * (observed / possible).clamp_min(0)
            kernel = replace(kernel, values=values / values.sum())
        return kernel


def refine_coherence(
    data: Measurement,
    start: Batch,
    kernel: K,
    rounds: int = 20,
    steps: int = 20,
    is_over: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Batch, K]]:
    """Refine one crystal and the kernel in turn; yield both after every round.

    ``start`` is a batch of one crystal that is already phased.  Each round takes ``steps`` of descent on the crystal
    and one refinement of the kernel; at least one round is run.  ``is_over`` is asked after every step and ends the
    refinement when true.  ``kernel.apply_to(data)`` is the measurement with the refined kernel.
    """
    batch, has_time = start, True
    for _ in range(rounds):
        for batch in run(descent(steps), kernel.apply_to(data), batch):
            has_time = not is_over()
            if not has_time:
                break
        kernel = kernel.improve(reciprocal(batch.result, data.n_axes)[0], data)
        yield batch, kernel
        if not has_time:
            return


def coherence_lengths_m(widths_vox: Sequence[float], bq: ArrayLike) -> NDArray[np.float64]:
    """Return the coherence lengths along lab x, y and z [m] of a Gaussian kernel, infinite without blur.

    The degree of coherence of two points at a distance r along an axis is exp(-r^2 / (2 length^2)).

    Parameters
    ----------
    widths_vox
        Standard deviations of the kernel along the axes of the array [voxels of reciprocal space].
    bq
        Steps of the array in reciprocal space, lab coordinates, one per column [1/m].
    """
    widths = np.asarray(bq) * np.asarray(widths_vox)
    with np.errstate(divide="ignore"):
        result: NDArray[np.float64] = 1 / np.linalg.norm(widths, axis=1)
    return result


def free_kernel(like: Tensor, width_vox: float = 0.6, reach_vox: int = 3) -> FreeKernel:
    """Return a kernel of any shape to begin with: a Gaussian, zero beyond ``reach_vox`` along any axis [voxels]."""
    coherence = _gaussian(like, (width_vox,) * like.ndim)
    values = torch.fft.irfftn(coherence, s=like.shape).clamp_min(0)
    for axis, n in enumerate(like.shape):
        is_near = (torch.fft.fftfreq(n, 1 / n, device=like.device)).abs() <= reach_vox
        values = values * is_near.reshape([-1 if k == axis else 1 for k in range(like.ndim)])
    return FreeKernel(values=values / values.sum())


def _gaussian(like: Tensor, widths_vox: Sequence[float]) -> Tensor:
    return gaussian_transform(like.shape, widths_vox, like.dtype, str(like.device))


def _squared_frequencies(like: Tensor) -> list[Tensor]:
    """Return k^2 along each axis on the half spectrum [1/voxel^2]."""
    of_axis = [torch.fft.fftfreq] * (like.ndim - 1) + [torch.fft.rfftfreq]
    steps = [of(n, dtype=like.dtype, device=like.device) for of, n in zip(of_axis, like.shape, strict=True)]
    return [k.square() for k in torch.meshgrid(*steps, indexing="ij")]


def _by_variance(field: Tensor, model: Measurement) -> list[Tensor]:
    """Return the derivatives of the expected counts by the variance along each axis, ``(*shape)`` each."""
    spectrum = torch.fft.rfftn(field.abs().square())
    if model.coherence is not None:
        spectrum = spectrum * model.coherence
    slopes = [
        torch.fft.irfftn(-2 * math.pi**2 * k * spectrum, s=field.shape) for k in _squared_frequencies(model.magnitude)
    ]
    if model.frame_shifts is not None:
        slopes = [along_first(frame_matrix(model.frame_shifts), slope, model.n_axes) for slope in slopes]
    return [model.magnitude_scale.square() * slope for slope in slopes]
