"""Bring the middle of the counts to the origin before a search, and take the crystal back afterwards.

The grids of a search are cut about the origin, which is the Bragg peak: its brightest voxel.  The brightest voxel of a
strongly strained crystal lies beside the middle of its diffraction, so that a grid cuts more on one side than on the
other.  A shift of the counts by whole voxels is a phase ramp on the crystal and changes nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cdi_stream.phasing.autocorrelation import intensities
from cdi_stream.phasing.engine import Batch
from cdi_stream.phasing.position import phase_ramp
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.pyramid import coarsest_shape, marginal
from cdi_stream.phasing.tuning import TUNING


@dataclass(frozen=True, slots=True)
class Middle:
    """The voxel that a search takes as the origin ``shift``, counted from the Bragg peak along each axis [voxels]."""

    shift: tuple[int, ...]

    @property
    def is_origin(self) -> bool:
        """Whether the origin stays where it is."""
        return not any(self.shift)

    def at_origin(self, data: Measurement) -> Measurement:
        """Return a measurement whose voxel ``shift`` is brought to the origin."""
        if self.is_origin:
            return data
        frames = data.frame_shifts
        return replace(
            data,
            magnitude=self._roll(data.magnitude),
            magnitude_scale=self._roll(data.magnitude_scale),
            valid=self._roll(data.valid),
            background=None if data.background is None else self._roll(data.background),
            frame_shifts=None if frames is None else torch.roll(frames, -self.shift[0]),
        )

    def with_ramp(self, known: Batch) -> Batch:
        """Return crystals as they belong to `at_origin`."""
        return known if self.is_origin else replace(known, crystal=known.crystal * self._ramp(known.crystal))

    def without_ramp(self, crystals: Tensor) -> Tensor:
        """Return crystals ``(..., *shape)`` of `at_origin` as they belong to the measurement before the shift."""
        return crystals if self.is_origin else crystals * self._ramp(crystals).conj()

    def back(self, voxels: Tensor | None) -> Tensor | None:
        """Return values at voxels, or at frames, of `at_origin` where they were before the shift."""
        if voxels is None or self.is_origin:
            return voxels
        n_axes = voxels.ndim
        return torch.roll(voxels, self.shift[:n_axes], tuple(range(n_axes)))

    def _roll(self, array: Tensor) -> Tensor:
        return torch.roll(array, [-s for s in self.shift], tuple(range(len(self.shift))))

    def _ramp(self, crystals: Tensor) -> Tensor:
        """Return exp(i q.r) of the shift q at the voxels r of crystals ``(..., *shape)``, in Fourier order."""
        return phase_ramp(crystals.shape[-len(self.shift) :], self.shift, crystals.device)


def origin_for(data: Measurement) -> Middle:
    """Return the middle of the counts as the origin of a search, if its coarsest grid becomes clearly smaller by that.

    Else the origin stays at the Bragg peak.
    """
    middle = middle_of(data)
    if middle.is_origin:
        return middle
    before, after = (math.prod(coarsest_shape(one)) for one in (data, middle.at_origin(data)))
    return middle if after < TUNING.smaller_grid * before else Middle((0,) * data.n_axes)


def middle_of(data: Measurement) -> Middle:
    """Return the middle of the counts: of the shortest range of each axis that holds most of the counts."""
    intensity = intensities(data)
    return Middle(tuple(_middle_along(marginal(intensity, axis).tolist()) for axis in range(intensity.ndim)))


def _middle_along(heights: Sequence[float]) -> int:
    """Return the middle of the shortest range that holds the share of all counts, counted from the origin at n//2."""
    n, total, first, held = len(heights), sum(heights), 0, 0.0
    if not total > 0:
        return 0
    best = (n + 1, 0)
    for last, height in enumerate(heights):
        held += height
        while held - heights[first] >= TUNING.counts_about_middle * total:
            held -= heights[first]
            first += 1
        if held >= TUNING.counts_about_middle * total:
            best = min(best, (last - first + 1, first))
    return best[1] + best[0] // 2 - n // 2
