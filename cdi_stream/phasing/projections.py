"""Measurement, forward model and projections of iterative phase retrieval, for any number of axes.

Arrays in this package are in Fourier order (origin at voxel 0), so that no cycle shifts an array;
`cdi_stream.numerics.fourier` converts from and to the centred order.  The sign of the transform is that of the project:
``ifftn`` goes to reciprocal space.  A batch is ``(starts, *shape)``; a measurement is ``(*shape)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cdi_stream.phasing.blurred import CountsModel, power, scale_to_counts
from cdi_stream.phasing.convolution import convolve
from cdi_stream.phasing.frames import along_first, frame_matrix
from cdi_stream.phasing.kernels import Mix, mix, rescale

_TINY = 1e-12
"""Smallest divisor of a magnitude, in its own unit; avoids divisions by zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Measured magnitudes with their model, all in Fourier order and ``(*shape)``.

    The model of the counts is magnitude_scale^2 P (|F|^2 convolved with the coherence kernel) + background.  P takes
    intensities from even steps to the places of the frames.

    Parameters
    ----------
    magnitude
        Square root of the counts.
    magnitude_scale
        Square root of the expected scale: the factor of the modelled magnitude, for example of an attenuator.
    valid
        Voxels that were measured, bool; elsewhere the model keeps its own value.
    background
        Expected counts that do not come from the crystal; None for no background.
    coherence
        Transform of the coherence kernel on the half spectrum of ``rfftn``: Clark et al. (2012), Nat. Commun. 3, 993,
        doi:10.1038/ncomms1994; None for full coherence.
    frame_shifts
        Distance of each frame, along the first axis, from its even step [steps]; None for even steps.
    shift_error_steps
        Expected rms error of these distances [steps]; 0 where the angles were measured.
    """

    magnitude: Tensor
    magnitude_scale: Tensor
    valid: Tensor
    background: Tensor | None = None
    coherence: Tensor | None = None
    frame_shifts: Tensor | None = None
    shift_error_steps: float = 0.0

    @property
    def n_axes(self) -> int:
        """Number of Fourier axes."""
        return self.magnitude.ndim

    @property
    def target(self) -> Tensor:
        """Magnitudes that |F| should have; negative where |F| is free."""
        return torch.where(self.valid, self.magnitude / self.magnitude_scale.clamp_min(_TINY), -1.0)

    @property
    def is_plain(self) -> bool:
        """Whether the model of the counts is magnitude_scale^2 |F|^2."""
        return self.background is None and self.coherence is None and self.frame_shifts is None


def reciprocal(crystal: Tensor, n_axes: int) -> Tensor:
    """Return F(q) of crystals ``(..., *shape)``, both in Fourier order."""
    result: Tensor = torch.fft.ifftn(crystal, dim=tuple(range(-n_axes, 0)), norm="ortho")
    return result


def direct(field: Tensor, n_axes: int) -> Tensor:
    """Return the crystals of fields F(q) ``(..., *shape)``, both in Fourier order; inverse of `reciprocal`."""
    result: Tensor = torch.fft.fftn(field, dim=tuple(range(-n_axes, 0)), norm="ortho")
    return result


def expected_counts(field: Tensor, data: Measurement) -> Tensor:
    """Return the counts that the model predicts for fields F(q) ``(..., *shape)``; differentiable."""
    return counts_of(even_intensity(field, data), data)


def counts_of(intensity: Tensor, data: Measurement) -> Tensor:
    """Return the counts that the model predicts for intensities of `even_intensity` ``(..., *shape)``."""
    if data.frame_shifts is not None:
        intensity = along_first(frame_matrix(data.frame_shifts), intensity, data.n_axes).clamp_min(0)
    counts = data.magnitude_scale.square() * intensity
    return counts if data.background is None else counts + data.background


def even_intensity(field: Tensor, data: Measurement) -> Tensor:
    """Return |F|^2 of fields ``(..., *shape)`` at even steps, convolved with the coherence kernel; differentiable."""
    intensity = field.real.square() + field.imag.square()
    if data.coherence is None:
        return intensity
    least = kernel_centre(data.coherence, data.magnitude.shape[-1]) * intensity
    return torch.maximum(blur(intensity, data), least)  # rounding errors of the transform lie above it


def blur(intensity: Tensor, data: Measurement) -> Tensor:
    """Return intensities ``(..., *shape)`` convolved with the coherence kernel; as they are without kernel."""
    if data.coherence is None:
        return intensity
    return convolve(intensity, data.coherence, data.n_axes)


def kernel_centre(coherence: Tensor, length: int) -> Tensor:
    """Return the value of a coherence kernel at its centre: the mean of its transform over the whole spectrum.

    ``coherence`` is the half spectrum of `rfftn` of an array whose last axis has ``length`` voxels.
    """
    both, once = coherence.real.sum(), coherence[..., 0].real.sum()
    if length % 2 == 0:
        once = once + coherence[..., -1].real.sum()
    return (2 * both - once) / (coherence[..., 0].numel() * length)


def modelled_magnitude(crystal: Tensor, data: Measurement) -> Tensor:
    """Return the square root of the counts that the model predicts for crystals ``(..., *shape)``."""
    return expected_counts(reciprocal(crystal, data.n_axes), data).sqrt()


def likeliest_counts(crystal: Tensor, data: Measurement, where: Tensor) -> Tensor:
    """Return the counts that the model predicts for a crystal ``(*shape)``, in double precision.

    Their scale is the likeliest scale over the voxels ``where``: sum of the measured over sum of the predicted counts.
    """
    expected = expected_counts(reciprocal(crystal, data.n_axes), data).double()
    return expected * (data.magnitude[where].double().square().sum() / expected[where].sum().clamp_min(1e-30))


LEAST_BESIDE = 0.05
"""Smallest intensity of a frame beside its even step, relative to that at the step; limits the factor near minima."""


class CountsFromField:
    """The model of the counts of a measurement that is not plain, with its arrays ready for many cycles."""

    def __init__(self, data: Measurement) -> None:
        self._data, self.model = data, _counts_model(data)
        self._frames = None if data.frame_shifts is None else frame_matrix(data.frame_shifts)

    def intensity(self, field: Tensor) -> Tensor:
        """Return the intensities of fields ``(starts, *shape)``: blurred, and at the places of the frames."""
        intensity = blur(power(field), self._data)
        if self._frames is not None:
            intensity = along_first(self._frames, intensity, self._data.n_axes)
        return intensity.contiguous()

    def back(self, slope: Tensor) -> Tensor:
        """Return slopes by `intensity` as slopes by |F|^2: the transposed operations in reverse order."""
        if self._frames is not None:
            slope = along_first(self._frames.T, slope, self._data.n_axes)
        if self._data.coherence is not None:
            slope = convolve(slope, self._data.coherence.conj(), self._data.n_axes)
        return slope.contiguous()


class Projector:
    """Projection on the measured magnitudes: crystals get them, keep their phases, and stay as they are elsewhere.

    Fienup (1982), Appl. Opt. 21, 2758, doi:10.1364/AO.21.002758, extended by expected scale, background and partial
    coherence.
    """

    def __init__(self, data: Measurement) -> None:
        self._n_axes, self._target = data.n_axes, data.target.contiguous()
        self._counts = None if data.is_plain else CountsFromField(data)

    def __call__(self, crystal: Tensor) -> Tensor:
        """Return the projection of crystals ``(starts, *shape)``."""
        field = reciprocal(crystal, self._n_axes)
        if self._counts is None:
            rescale(field, self._target)
        else:
            scale_to_counts(field, self._counts.intensity(field), self._counts.model)
        return direct(field, self._n_axes)


def _counts_model(data: Measurement) -> CountsModel:
    magnitude = torch.where(data.valid, data.magnitude, -1.0)
    background = torch.zeros_like(magnitude) if data.background is None else data.background
    squared_scale = data.magnitude_scale.square().expand_as(magnitude).contiguous()
    centre = 1.0 if data.coherence is None else float(kernel_centre(data.coherence, magnitude.shape[-1]))
    if data.frame_shifts is not None:
        centre *= LEAST_BESIDE
    return CountsModel(
        magnitude=magnitude, squared_scale=squared_scale, background=background.contiguous(), least=centre
    )


def project_magnitude(crystal: Tensor, data: Measurement) -> Tensor:
    """Return the projection of one crystal ``(*shape)``, see `Projector`."""
    return Projector(data)(crystal[None].contiguous())[0]


def error_reduction(crystal: Tensor, projected: Tensor, support: Tensor) -> None:
    """Replace crystals by the projection inside the support and by zero outside: ER.

    Fienup (1982), Appl. Opt. 21, 2758, doi:10.1364/AO.21.002758.
    """
    mix(crystal, projected, support, Mix((0, 1), (0, 0)))


def hybrid_input_output(crystal: Tensor, projected: Tensor, support: Tensor, beta: float) -> None:
    """Replace crystals by the projection inside the support and by crystal - beta * projection outside: HIO.

    Fienup (1982), Appl. Opt. 21, 2758, doi:10.1364/AO.21.002758, equation 44.
    """
    mix(crystal, projected, support, Mix((0, 1), (1, -beta)))


def relaxed_reflections(crystal: Tensor, projected: Tensor, support: Tensor, beta: float) -> None:
    """Replace crystals by beta/2 (R_S R_M + 1) + (1 - beta) P_M of them: RAAR.

    Since the support is a mask, this is the projection inside the support and
    beta * crystal + (1 - 2 beta) * projection outside.  Luke (2005), Inverse Problems 21, 37,
    doi:10.1088/0266-5611/21/1/004, equation 1.5.
    """
    mix(crystal, projected, support, Mix((0, 1), (beta, 1 - 2 * beta)))


def difference_map(crystal: Tensor, project: Projector, support: Tensor, beta: float) -> None:
    """Replace crystals x by x + beta (P_S f_M(x) - P_M f_S(x)): the difference map.

    Here f_M = P_M + (P_M - 1)/beta and f_S = P_S - (P_S - 1)/beta.  A cycle takes two projections on the magnitudes,
    unless beta is 1: then f_S is the identity and the difference map is HIO.  Elser (2003),
    J. Opt. Soc. Am. A 20, 40, doi:10.1364/JOSAA.20.000040.
    """
    if beta == 1:
        hybrid_input_output(crystal, project(crystal), support, beta)
        return
    by_support = crystal.clone()
    mix(by_support, crystal, support, Mix((0, 1), (0, 1 / beta)))
    mix(crystal, project(crystal), support, Mix((0, 1 + beta), (1, 0)))
    crystal.sub_(project(by_support), alpha=beta)
