"""Error reduction with momentum (AER): descent of the amplitude loss on the voxels inside the support.

A step is the gradient inside the support over 2 max(magnitude_scale^2), the longest step that certainly lowers the
loss: the loss lies below a paraboloid of that curvature, since sqrt(expected counts) is convex in the field.  Where the
magnitude scale is the same for all voxels, a step is a cycle of error reduction.  The momentum k / (k + 3) is that of
Nesterov (1983), Dokl. Akad. Nauk SSSR 269, 543, in the form of Beck and Teboulle (2009), SIAM J. Imaging Sci. 2, 183,
doi:10.1137/080716542.  It is set to zero where it points uphill: O'Donoghue and Candes (2015), Found. Comput. Math. 15,
715, doi:10.1007/s10208-013-9150-3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cdi_stream.phasing.blurred import FAINTEST, slope_by_intensity
from cdi_stream.phasing.kernels import multiply
from cdi_stream.phasing.projections import CountsFromField, Measurement, Projector, direct, reciprocal

Descend = Callable[[Tensor], Tensor]
"""Returns crystals ``(starts, *shape)`` after one step down the amplitude loss, regardless of the support."""


class Momentum:
    """Descent with momentum of crystals ``(starts, *shape)`` in supports; the starts are independent.

    ``crystal`` becomes zero outside of ``support``.
    """

    def __init__(self, descend: Descend, crystal: Tensor, support: Tensor) -> None:
        self._descend, self._extrapolation = descend, crystal.clone()
        self._age = torch.zeros(len(support), device=crystal.device)
        self.confine(crystal, support)

    def confine(self, crystal: Tensor, support: Tensor) -> None:
        """Go on in other supports: the momentum of the voxels that stay inside stays.

        ``crystal`` is the array of the last step; it becomes zero outside of ``support``.
        """
        crystal *= support
        self._extrapolation *= support
        self._inside = _Inside(support)
        self._values = self._inside.take(crystal)

    def step(self, crystal: Tensor) -> None:
        """Take one step; ``crystal`` is the array of the last step, and is overwritten."""
        inside = self._inside
        lower = inside.take(self._descend(self._extrapolation))
        change = lower - self._values
        is_uphill = inside.inner(inside.take(self._extrapolation) - lower, change) > 0
        self._age = torch.where(is_uphill, 0.0, self._age + 1)
        inside.put(lower, crystal)
        inside.put(lower + inside.per_voxel(self._age / (self._age + 3)) * change, self._extrapolation)
        self._values = lower


def descent_of(data: Measurement, project: Projector) -> Descend:
    """Return the step down the amplitude loss of a measurement; ``project`` is the projection on its magnitudes."""
    strongest = torch.where(data.valid, data.magnitude_scale, 0.0).square().amax().clamp_min(FAINTEST)
    is_pointwise = data.coherence is None and data.frame_shifts is None
    if is_pointwise and bool((data.magnitude_scale[data.valid].square() == strongest).all()):
        return project

    counts = CountsFromField(data)

    def descend(crystal: Tensor) -> Tensor:
        """Return the crystals after one step: the gradient is twice the slope by |F|^2 times the field."""
        field = reciprocal(crystal, data.n_axes)
        slope = counts.intensity(field)
        slope_by_intensity(field, slope, counts.model)
        multiply(field, counts.back(slope).div_(-strongest).add_(1))
        return direct(field, data.n_axes)

    return descend


class _Inside:
    """The voxels inside the supports of a batch, one after the other: a few percent of the array."""

    def __init__(self, support: Tensor) -> None:
        self._index = support.flatten().nonzero()[:, 0]
        self._start = self._index // support[0].numel()
        self._n_starts = len(support)

    def take(self, crystals: Tensor) -> Tensor:
        """Return the values ``(n,)`` of crystals ``(starts, *shape)`` at these voxels."""
        return crystals.reshape(-1)[self._index]

    def put(self, values: Tensor, crystals: Tensor) -> None:
        """Set the values of crystals ``(starts, *shape)`` at these voxels."""
        crystals.view(-1)[self._index] = values

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return Re <a, b> of each start, ``(starts,)``."""
        product = a.real * b.real + a.imag * b.imag
        return product.new_zeros(self._n_starts).index_add_(0, self._start, product)

    def per_voxel(self, of_start: Tensor) -> Tensor:
        """Return a value of each start at its voxels."""
        return of_start[self._start]
