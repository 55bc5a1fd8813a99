"""The measurement of a search with the model that the search has found so far."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from cdi_stream.phasing.coherence import GaussianKernel
from cdi_stream.phasing.projections import Measurement
from cdi_stream.phasing.ranking import Solution, hold_out, with_model, without


class SearchModel:
    """The model that a search has found so far.

    ``measured`` is the measurement without alien peaks, ``data`` the same with the model, ``seen`` that without the
    held-out voxels ``held``.  ``kernel`` is the coherence kernel (None: coherent light), ``frame_shifts`` are the
    distances of the frames from even steps, where they were not measured (None: even), ``aliens`` the voxels of alien
    peaks (None: there are none).
    """

    def __init__(self, measured: Measurement, seed: int) -> None:
        self._seed = seed
        self.aliens: Tensor | None = None
        self._begin(measured)

    def _begin(self, measured: Measurement) -> None:
        self.measured = self.data = measured
        self.seen, self.held = hold_out(measured, self._seed)
        self.kernel: GaussianKernel | None = None
        self.frame_shifts: Tensor | None = None

    def take_kernel(self, kernel: GaussianKernel | None) -> None:
        """Use this coherence kernel from now on; None: coherent light."""
        self._take(kernel, self.frame_shifts)

    def take_shifts(self, frame_shifts: Tensor | None) -> None:
        """Use these places of the frames from now on; None: even steps."""
        self._take(self.kernel, frame_shifts)

    def leave_out(self, aliens: Tensor) -> None:
        """Forget the model, and leave out the voxels of alien peaks from now on."""
        self.aliens = aliens if self.aliens is None else aliens | self.aliens
        self._begin(without(self.measured, aliens))

    def part_of(self, solution: Solution) -> Solution:
        """Return a solution with the model that belongs to it."""
        return replace(solution, kernel=self.kernel, frame_shifts=self.frame_shifts, aliens=self.aliens)

    def _take(self, kernel: GaussianKernel | None, frame_shifts: Tensor | None) -> None:
        self.kernel, self.frame_shifts = kernel, frame_shifts
        self.data = with_model(self.measured, kernel, frame_shifts)
        self.seen = replace(self.data, valid=self.seen.valid)
