"""Find the places of the frames of a scan whose angles were not measured, together with its crystal.

A motor does not stop at even steps.  The counts of a frame are those at its own place (`cdi_stream.phasing.frames`), so
a crystal tells where each frame lies.  Places and crystal are refined in turn.  A crystal that is not quite right
pretends scattered places as well; so they count only if voxels that were held out of both are explained better.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cdi_stream.phasing.deadline import Deadline
from cdi_stream.phasing.engine import Batch, run_to_end
from cdi_stream.phasing.frames import along_first, frame_slopes
from cdi_stream.phasing.projections import Measurement, counts_of, even_intensity, reciprocal
from cdi_stream.phasing.quality import free_llk
from cdi_stream.phasing.steps import descent
from cdi_stream.phasing.tuning import TUNING


def find_shifts(data: Measurement, held: Tensor, winner: Batch, deadline: Deadline) -> Tensor | None:
    """Return the distances of the frames from even steps ``(n_frames,)`` [steps]; None if even steps explain as much.

    Parameters
    ----------
    data
        The measurement with all voxels, its angles not measured.
    held
        Voxels that the winner was not fitted to, bool ``(*shape)``.
    winner
        A batch of one crystal.
    deadline
        Time limit; None is returned when it is over.
    """
    seen, batch = replace(data, valid=data.valid & ~held), winner
    even = free_llk(winner.result[0], data, held)[0]

    def explain(shifts: Tensor, share: float) -> bool:
        """Return whether these distances lower the free log-likelihood to this share of that of even steps."""
        return free_llk(batch.result[0], replace(data, frame_shifts=shifts), held)[0] < share * even

    shifts = improve_shifts(winner.result[0], seen)
    if not explain(shifts, TUNING.first_uneven_llk):
        return None
    for _ in range(TUNING.shift_rounds):
        seen = replace(seen, frame_shifts=shifts)
        batch = run_to_end(descent(TUNING.descent_per_shifts), seen, batch, is_over=deadline.is_over)
        shifts = improve_shifts(batch.result[0], seen)
    return shifts if explain(shifts, TUNING.uneven_llk) and not deadline.is_over() else None


def improve_shifts(crystal: Tensor, data: Measurement) -> Tensor:
    """Return the distances of the frames from even steps [steps] after one step of Fisher scoring.

    The step maximises the Poisson likelihood of the counts times a normal distribution of the distances, of the width
    `Measurement.shift_error_steps`.  The variance of a voxel is taken as lambda + 1, as for a coherence kernel.
    ``crystal`` is ``(*shape)`` in Fourier order.
    """
    n_axes, shifts = data.n_axes, data.frame_shifts
    shifts = data.magnitude.new_zeros(len(data.magnitude)) if shifts is None else shifts
    model = replace(data, frame_shifts=shifts)
    even = even_intensity(reciprocal(crystal, n_axes), model)
    expected = counts_of(even, model)
    slope = data.magnitude_scale.square() * along_first(frame_slopes(shifts), even, n_axes)
    weighted = torch.where(data.valid, slope, 0.0) / (expected + 1)
    information = (weighted * slope).flatten(1).sum(1) + data.shift_error_steps**-2
    uphill = (weighted * (data.magnitude.square() - expected)).flatten(1).sum(1) - shifts * data.shift_error_steps**-2
    return shifts + (uphill / information).clamp(-TUNING.largest_shift_step, TUNING.largest_shift_step)
