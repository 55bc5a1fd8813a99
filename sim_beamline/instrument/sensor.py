"""Sensor of the simulated detector: counting noise, gaps, dead and hot pixels, aliens, and the count-rate cut-off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MASKED = 2**32 - 1
"""Value of pixels without a reading: the largest of the data type, as DECTRIS detectors send it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorModel:
    """Imperfections of the sensor; each is off by default.

    Parameters
    ----------
    gap_column
        First of two columns without readings; None: no gap.
    n_dead, n_hot
        Numbers of dead pixels, which the mask of the detector names, and of hot pixels, which no mask names.
    aliens_per_frame
        Mean number of frames' bright spots from other crystals or cosmic rays.
    cutoff_counts
        Counts above which a pixel has no reading; None: no limit.
    """

    gap_column: int | None = None
    n_dead: int = 0
    n_hot: int = 0
    aliens_per_frame: float = 0.0
    cutoff_counts: int | None = None


class Sensor:
    """Converts expected counts to counts.

    ``mask`` ``(rows, cols)`` is true where a pixel may be used.
    """

    def __init__(self, shape: tuple[int, int], model: SensorModel, rng: np.random.Generator) -> None:
        self._model = model
        self._rng = rng
        self._dead = self._pixels(shape, model.n_dead)
        self._hot = self._pixels(shape, model.n_hot)
        self._is_gap = np.zeros(shape, dtype=bool)
        if model.gap_column is not None:
            self._is_gap[:, model.gap_column : model.gap_column + 2] = True
        self.mask = ~self._is_gap
        self.mask[self._dead] = False

    def counts(self, expected: NDArray[np.float64]) -> NDArray[np.uint32]:
        """Return the counts of one frame ``(rows, cols)`` from the expected counts."""
        counts = self._rng.poisson(expected).astype(np.int64)
        for _ in range(self._rng.poisson(self._model.aliens_per_frame)):
            row, col = (int(self._rng.integers(1, n - 1)) for n in expected.shape)
            counts[row - 1 : row + 2, col - 1 : col + 2] += self._rng.poisson(expected.max() / 2 + 50, (3, 3))
        counts[self._hot] += self._rng.poisson(400, len(self._hot[0]))
        counts[self._dead] = 0
        if self._model.cutoff_counts is not None:
            counts[counts > self._model.cutoff_counts] = MASKED
        counts[self._is_gap] = MASKED
        return counts.astype(np.uint32)

    def _pixels(self, shape: tuple[int, int], n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self._rng.integers(0, shape[0], n), self._rng.integers(0, shape[1], n)
